"""Real recordings, from a folder of WAV files to the words of the test split's report."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter

import pytest

from tests import runs

TOOL = runs.ROOT / "tools" / "make_fsdd_table.py"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SPLITS = {"0": "test", "4": "test", "5": "valid", "7": "valid", "8": "train", "49": "train"}


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("make_fsdd_table", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recordings(shared):
    """The Free Spoken Digit Dataset."""
    source = shared / "speech" / "fsdd"
    if not source.is_dir():
        pytest.skip("no recordings at speech/fsdd in the shared folder")
    return source


def call(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=runs.ROOT, env=runs.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("index", SPLITS)
def test_a_row_says_what_its_name_says(table, index):
    name = f"3_theo_{index}.wav"
    assert table.row(name) == (name, "en", "three", "theo", SPLITS[index])


def test_the_table_of_the_whole_data_set(table):
    names = [f"{d}_{s}_{i}.wav" for d in range(10) for s in "abcdef" for i in range(50)]
    counts = Counter(table.row(name)[-1] for name in names)
    assert counts == {"test": 300, "valid": 180, "train": 2_520}
    assert Counter(table.row(name)[2] for name in names) == dict.fromkeys(DIGITS, 300)


def test_what_is_no_recording_of_it_is_one_line(tmp_path):
    output = f"--output={tmp_path}/fsdd.tsv"
    done = call(TOOL, f"--source={tmp_path}", output)
    assert done.returncode == 1 and done.stderr.startswith("error: no .wav in ")
    (tmp_path / "ten_theo_0.wav").touch()
    done = call(TOOL, f"--source={tmp_path}", output)
    assert done.returncode == 1 and done.stderr.startswith("error: ten_theo_0.wav is not named")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "fsdd.tsv").exists()


def test_from_recordings_to_words(recordings, tmp_path):
    """Two speakers; of each digit one recording tested, one held out, one trained on."""
    source = tmp_path / "recordings"
    source.mkdir()
    for digit in range(10):
        for speaker in ("jackson", "theo"):
            for index in (0, 5, 8):
                name = f"{digit}_{speaker}_{index}.wav"
                (source / name).symlink_to(recordings / name)
    metadata, corpus, run = tmp_path / "fsdd.tsv", tmp_path / "corpus", tmp_path / "run"
    done = call(TOOL, f"--source={source}", f"--output={metadata}")
    assert "train 20, valid 20, test 20" in done.stdout, done.stderr
    done = call("-m", "xlsr_jax.prepare", "folder", f"--source={source}",
                f"--metadata={metadata}", f"--output={corpus}", "--workers=1")  # fmt: skip
    assert done.returncode == 0, done.stderr

    # The tiny variant would speak its own corpus, and keep 20 s of labels and few short words.
    said = runs.train(run, corpus, "--config.corpus.make=", "--config.training.updates=2",
                      "--config.data.label_seconds=0", "--config.data.buckets=1",
                      config="finetune_fsdd")  # fmt: skip
    assert "20 labelled utterances" in said and "left out" not in said
    assert "16 symbols with the blank (characters)" in said, "15 letters spell the digits"
    done = call("-m", "xlsr_jax.evaluate", f"--run={run}", "--split=test")
    assert done.returncode == 0 and "## WER by language" in done.stdout, done.stderr
    lines = (run / "evaluation" / "test-greedy" / "utterances.jsonl").read_text().splitlines()
    said_by = {line["id"]: line["reference_text"] for line in map(json.loads, lines)}
    assert len(said_by) == 20 and Counter(said_by.values()) == dict.fromkeys(DIGITS, 2)
    for name, text in said_by.items():
        digit, _, index = name.removesuffix(".wav").split("_")
        assert (text, index) == (DIGITS[int(digit)], "0")
