"""From a pretrained run to transcripts: fine-tuning, evaluation, and what goes wrong on the way."""

import json
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from tests import runs
from xlsr_jax import config as configuration
from xlsr_jax import experiment
from xlsr_jax.data.records import Manifest, Record, open_shards
from xlsr_jax.training.checkpoint import load_parameters
from xlsr_jax.training.state import TrainState

CONFIG = {"config": "quickstart_finetune"}
QUICK = ("--config.training.updates=6", "--config.data.buckets=1", "--config.labels.unit=recorded")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, tiny_corpus):
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    runs.train(workdir, tiny_corpus, "--config.training.updates=1", "--config.data.buckets=1",
               config="quickstart")  # fmt: skip
    return workdir


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, tiny_corpus, pretrained):
    workdir = tmp_path_factory.mktemp("finetuned") / "run"
    said = runs.train(workdir, tiny_corpus, *QUICK, f"--config.init_from={pretrained}", **CONFIG)
    assert "begun from update" in said and "new: output; not used: context_projection" in said
    return workdir


def entry(module, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"xlsr_jax.{module}", *map(str, flags)],
        env=runs.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_only_what_is_not_frozen_learns(finetuned, pretrained):
    before, after = runs.parameters(pretrained), runs.parameters(finetuned)
    assert not any("quantizer" in name or "log_mel" in name for name in after)
    changed = {name for name in after.keys() & before.keys()
               if not np.array_equal(before[name], after[name])}  # fmt: skip
    assert not any("feature_encoder" in name for name in changed)
    assert any("context_network" in name for name in changed)


def test_the_first_updates_train_the_output_layer_alone(tmp_path, tiny_corpus, pretrained):
    workdir = tmp_path / "run"
    flags = ("--config.training.updates=3", "--config.objective.freeze_updates=3")
    runs.train(workdir, tiny_corpus, *QUICK, *flags, f"--config.init_from={pretrained}", **CONFIG)
    before, after = runs.parameters(pretrained), runs.parameters(workdir)
    for name in after.keys() & before.keys():
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_a_stopped_run_goes_on_exactly(tmp_path, tiny_corpus, pretrained, finetuned):
    workdir = tmp_path / "run"
    every = f"--config.init_from={pretrained}"
    # Across the boundary at update 4, where the whole model begins to learn.
    save = ("--config.training.save_every=3", "--config.training.eval_every=3")
    runs.train(workdir, tiny_corpus, *QUICK, *save, every, **CONFIG)
    shutil.rmtree(workdir / "checkpoints" / "6")
    runs.train(workdir, tiny_corpus, *QUICK, *save, every, **CONFIG)
    runs.assert_same(runs.parameters(finetuned), runs.parameters(workdir, 6), tolerance=0)


def test_evaluation_counts_every_utterance_once(finetuned, tiny_corpus, tmp_path):
    done = entry("evaluate", "--run", finetuned, "--split=test", f"--output={tmp_path}/report")
    assert done.returncode == 0, done.stderr
    manifest = Manifest.load(tiny_corpus)
    wanted = {}
    for shard in manifest.split("test"):
        source = open_shards(tiny_corpus, [shard])
        for number in range(len(source)):
            record = Record.from_bytes(source[number])
            wanted[record.id] = record.phonemes
    lines = (tmp_path / "report" / "utterances.jsonl").read_text().splitlines()
    found = {line["id"]: line["reference"] for line in map(json.loads, lines)}
    assert len(lines) == len(found)
    assert found == wanted
    page = (tmp_path / "report" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


def test_transcription_names_the_bad_file_and_does_the_rest(finetuned, tiny_corpus, tmp_path):
    shard = next(s for s in Manifest.load(tiny_corpus).split("test") if s.language == "it")
    source = open_shards(tiny_corpus, [shard])
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(2):
        waveform = Record.from_bytes(source[number]).waveform()
        soundfile.write(folder / f"{number}.flac", waveform, 16_000)
    (folder / "bad.wav").write_bytes(b"RIFF")
    done = entry("transcribe", "--run", finetuned, folder)
    assert done.returncode == 1 and "bad.wav" in done.stderr and "Traceback" not in done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        str(folder / "0.flac"), str(folder / "1.flac")
    ]  # fmt: skip


@pytest.mark.parametrize("module", ["evaluate", "transcribe"])
def test_a_pretraining_run_writes_nothing(module, pretrained, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    flags = ["--run", pretrained] + ([str(tmp_path)] if module == "transcribe" else [])
    done = entry(module, *flags)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "is no fine-tuning run" in done.stderr.strip().splitlines()[-1]


def test_the_best_rate_is_kept(tmp_path, tiny_corpus, pretrained):
    workdir = tmp_path / "run"
    flags = ("--config.optimizer.peak_lr_choices=(0.0,0.01)", "--config.training.updates=8")
    said = runs.train(
        workdir, tiny_corpus, *QUICK, *flags, f"--config.init_from={pretrained}", **CONFIG
    )
    choice = json.loads((workdir / "choice.json").read_text())
    figures = choice["held out"]
    assert figures.keys() == {"lr_0", "lr_0.01"} and choice["kept"] == min(figures, key=figures.get)
    assert f"kept {choice['kept']}" in said
    _, about = load_parameters(workdir)
    assert about["config"]["optimizer"]["peak_lr"] == float(choice["kept"][3:])


def test_a_stop_ends_the_choice_of_a_rate(tmp_path, tiny_corpus, pretrained):
    """The next rate does not begin, and nothing is chosen from a run that was cut short."""
    workdir = tmp_path / "run"
    flags = ("--config.optimizer.peak_lr_choices=(0.0,0.01)", "--config.training.updates=2000",
             "--config.training.log_every=1", f"--config.init_from={pretrained}")  # fmt: skip
    command = runs.command(workdir, tiny_corpus, *QUICK, *flags, **CONFIG)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=runs.environment(), stderr=pipe, text=True) as process:
        deadline, log = time.monotonic() + 200, workdir / "lr_0" / "log.jsonl"
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 0 and "stopping: SIGTERM" in said, said[-3000:]
    assert [path.name for path in workdir.iterdir() if path.is_dir()] == ["lr_0"]
    assert not (workdir / "choice.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--config.model.heads=2",), "config.model.heads is 4 there and 2 in this config"),
        (("--config.data.normalize=false",), "config.data.normalize=True; set it so"),
        (("--config.init_from=nowhere",), "nowhere is no run"),
        (("--config.labels.unit=aligned",), "config.objective.target"),
        (("--config.labels.file=none.tsv",), "there is no none.tsv"),
        (("--config.optimizer.hold_share=0.95",), "optimizer.hold_share"),
        (("--config.data.min_samples=390000",), "no utterance of"),
        (("--config.objective.layer=7",), "the model has layers 0 to 1"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, tiny_corpus, pretrained, flags, words):
    line = runs.fails(tmp_path / "run", tiny_corpus, *QUICK, f"--config.init_from={pretrained}",
                      *flags, **CONFIG)  # fmt: skip
    assert words in line, line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_vocabulary_is_refused(finetuned, tmp_path, tiny_corpus):
    workdir = shutil.copytree(finetuned, tmp_path / "run")
    line = runs.fails(workdir, tiny_corpus, *QUICK, "--config.labels.separate=true", **CONFIG)
    assert "another vocabulary" in line and "(en)" in line and "--workdir" in line


def test_an_output_layer_of_other_symbols_is_not_taken(finetuned):
    params, about = load_parameters(finetuned)
    config = configuration.resolve(about["config"] | {"init_from": str(finetuned)})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(np.shape(leaf)), params)
    begin = lambda symbols: experiment.begin_from(  # noqa: E731
        config, (params, about), TrainState(0, zeros, (), 0, 0), about["vocabulary"] | symbols
    )
    state, told = begin({})
    np.testing.assert_array_equal(state.params["output"]["bias"], params["output"]["bias"])
    assert "new: nothing" in told[1]
    symbols = about["vocabulary"]["symbols"]
    state, told = begin({"symbols": symbols[:1] + symbols[:0:-1]})
    assert not np.any(state.params["output"]["bias"]) and np.any(params["output"]["bias"])
    assert "new: output; not used: output" in told[1]


def test_labels_from_a_file(tmp_path, tiny_corpus):
    lines, ids = [], []
    for shard in Manifest.load(tiny_corpus).shards:
        source = open_shards(tiny_corpus, [shard])
        for number in range(len(source)):
            ids.append(Record.from_bytes(source[number]).id)
    # One utterance empty, one absent, one that no audio can hold.
    ids.sort(key=lambda identity: "train" not in identity)
    for place, identity in enumerate(ids):
        tokens = {0: "", 1: None, 2: "a b " * 2_000}.get(place, "a b c")
        lines += [] if tokens is None else [f"{identity}\t{tokens}\n"]
    (tmp_path / "labels.tsv").write_text("".join(lines))
    flags = (f"--config.labels.file={tmp_path}/labels.tsv", "--config.data.label_seconds=0")
    said = runs.train(tmp_path / "run", tiny_corpus, *QUICK, *flags, "--config.training.updates=1",
                      **CONFIG)  # fmt: skip
    assert "vocabulary: 4 symbols" in said
    left_out = (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()
    reasons = {line["id"]: line["reason"] for line in map(json.loads, left_out)}
    assert reasons[ids[0]] == reasons[ids[1]] == "no label"
    assert reasons[ids[2]] == "fewer frames than labels"
