"""The published values, written out once more, and every config's tiny variant for one update."""

import pytest

from tests import runs
from tests.parallel.test_rules import CONFIGS, load

BASE = {"data.max_crop_samples": 250_000, "data.normalize": False, "data.min_samples": 32_000,
        "model.encoder_norm": "group", "model.pre_norm": False, "model.conv_bias": False,
        "model.layers": 12, "model.dim": 768, "model.ffn": 3072, "model.heads": 12,
        "model.code_dim": 256, "model.final_dim": 256, "model.feature_grad_scale": 0.1,
        "model.dropout": 0.1, "model.attention_dropout": 0.1, "model.activation_dropout": 0.0,
        "model.dropout_input": 0.1, "model.dropout_features": 0.1, "model.layerdrop": 0.05,
        "objective.gumbel_floor": 0.5, "objective.feature_penalty_weight": 10.0}  # fmt: skip
LARGE = {"data.max_crop_samples": 320_000, "data.normalize": True, "data.min_samples": 32_000,
         "model.encoder_norm": "layer", "model.pre_norm": True, "model.conv_bias": True,
         "model.layers": 24, "model.dim": 1024, "model.ffn": 4096, "model.heads": 16,
         "model.code_dim": 768, "model.final_dim": 768, "model.feature_grad_scale": 1.0,
         "model.layerdrop": 0.0, "model.dropout": 0.1, "objective.gumbel_floor": 0.1,
         "objective.feature_penalty_weight": 0.0}  # fmt: skip
ALL = {"objective.mask_prob": 0.65, "objective.mask_length": 10, "objective.distractors": 100,
       "objective.temperature": 0.1, "objective.gumbel_start": 2.0,
       "objective.gumbel_decay": 0.999995,
       "objective.diversity_weight": 0.1, "objective.diversity": "perplexity", "model.groups": 2,
       "model.codewords": 320, "model.position_kernel": 128, "model.position_groups": 16,
       "optimizer.beta1": 0.9, "optimizer.beta2": 0.98, "optimizer.epsilon": 1e-6,
       "optimizer.weight_decay": 0.01, "optimizer.clip_norm": 0.0, "warm_start.updates": 0,
       "training.accumulation": 1, "model.gelu": "exact"}  # fmt: skip


def run(updates, warmup, peak, gpus, gpu_samples, alpha):
    return {"training.updates": updates, "optimizer.warmup_share": warmup,
            "optimizer.peak_lr": peak,
            "objective.diversity_groups": gpus, "data.batch_seconds": gpus * gpu_samples / 16_000,
            "data.alpha": alpha}  # fmt: skip


PUBLISHED = {
    "xlsr10_base": BASE | run(250_000, 0.1, 5e-4, 64, 1.4e6, 0.5),
    "xlsr10_base_unbalanced": BASE | run(250_000, 0.1, 5e-4, 64, 1.4e6, 1.0),
    "xlsr10_large": LARGE | run(250_000, 0.1, 1e-3, 64, 1.2e6, 0.5),
    "xlsr_english": BASE | run(250_000, 0.1, 5e-4, 64, 1.4e6, 0.5) | {"data.languages": ("en",)},
    "xlsr_monolingual": BASE | run(250_000, 0.1, 5e-4, 16, 1.4e6, 0.5),
    "babel10_base": BASE | run(250_000, 0.1, 5e-4, 64, 1.4e6, 1.0),
    "babel10_large": LARGE | run(250_000, 0.1, 1e-3, 64, 1.2e6, 1.0),
    "xlsr53_large": LARGE
    | run(1_000_000, 0.032, 1e-3, 64, 1.2e6, 0.5)
    | {"model.dropout": 0.0, "model.attention_dropout": 0.0},
    "wav2vec2_base_librispeech": BASE | run(400_000, 0.08, 5e-4, 64, 1.4e6, 1.0),
    "wav2vec2_large_librivox": LARGE
    | run(1_000_000, 0.032, 5e-3, 128, 1.2e6, 1.0)
    | {"model.dropout": 0.0, "model.dropout_input": 0.0, "model.dropout_features": 0.0},
}
PAPER = {
    "xlsr10_base": {"model.heads": 8, "optimizer.peak_lr": 1e-5, "objective.diversity": "entropy"},
    "babel10_base": {"model.heads": 8, "optimizer.peak_lr": 1e-5},
    "xlsr53_large": {"model.dropout": 0.1, "training.updates": 250_000, "optimizer.peak_lr": 1e-3},
    "wav2vec2_base_librispeech": {"model.heads": 8, "optimizer.peak_lr": 5e-4},
    "wav2vec2_large_librivox": {"training.updates": 600_000, "optimizer.peak_lr": 3e-4,
                                "model.dropout": 0.1, "objective.feature_penalty_weight": 0.0},
}  # fmt: skip


def check(config, expected):
    for name, value in expected.items():
        group, key = name.split(".")
        found = getattr(getattr(config, group), key)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name):
    path = next(path for path in CONFIGS if path.stem == name)
    check(load(path), ALL | PUBLISHED[name])


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_text_where_the_code_differs(name):
    check(load(next(path for path in CONFIGS if path.stem == name), "paper"), PAPER[name])


def test_no_config_is_left_out():
    assert {path.stem for path in CONFIGS} == PUBLISHED.keys() | {"quickstart", "quickstart_finetune"}


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_the_tiny_variant_runs(name, tmp_path, tiny_corpus):
    runs.train(
        tmp_path / "run",
        tiny_corpus,
        "--config.training.updates=1",
        "--config.data.buckets=1",
        config=name,
    )
    figure = "error_rate" if "finetune" in name else "contrastive_loss"
    assert len(runs.figures(tmp_path / "run", figure, "eval")) == 1
