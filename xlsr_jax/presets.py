"""The published recipes that several config files share, and their small variants.

Sources: W2V = wav2vec 2.0 (arXiv 2006.11477) and its released configs
``examples/wav2vec/config/pretraining/*.yaml``; XLSR = arXiv 2006.13979, section 3.2.
"""

from ml_collections import ConfigDict

from xlsr_jax import config as configuration

GPU_SECONDS_BASE = 1_400_000 / 16_000  # W2V, XLSR: up to 1.4 M samples a GPU
GPU_SECONDS_LARGE = 1_200_000 / 16_000  # W2V, XLSR: up to 1.2 M samples a GPU


def base(name: str) -> ConfigDict:
    """wav2vec 2.0 Base as released: raw waveform, group norm, post-norm, 95 M parameters."""
    config = configuration.default(name)
    config.data.normalize = False
    config.data.max_crop_samples = 250_000
    config.data.batch_seconds = 64 * GPU_SECONDS_BASE
    config.objective.diversity_groups = 64
    return config


def large(name: str) -> ConfigDict:
    """wav2vec 2.0 Large for normalised audio: layer norm, pre-norm, 317 M parameters."""
    config = configuration.default(name)
    config.data.normalize = True
    config.data.max_crop_samples = 320_000
    config.data.batch_seconds = 64 * GPU_SECONDS_LARGE
    config.objective.diversity_groups = 64
    model = config.model
    model.encoder_norm, model.conv_bias, model.pre_norm = "layer", True, True
    model.layers, model.dim, model.heads, model.ffn = 24, 1024, 16, 4096
    model.code_dim = model.final_dim = 768
    model.feature_grad_scale = 1.0
    model.layerdrop = 0.0
    model.remat = "layer"
    config.objective.gumbel_floor = 0.1
    config.objective.feature_penalty_weight = 0.0
    return config


def xlsr(config: ConfigDict) -> ConfigDict:
    """XLSR section 3.2: 250 k updates, the first 10 % warm up, bf16 compute, 64 GPUs.

    The paper prints 1e-5 as Base's peak rate; UniSpeech's re-run of the recipe gives 5e-4.
    """
    config.training.updates = 250_000
    config.optimizer.warmup_share = 0.1
    config.optimizer.peak_lr = 1e-3 if config.model.encoder_norm == "layer" else 5e-4
    config.model.dtype = "bfloat16"
    return config


def few_gpus(config: ConfigDict, gpus: int) -> ConfigDict:
    """The same recipe on fewer GPUs' worth of audio an update (XLSR: 16 for monolingual runs)."""
    config.data.batch_seconds *= gpus / config.objective.diversity_groups
    config.objective.diversity_groups = gpus
    return config


def finetune(name: str, flavour: str) -> ConfigDict:
    """Fine-tuning as released, for a "base" or "large" model: an hour of labels.

    W2V section 4.3 and Table 6, ``examples/wav2vec/config/finetuning/{base_1h,vox_1h}.yaml``.
    """
    config = configuration.default(name, "finetune")
    pretrained = {"base": base, "large": large}[flavour](name)
    config.model.update(pretrained.model)
    config.data.normalize = pretrained.data.normalize
    config.data.alpha = 1.0  # XLSR section 3.2: labels of all languages pooled as they are
    config.data.min_samples, config.data.max_crop_samples = 400, 1_280_000
    config.data.eval_seconds = 0.0
    model, objective = config.model, config.objective
    model.dropout = model.attention_dropout = model.dropout_input = 0.0
    model.activation_dropout, model.layerdrop = 0.1, 0.1
    model.feature_grad_scale = 0.0
    settings = config.optimizer
    settings.epsilon, settings.weight_decay = 1e-8, 0.0
    settings.schedule, settings.warmup_share, settings.hold_share = "tri_stage", 0.1, 0.4
    training = config.training
    training.updates = 13_000
    training.eval_every = training.save_every = 1_000
    if flavour == "large":
        objective.mask_prob = 0.75
        settings.peak_lr = 3e-4
        config.data.batch_seconds = 1_600.0  # 4 GPUs x 5 x 1.28 M samples
    else:
        settings.peak_lr = 5e-5
        config.data.batch_seconds = 1_600.0  # 2 GPUs x 4 x 3.2 M samples
    return config


def quickstart_model(config: ConfigDict) -> ConfigDict:
    """The quickstart's network: the Large's flavour at 1.9 M parameters, no dropout."""
    model = config.model
    model.conv_dims = (32, 48, 64, 96, 128, 128, 128)
    model.gelu = "tanh"
    model.layers, model.dim, model.heads, model.ffn = 3, 192, 4, 768
    model.position_kernel, model.position_groups = 64, 8
    model.codewords, model.code_dim, model.final_dim = 40, 128, 128
    model.dropout = model.attention_dropout = model.activation_dropout = 0.0
    model.dropout_input = model.dropout_features = model.layerdrop = 0.0
    model.remat = "none"
    return config


def variant(config: ConfigDict, name: str) -> ConfigDict:
    """ "": as it stands; "paper": what the paper's text says where the code differs; "tiny".

    Raises:
      ValueError: for another name.
    """
    if name == "paper":
        return _paper(config)
    if name == "tiny":
        return _tiny(config)
    if name:
        raise ValueError(f"unknown variant {name!r}; there are paper and tiny")
    return config


def _paper(config: ConfigDict) -> ConfigDict:
    if config.method == "finetune":
        config.optimizer.schedule, config.optimizer.final_scale = "tri_stage_linear", 0.0
        return config
    config.objective.diversity = "entropy"
    config.objective.feature_penalty_weight = 10.0  # XLSR section 2.1; W2V: for LibriSpeech only
    if config.model.encoder_norm == "group":
        config.model.heads = 8  # the released weights were trained with 12
    if config.name.startswith(("xlsr", "babel")):
        model = config.model
        model.dropout = model.attention_dropout = 0.1
        model.dropout_input = model.dropout_features = 0.1
        config.training.updates, config.optimizer.warmup_share = 250_000, 0.1
        config.optimizer.peak_lr = 1e-5 if model.encoder_norm == "group" else 1e-3
    return config


def _tiny(config: ConfigDict) -> ConfigDict:
    """The same flavour and recipe, small enough for a test: 8 updates on the demonstration data."""
    config.name += "_tiny"
    config.data.path = "corpora/spoken_text_tiny"
    config.corpus.make, config.corpus.hours = "spoken_text", 0.05
    config.data.languages = ()
    config.data.batch_seconds, config.data.max_crop_samples = 16.0, 32_000
    config.data.min_samples, config.data.eval_seconds = 8_000, 4.0
    config.data.buckets = 2
    if config.method == "finetune":
        config.data.batch_seconds, config.data.max_crop_samples = 48.0, 400_000
        config.data.min_samples, config.data.label_seconds = 400, 20.0
        config.objective.freeze_updates = min(4, config.objective.freeze_updates)
    else:
        config.objective.diversity_groups = 2
        config.objective.distractors = 10
    model = config.model
    model.conv_dims = (32,) * 7
    model.layers, model.dim, model.heads, model.ffn = 2, 32, 4, 64
    model.position_kernel, model.position_groups = 16, 4
    model.codewords, model.code_dim, model.final_dim = 16, 16, 16
    model.dtype = "float32"
    training = config.training
    training.updates, training.log_every = 8, 4
    training.eval_every = training.save_every = 8
    return config
