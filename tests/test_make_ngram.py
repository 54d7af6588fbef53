"""The n-gram model of a corpus' transcripts, as the beam search reads it."""

import subprocess
import sys

import numpy as np
import pytest

from tests import runs
from xlsr_jax.data import records
from xlsr_jax.data.records import Manifest, Record

TOOL = runs.ROOT / "tools" / "make_ngram.py"
TEXTS = ["Uno, due!", "uno due tre", "Due tre"]


@pytest.fixture
def corpus(tmp_path):
    silence = records.encode_audio(np.zeros(400, np.float32), "pcm16")
    spoken = [Record(f"it-{n}", "it", silence, "pcm16", 400, text=t) for n, t in enumerate(TEXTS)]
    shard = records.write_shard(tmp_path, "train/it-00000.array_record", "train", "it", spoken)
    Manifest("texts", (shard,), {}, {}).save(tmp_path)
    return tmp_path


def call(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        cwd=runs.ROOT, env=runs.environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_words_are_counted_and_spelled(corpus, tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is optional")
    from xlsr_jax.evaluation.language_model import LanguageModel, read_lexicon

    arpa, lexicon = tmp_path / "it.arpa", tmp_path / "it.lexicon"
    done = call(f"--corpus={corpus}", f"--output={arpa}", f"--lexicon={lexicon}", "--order=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{arpa}: 3 transcripts, 7 words, 3 different\n"
    words = ("uno", "due", "tre")
    assert read_lexicon(lexicon) == {word: [tuple(word)] for word in words}
    model = LanguageModel(arpa, words)
    # Witten-Bell by hand. Words: 10 with the ends, 4 kinds, 5 shares (<unk> too).
    one = {w: (c + 4 / 5) / 14 for w, c in {"uno": 2, "due": 3, "</s>": 3}.items()}
    start = (2 + 2 * one["uno"]) / (3 + 2)  # <s> was seen 3 times with 2 continuations
    after_uno = (2 + 1 * one["due"]) / (2 + 1)
    end = (1 + 2 * one["</s>"]) / (3 + 2)
    assert model.score([0, 1]) == pytest.approx(np.log10(start * after_uno * end), abs=1e-5)


def test_a_missing_language_is_one_line(corpus, tmp_path):
    done = call(f"--corpus={corpus}", f"--output={tmp_path}/x.arpa", "--languages=es")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no data for language 'es'")
    done = call(f"--corpus={corpus}", f"--output={tmp_path}/x.arpa", "--order=1")
    assert done.returncode == 1 and "an order of 2 or more" in done.stderr
