"""The training command: what it leaves, and one clear line for what it cannot do."""

import json
import shutil

import numpy as np
import pytest

from tests import runs
from xlsr_jax.data.records import Manifest


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_corpus):
    workdir = tmp_path_factory.mktemp("train") / "run"
    flags = ("--config.warm_start.updates=4", "--config.training.log_every=2")
    runs.train(workdir, tiny_corpus, *flags)
    return workdir


def test_what_a_run_leaves(finished):
    left = {path.name for path in finished.iterdir()}
    assert left == {"checkpoints", "config.json", "curves.png", "log.jsonl", "tensorboard"}
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (finished / "tensorboard").iterdir()][0].startswith("events")
    config = json.loads((finished / "config.json").read_text())
    assert config["warm_start"]["updates"] == 4 and config["name"] == "xlsr10_base_tiny"


def test_what_the_log_tells(finished):
    lines = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [2, 4, 6, 8, 10, 12]
    assert {"r2", "loss"} <= train[0].keys() and "contrastive_loss" not in train[0]
    last = train[-1]
    for name in (
        "contrastive_loss",
        "accuracy",
        "code_perplexity",
        "prob_perplexity",
        "code_pairs",
        "distractor_equal",
        "grad_norm",
        "param_norm",
        "loss/en",
        "accuracy/en",
        "audio_share/en",
        "audio_seconds_per_second",
        "audio_hours_per_update",
        "data_wait_share",
        "learning_rate",
        "temperature",
        "skipped_updates",
    ):
        assert name in last, name
    assert 0.9 * np.log(11) < last["chance_loss"] <= np.log(11), "log(K + 1) less the equal codes"
    assert last["chance_accuracy"] >= 1 / 11
    assert last["audio_hours_per_update"] == pytest.approx(
        last["audio_seconds"] / 2 / 3600, rel=1e-3
    )
    shares = [value for name, value in last.items() if name.startswith("audio_share/")]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    held_out = [line for line in lines if line["kind"] == "eval"]
    assert held_out[-1]["step"] == 12 and held_out[-1]["audio_seconds"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config.optimiser.peak_lr=1",), "optimiser"),
        (("--config.optimizer.peak_rl=1",), "peak_rl"),
        (("--config.training.updates=many",), "--config.training.updates=many"),
        (("--config.optimizer.peak_lr=-1.0",), "config.optimizer.peak_lr must be at least 0"),
        (("--config.data.languages=es,xx",), "xx"),
        (
            ("--config.data.max_crop_samples=399",),
            "config.data.max_crop_samples must be at least 400",
        ),
        (("--config.data.batch_seconds=2.0", "--config.objective.diversity_groups=64"), "64"),
        (("--config.training.accumulation=3",), "config.objective.diversity_groups=3"),
        (("--config.mesh.tensor=3",), "config.mesh"),
        (("--config.model.heads=5",), "model.heads 5"),
        (("--config.data.eval_split=validation",), "'validation'"),
        (("--config=configs/none.py",), "none.py"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, tiny_corpus, flags, words):
    line = runs.fails(tmp_path / "run", tiny_corpus, *flags)
    assert words in line and len(line) < 400, line
    assert not (tmp_path / "run" / "checkpoints").exists(), "nothing is begun before all is checked"


@pytest.mark.parametrize(
    "flag",
    [
        "--config.model.ffn=128",
        "--config.model.heads=2",
        "--config.data.normalize=true",
        "--config.warm_start.bands=20",
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_kept(finished, tmp_path, tiny_corpus, flag):
    workdir = shutil.copytree(finished, tmp_path / "run")
    line = runs.fails(workdir, tiny_corpus, "--config.warm_start.updates=4", flag)
    assert "is of another model" in line and "--workdir" in line
    runs.assert_same(runs.parameters(finished), runs.parameters(workdir), tolerance=0)


@pytest.mark.parametrize("largest_file", [1_000, 20_000], ids=["log", "checkpoint"])
def test_a_full_disk_is_told_and_loses_nothing(tmp_path, tiny_corpus, largest_file):
    workdir = tmp_path / "run"
    runs.train(workdir, tiny_corpus, "--config.training.updates=2", "--config.training.log_every=1")
    before = runs.parameters(workdir, 2)
    more = ("--config.training.updates=4", "--config.training.log_every=1")
    line = runs.fails(workdir, tiny_corpus, *more, largest_file=largest_file)
    assert "cannot write" in line and "run the same command again" in line, line
    runs.assert_same(before, runs.parameters(workdir, 2), tolerance=0)
    runs.train(workdir, tiny_corpus, *more)
    assert max(runs.figures(workdir, "contrastive_loss", "eval")) == 4


@pytest.mark.parametrize("name", ["_METADATA", "state", "about"])
def test_a_damaged_checkpoint_is_named(finished, tmp_path, tiny_corpus, name):
    workdir = shutil.copytree(finished, tmp_path / "run")
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in newest.rglob(name) if name.startswith("_") else [newest / name]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    line = runs.fails(workdir, tiny_corpus, "--config.warm_start.updates=4")
    assert "CheckpointError" in line and str(newest) in line and "delete that folder" in line


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_shard_is_named(tmp_path, tiny_corpus, damage):
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    shard = next(s.path for s in Manifest.load(corpus).shards if s.split == "train")
    if damage == "missing":
        (corpus / shard).unlink()
    else:
        with open(corpus / shard, "r+b") as file:
            file.truncate(file.seek(0, 2) // 2)
    line = runs.fails(tmp_path / "run", corpus, "--config.corpus.make=")
    assert "CorpusError" in line and str(corpus) in line


def test_no_corpus_says_how_to_make_one(tmp_path):
    line = runs.fails(tmp_path / "run", tmp_path / "nowhere", "--config.corpus.make=")
    assert "python -m xlsr_jax.prepare" in line
