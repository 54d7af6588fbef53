"""What a lab's disk holds besides speech: set aside with its reason, or refused in one line."""

import json
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xlsr_jax import prepare as entry
from xlsr_jax.data.records import Manifest


def speech(path: Path, seconds: float = 1.0, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(0).standard_normal(int(seconds * rate))
    soundfile.write(path, noise, rate)


@pytest.fixture
def rubbish(tmp_path):
    """A folder of one good file and many bad ones."""
    root = tmp_path / "in" / "es"
    speech(root / "good.wav")
    (root / "random.wav").write_bytes(np.random.default_rng(1).bytes(20_000))
    (root / "letter.wav").write_text("Dear Sir or Madam,\n" * 100)
    (root / "nothing.flac").write_bytes(b"")
    soundfile.write(root / "no_samples.wav", np.zeros(0), 16_000)
    speech(root / "cut.mp3", 3.0, 48_000)
    (root / "cut.mp3").write_bytes((root / "cut.mp3").read_bytes()[:5_000])
    with wave.open(str(root / "ten_hours.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(1), file.setframerate(8_000)
        silence = bytes(8_000 * 600)
        for _ in range(60):
            file.writeframes(silence)
    return root.parent


REASONS = {
    "es/random.wav": "not audio",
    "es/letter.wav": "not audio",
    "es/nothing.flac": "zero-length file",
    "es/no_samples.wav": "no samples",
    "es/cut.mp3": "truncated",
    "es/ten_hours.wav": "too long: 36000.0 s, over 600 s",
}


def test_bad_files_are_set_aside_and_counted(rubbish, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["folder", f"--source={rubbish}", f"--output={out}", "--split=train", "--workers=1"]
    assert entry.main(command) == 0
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    found = {line["id"]: line["reason"] for line in lines}
    assert sorted(found) == sorted(REASONS)
    for identity, reason in REASONS.items():
        assert found[identity].startswith(reason)
    manifest = Manifest.load(out)
    assert sum(shard.utterances for shard in manifest.shards) == 1
    assert sum(manifest.rejected["train"]["es"].values()) == len(REASONS)
    assert "set aside: 2 x not audio" in capsys.readouterr().out


def test_nothing_but_bad_files_is_an_error(rubbish, tmp_path, capsys):
    (rubbish / "es/good.wav").unlink()
    command = ["folder", f"--source={rubbish}", f"--output={tmp_path / 'out'}", "--workers=1"]
    assert entry.main(command) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: no usable utterance in corpus folder, 6 set aside; the first: ")


def test_an_archive_that_leads_out_of_itself(rubbish, tmp_path):
    archive, out = tmp_path / "evil.tar.gz", tmp_path / "out"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("../../up.wav", "/tmp/absolute.wav", "es/good.wav"):
            info = tar.gettarinfo(rubbish / "es/good.wav", name)
            info.name = name
            with open(rubbish / "es/good.wav", "rb") as file:
                tar.addfile(info, file)
    command = ["folder", f"--source={archive}", f"--output={out}", "--language=es", "--workers=1"]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert entry.main([*command, "--split=train"]) == 0
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {line["id"]: line["reason"] for line in lines} == {
        "../../up.wav": "name that leads out of its archive",
        "/tmp/absolute.wav": "absolute name in an archive",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])


def test_a_table_with_a_line_of_fifty_megabytes(tmp_path, capsys):
    speech(tmp_path / "in/a.wav")
    table = tmp_path / "m.tsv"
    table.write_text("path\tlanguage\ttext\na.wav\tes\t" + "x" * (50 << 20) + "\n")
    command = ["folder", f"--source={tmp_path / 'in'}", f"--metadata={table}"]
    assert entry.main([*command, f"--output={tmp_path / 'out'}", "--workers=1"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and "m.tsv" in said and len(said) < 300
