"""Checkpoints of other libraries, tiny and random, for the tests of importing."""

import argparse
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xlsr_jax import config as configuration
from xlsr_jax.models.unispeech import UniSpeech
from xlsr_jax.models.wav2vec2 import Wav2Vec2
from xlsr_jax.objectives.finetune import FinetuneObjective

ROWS, SAMPLES, CLASSES = 2, 1_600, 8
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "'")
BASE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "conv_dim": [8, 12, 8], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 2,
    "codevector_dim": 12, "proj_codevector_dim": 10, "num_codevectors_per_group": 5,
    "num_codevector_groups": 2, "vocab_size": CLASSES, "num_ctc_classes": CLASSES,
    "num_negatives": 4, "mask_time_prob": 0.3, "pad_token_id": 0, "layerdrop": 0.0,
}  # fmt: skip
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
FLAVOURS = {"base": BASE, "large": BASE | LARGE}


def torch_model(architecture: str, values: dict, seed: int = 0):
    """A transformers model in which no norm is the identity and no bias zero."""
    torch = pytest.importorskip("torch", reason="pip install -e '.[reference]'")
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[reference]'")
    torch.manual_seed(seed)
    kind = "UniSpeechConfig" if architecture.startswith("UniSpeech") else "Wav2Vec2Config"
    config = getattr(transformers, kind)(**values)
    config._attn_implementation = "eager"
    model = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save(model, folder: Path, normalize: bool | None = None, letters: tuple[str, ...] = ()) -> None:
    """What the hub has of a model."""
    model.save_pretrained(folder)
    if normalize is not None:
        about = {"do_normalize": normalize, "sampling_rate": 16_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(about))
    if letters:
        numbers = {letter: number for number, letter in enumerate(letters)}
        (folder / "vocab.json").write_text(json.dumps(numbers))


def state_of(model) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def fairseq_names(state: dict[str, np.ndarray], layer_norm: bool) -> dict[str, np.ndarray]:
    """The same tensors under fairseq's names, written from its documented layout."""
    norm = "2.1" if layer_norm else "2"
    renames = [
        (r"^(wav2vec2|unispeech)\.", ""),
        (r"^masked_spec_embed$", "mask_emb"),
        (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
        (r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", rf"\1.{norm}."),
        (r"^feature_projection\.layer_norm\.", "layer_norm."),
        (r"^feature_projection\.projection\.", "post_extract_proj."),
        (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
        (r"parametrizations\.weight\.original0$", "weight_g"),
        (r"parametrizations\.weight\.original1$", "weight_v"),
        (r"^(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
        (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
        (r"feed_forward\.intermediate_dense", "fc1"),
        (r"feed_forward\.output_dense", "fc2"),
        (r"^quantizer\.codevectors$", "quantizer.vars"),
        (r"^project_hid\.", "final_proj."),
    ]
    named = {}
    for name, value in state.items():
        head = re.sub(r"^(lm_head|ctc_proj)\.", "w2v_encoder.proj.", name)
        for pattern, theirs in renames:
            name = re.sub(pattern, theirs, name)
        named[head if head.startswith("w2v_encoder") else name] = value
    if any(name.startswith("w2v_encoder") for name in named):
        whole = "w2v_encoder.w2v_model."
        named = {k if k.startswith("w2v_encoder") else whole + k: v for k, v in named.items()}
    return named


def fairseq_args(values: dict, **more) -> argparse.Namespace:
    """The configuration of training of ``values``."""
    triples = zip(values["conv_dim"], values["conv_kernel"], values["conv_stride"], strict=True)
    spec = " + ".join(f"[({c}, {k}, {s})]" for c, k, s in triples)
    large = values.get("feat_extract_norm") == "layer"
    settings = {
        "arch": "wav2vec2", "extractor_mode": "layer_norm" if large else "default",
        "conv_bias": values.get("conv_bias", False), "conv_feature_layers": spec,
        "layer_norm_first": values.get("do_stable_layer_norm", False),
        "encoder_layers": values["num_hidden_layers"],
        "encoder_embed_dim": values["hidden_size"],
        "encoder_ffn_embed_dim": values["intermediate_size"],
        "encoder_attention_heads": values["num_attention_heads"],
        "conv_pos": values["num_conv_pos_embeddings"],
        "conv_pos_groups": values["num_conv_pos_embedding_groups"],
        "latent_vars": values["num_codevectors_per_group"],
        "latent_groups": values["num_codevector_groups"], "latent_dim": values["codevector_dim"],
        "final_dim": values["proj_codevector_dim"], "num_negatives": values["num_negatives"],
        "latent_temp": "(2,0.1,0.999995)", "normalize": large, "quantize_targets": True,
    }  # fmt: skip
    return argparse.Namespace(**settings | more)


def save_fairseq(path: Path, named: dict[str, np.ndarray], old: bool = False, **document) -> None:
    import torch

    state = {name: torch.tensor(value) for name, value in named.items()}
    whole = {"model": state, "optimizer_history": [{"num_updates": 77}]} | document
    torch.save(whole, path, _use_new_zipfile_serialization=not old)


def waveform(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (ROWS, SAMPLES)).astype(np.float32)


def ours(params: dict, about: dict) -> dict[str, np.ndarray]:
    """What a run computes of ``waveform()``: hidden states, vectors, logits, by their names."""
    config = configuration.resolve(configuration.from_saved(about["config"]))
    model, samples = config.model, np.full(ROWS, SAMPLES, np.int32)
    frames = int(model.frames(SAMPLES))
    network = Wav2Vec2(model)
    found = {}
    if config.method == "unispeech":
        network = UniSpeech(model, classes=params["ctc_output"]["bias"].size)
        network_logits = jax.jit(functools.partial(network.apply, method=UniSpeech.transcribe))
        found["logits"] = network_logits({"params": params}, waveform(), samples)
    if config.method == "finetune":
        objective = FinetuneObjective(model, config.objective, params["output"]["bias"].size)
        batch = {"waveform": waveform(), "samples": samples}
        found["logits"], _ = jax.jit(objective.logits)(params, batch)
        return found
    everything = jnp.broadcast_to(jnp.arange(frames), (ROWS, frames))
    none = jnp.zeros((ROWS, frames), bool)
    out = jax.jit(network.apply)({"params": params}, waveform(), samples, none, everything)
    found |= {"contexts": out.contexts, "targets": out.targets, "last": out.last}
    return found | {f"hidden/{i}": hidden for i, hidden in enumerate(out.hidden)}


def theirs(model) -> dict[str, np.ndarray]:
    """The same of a transformers model."""
    import torch

    with torch.no_grad():
        out = model(torch.tensor(waveform()), output_hidden_states=True)
        found = {f"hidden/{i}": x for i, x in enumerate(out.hidden_states[:-1])}
        if "logits" in out:
            found["logits"] = out.logits
        elif "projected_states" in out:
            found |= {"contexts": out.projected_states, "targets": out.projected_quantized_states}
        if hasattr(model, "ctc_proj"):
            found["logits"] = model.ctc_proj(out.projected_states)
    return {name: value.numpy() for name, value in found.items()}


def assert_close(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    """All that both have agree, to a share of each array's largest value."""
    both = found.keys() & expected.keys()
    assert both & {"logits", "contexts", "hidden/0"}
    for name in both:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name
        )
