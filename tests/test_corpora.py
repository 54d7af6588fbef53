"""From a downloaded archive to a model: a Common Voice release of spoken sentences."""

import subprocess
import sys
import tarfile

import pytest
import soundfile
import soxr

from tests import runs
from xlsr_jax.text import espeak

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n"
COUNTS = {"train": 10, "dev": 3, "test": 3}


@pytest.fixture(scope="module")
def archive(shared, tmp_path_factory):
    """A release of Swedish and Italian: published sentences as MP3 at 48 kHz, and their tables."""
    folder = tmp_path_factory.mktemp("release")
    path = folder / "cv-corpus-17.0-2024-03-15.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for locale in ("sv", "it"):
            text = shared / "common_voice" / "splits" / locale / "train.text"
            lines = iter(text.read_text(encoding="utf-8").splitlines())
            for split, count in COUNTS.items():
                rows = []
                for _ in range(count):
                    identity, sentence = next(lines).split("\t")
                    spoken = espeak.speak(sentence, espeak.Voice(locale))
                    wave = soxr.resample(spoken.waveform, spoken.rate, 48_000)
                    soundfile.write(folder / "clip.mp3", wave, 48_000, format="MP3")
                    name = f"cv-corpus-17.0-2024-03-15/{locale}"
                    tar.add(folder / "clip.mp3", f"{name}/clips/{identity}.mp3")
                    rows.append(f"{len(rows) % 2:0128x}\t{identity}.mp3\t{sentence}\t2\t0\t\t\t\t"
                                f"{locale}\t\n")  # fmt: skip
                (folder / "t.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")
                tar.add(folder / "t.tsv", f"{name}/{split}.tsv")
    return path


def call(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


def test_from_an_archive_to_a_model(archive, tmp_path):
    corpus = tmp_path / "corpus"
    command = ["-m", "xlsr_jax.prepare", "common_voice", f"--source={archive}", "--trim"]
    done = call(*command, f"--output={corpus}", "--dry-run")
    assert done.returncode == 0 and not corpus.exists(), done.stderr
    done = call(*command, f"--output={corpus}", "--workers=1")
    assert done.returncode == 0, done.stderr
    page = (corpus / "README.md").read_text()
    assert "in 2 languages: 32 utterances" in page and "| train | it |" in page

    said = runs.train(tmp_path / "run", corpus, "--config.corpus.make=", config="quickstart")
    assert "20 utterances" in said and "2 languages" in said
