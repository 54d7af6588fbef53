"""Preparation: the same bytes however it is cut or killed, and nothing silently dropped."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xlsr_jax import prepare as entry
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.data.speech import Phone, Speech, UnreadableAudio
from xlsr_jax.preparation import prepare, progress
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.preparation.corpora.folder import Folder


def speak(number: int, pause: float) -> Speech:
    time.sleep(pause)
    if number % 7 == 3:
        raise UnreadableAudio(f"no voice: number {number}")
    rng = np.random.default_rng(number)
    waveform = 0.1 * rng.standard_normal(4_000 + 10 * number).astype(np.float32)
    samples = 2 * len(waveform)  # at 16 kHz
    return Speech(waveform, 8_000, "a b", (Phone("a", 0, 900), Phone("b", 900, samples + 3)))


@dataclasses.dataclass(frozen=True)
class Counting:
    """``count`` utterances of noise in two languages, some of them unreadable."""

    count: int = 40
    pause: float = 0.0  # seconds to load one
    version: str = "1"
    name: str = "counting"

    def splits(self) -> Sequence[str]:
        return ("train", "test")

    def utterances(self, split: str) -> Sequence[Utterance]:
        return [
            Utterance(
                id=f"{split}-{number}",
                language="fr" if number % 4 == 0 else "es",
                load=functools.partial(speak, number, self.pause),
                text=f"number {number}",
                speaker="s",
            )
            for number in range(self.count if split == "train" else 5)
        ]

    def fingerprint(self) -> Mapping[str, str]:
        return {"count": str(self.count), "voice version": self.version}


def contents(root) -> dict[str, bytes]:
    """All files of a corpus but the lock, which names the process."""
    root = Path(root)
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


make = functools.partial(prepare.prepare, utterances_per_shard=6, progress_bar=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A corpus prepared by one worker without interruption."""
    root = tmp_path_factory.mktemp("whole") / "corpus"
    make(Counting(), root, workers=1)
    return root


def test_every_utterance_is_in_a_shard_or_set_aside_with_its_reason(whole):
    manifest = Manifest.load(whole)
    found = {}
    for split in ("train", "test"):
        source = records.open_shards(whole, manifest.split(split))
        for item in (Record.from_bytes(source[i]) for i in range(len(source))):
            found[item.id] = item
    rejected = [json.loads(line) for line in (whole / "rejected.jsonl").read_text().splitlines()]
    corpus = Counting()
    asked = {u.id: u for split in corpus.splits() for u in corpus.utterances(split)}
    assert sorted(asked) == sorted([*found, *(line["id"] for line in rejected)])
    assert {line["id"]: line["reason"] for line in rejected} == {
        f"{split}-{n}": f"no voice: number {n}"
        for split, count in (("train", 40), ("test", 5))
        for n in range(3, count, 7)
    }
    assert manifest.rejected == {  # 24 is the one of 3, 10, 17, 24, 31, 38 that 4 divides
        "train": {"es": {"no voice": 5}, "fr": {"no voice": 1}},
        "test": {"es": {"no voice": 1}},
    }
    record = found["train-5"]
    assert (record.language, record.text, record.speaker) == ("es", "number 5", "s")
    assert (record.samples, record.phonemes) == (8_100, "a b")
    assert record.alignment == (("a", 0, 900), ("b", 900, 8_100))  # cut at the end
    assert manifest.made_with["voice version"] == "1"
    assert manifest.made_with["encoding"] == "pcm16"
    order = [Record.from_bytes(data).id for data in records.open_shards(whole, manifest.shards[:2])]
    assert order == [f"train-{n}" for n in range(40) if n % 4 and n % 7 != 3][: len(order)]


def test_the_number_of_workers_changes_no_byte(whole, tmp_path):
    make(Counting(), tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(whole)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_prepare import Counting, make
if __name__ == "__main__":
    make(Counting(pause=0.03), {root!r}, workers=2)
"""


def test_killed_at_any_moment_it_redoes_at_most_a_shard_a_worker(whole, tmp_path):
    root = tmp_path / "corpus"
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), root=str(root)))
    for wanted in (2, 5):
        process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
        deadline = time.monotonic() + 60
        while len(list(root.glob("*/*.array_record"))) < wanted:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must notice
        process.wait()
        deadline = time.monotonic() + 10
        while _group_lives(process.pid):
            assert time.monotonic() < deadline, "workers outlive their killed parent"
            time.sleep(0.05)
        assert not (root / "manifest.json").exists()
        shards = set(root.glob("*/*.array_record"))
        committed = {path.stem for path in (root / "progress").glob("*/*.json")}
        assert len({path.stem for path in shards} - committed) <= 2
    before = {path: path.stat().st_mtime_ns for path in (root / "progress").glob("*/*.json")}
    assert len(before) >= 3
    make(Counting(), root, workers=2)
    assert contents(root) == contents(whole)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())  # not redone


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_finished_corpus_is_repaired_and_not_made_again(whole, tmp_path):
    root = tmp_path / "corpus"
    make(Counting(), root, workers=1)
    shards = sorted(root.glob("train/*.array_record"))
    kept = shards[2].stat().st_mtime_ns
    shards[0].unlink()
    os.truncate(shards[1], 1_000)
    shards[3].with_name(shards[3].name.replace(".array_record", ".samples.npy")).unlink()
    make(Counting(), root, workers=1)
    assert contents(root) == contents(whole)
    assert shards[2].stat().st_mtime_ns == kept


def test_a_change_on_resumption_is_named_with_the_mend(whole):
    with pytest.raises(CorpusError, match=r"count 40 \(now 41\).*another --output, or --overwrite"):
        make(Counting(41), whole)
    with pytest.raises(CorpusError, match=r"begun with encoding pcm16 \(now flac\)"):
        make(Counting(), whole, encoding="flac")
    with pytest.raises(CorpusError, match=r"utterances per shard 6 \(now 7\)"):
        make(Counting(), whole, utterances_per_shard=7)


def test_overwrite_begins_again_and_touches_no_stranger(tmp_path):
    root = tmp_path / "corpus"
    make(Counting(), root, workers=1)
    (root / "notes.txt").write_text("mine")
    (root / "train" / "es-00000.array_record.partial-1").write_text("of a killed worker")
    make(Counting(12), root, workers=1, overwrite=True)
    fresh = tmp_path / "fresh"
    make(Counting(12), fresh, workers=1)
    assert contents(root) == contents(fresh) | {"notes.txt": b"mine"}


def test_a_folder_that_is_no_corpus_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(CorpusError, match="is not empty .*thesis.txt"):
            make(Counting(), tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_two_writers_are_kept_apart_and_a_dead_one_is_not_waited_for(tmp_path):
    root = tmp_path / "corpus"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from xlsr_jax.preparation.progress import *\n"
            "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)",
            str(root),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(progress.AnotherWriter, match=f"prepared by process {holder.pid} on"):
            make(Counting(4), root)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert make(Counting(4), root, workers=1).split("train")


def test_ensure_prepares_once_and_then_reads(tmp_path, caplog):
    root = tmp_path / "corpus"
    first = prepare.ensure(Counting(4), root, workers=1)
    made = {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
    assert prepare.ensure(Counting(4), root) == first
    assert prepare.ensure(Counting(4, version="2"), root) == first
    assert "voice version 1 (now 2)" in caplog.text
    with pytest.raises(CorpusError, match=r"prepared with count 4 \(now 5\)"):
        prepare.ensure(Counting(5), root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.*")} == made


ENSURING = """
import sys
sys.path.insert(0, {tests!r})
from test_prepare import Counting
from xlsr_jax.preparation.prepare import ensure
if __name__ == "__main__":
    print(sum(shard.utterances for shard in ensure(Counting(pause=0.02), {root!r}, 1).shards))
"""


def test_processes_that_need_one_corpus_wait_for_the_one_that_makes_it(tmp_path):
    script = tmp_path / "ensuring.py"
    script.write_text(ENSURING.format(tests=str(Path(__file__).parent), root=str(tmp_path / "c")))
    command = [sys.executable, str(script)]
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert [out for out, _ in results] == ["38\n", "38\n"]  # of 45, 7 cannot be loaded
    assert sum("preparing" in err for _, err in results) == 1


@dataclasses.dataclass(frozen=True)
class Listed:
    """A corpus of given utterances."""

    given: tuple[Utterance, ...]
    name: str = "listed"

    def splits(self) -> Sequence[str]:
        return ("train",)

    def utterances(self, split: str) -> Sequence[Utterance]:
        return self.given

    def fingerprint(self) -> Mapping[str, str]:
        return {}


def said(identity, language="es", number=0):
    return Utterance(identity, language, functools.partial(speak, number, 0.0))


def test_names_are_checked_before_anything_is_written(tmp_path):
    root = tmp_path / "corpus"
    twice = Listed((said("a"), said("b"), said("a", "fr")))
    with pytest.raises(CorpusError, match="1 utterance ids occur more than once: a; give each"):
        make(twice, root)
    with pytest.raises(CorpusError, match="language '../x' cannot name a file"):
        make(Listed((said("a", "../x"),)), root)
    with pytest.raises(CorpusError, match="unknown audio encoding 'mp3'"):
        make(Counting(), root, encoding="mp3")
    with pytest.raises(CorpusError, match="workers must be 1 or more; got 0"):
        make(Counting(), root, workers=0)
    assert not root.exists()


def test_a_language_without_usable_audio_shows_in_the_summary(tmp_path):
    manifest = make(Listed((said("a"), said("b", "tt", number=3))), tmp_path / "c", workers=1)
    assert list(manifest.hours("train")) == ["es"]
    table = [line.split() for line in prepare.summary(manifest).splitlines()]
    assert ["train", "tt", "0", "0.000", "1"] in table
    assert prepare.summary(manifest).endswith("set aside: 1 x no voice")


def fail(error):
    raise error


def test_a_bug_in_a_reader_is_no_rejection_and_names_the_utterance(tmp_path):
    broken = Utterance("bad", "es", functools.partial(fail, KeyError("oops")))
    with pytest.raises(KeyError, match="oops") as error:
        make(Listed((said("a"), broken)), tmp_path / "c", workers=1)
    assert "while loading utterance bad" in error.value.__notes__


def test_a_killed_worker_is_told_from_a_bug(tmp_path):
    utterance = Utterance("a", "es", functools.partial(os._exit, 9))
    with pytest.raises(CorpusError, match="worker process was killed .*fewer --workers"):
        make(Listed((utterance,)), tmp_path / "c", workers=1)


def bad_folder(root):
    """One good file of each rate, and one of each kind that cannot be used."""
    (root / "es").mkdir(parents=True)
    tone = (0.3 * np.sin(np.arange(96_000) / 20)).astype(np.float32)
    for rate in (8_000, 44_100, 48_000, 96_000):
        soundfile.write(root / f"es/{rate}.wav", tone[:rate], rate)
    soundfile.write(root / "es/stereo.wav", np.stack([tone, -tone], 1)[:16_000], 16_000)
    soundfile.write(root / "es/nan.wav", np.full(4_000, np.nan, np.float32), 16_000, "FLOAT")
    soundfile.write(root / "es/whole.flac", tone, 16_000)
    flac = (root / "es/whole.flac").read_bytes()
    (root / "es/cut.flac").write_bytes(flac[: len(flac) // 2])
    (root / "es/empty.wav").write_bytes(b"")
    (root / "es/words.wav").write_text("not a sound\n" * 50)


def test_the_command_counts_bad_files_and_still_succeeds(tmp_path, capsys):
    bad_folder(tmp_path / "in")
    command = ["folder", "--source", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert entry.main([*command, "--split", "train", "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert ["train", "es", "6", "0.003", "4"] in [line.split() for line in shown.splitlines()]
    aside = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in aside]
    reasons = {line["id"]: line["reason"].split(": ")[0] for line in lines}
    assert reasons == {
        "es/cut.flac": "damaged audio",
        "es/empty.wav": "zero-length file",
        "es/nan.wav": "NaN or infinite samples",
        "es/words.wav": "not audio",
    }
    for reason in reasons.values():
        assert f"set aside: 1 x {reason}" in shown
    manifest = Manifest.load(tmp_path / "out")
    source = records.open_shards(tmp_path / "out", manifest.shards)
    for record in (Record.from_bytes(source[i]) for i in range(len(source))):
        expected = 96_000 if record.id == "es/whole.flac" else 16_000
        assert abs(record.samples - expected) <= 1
        assert len(record.waveform()) == record.samples
    assert entry.main(["check", "--output", str(tmp_path / "out")]) == 0
    (tmp_path / "out" / manifest.shards[0].path).write_bytes(b"x" * 100)
    assert entry.main(["check", "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "train/es-00000.array_record differs from its checksum" in captured.out
    assert captured.err.startswith("error: 1 faults in ")


def test_the_command_fails_in_one_line_where_nothing_is_usable(tmp_path, capsys):
    (tmp_path / "in/es").mkdir(parents=True)
    (tmp_path / "in/es/a.wav").write_bytes(b"")
    command = ["folder", "--source", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert entry.main(command) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: no usable utterance in corpus folder, 1 set aside; the first: es/a.wav: "
        "zero-length file"
    )
    assert not (tmp_path / "out/manifest.json").exists()
    assert "zero-length" in (tmp_path / "out/rejected.jsonl").read_text()


@pytest.mark.parametrize("encoding", ["pcm16", "flac"])
def test_sixteen_bit_audio_at_16_khz_passes_unchanged(encoding, tmp_path):
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5_000).astype(np.int16)
    (tmp_path / "in/es").mkdir(parents=True)
    soundfile.write(tmp_path / "in/es/a.flac", pcm, 16_000)
    corpus = Folder(str(tmp_path / "in"), split="train")
    manifest = make(corpus, tmp_path / "out", encoding=encoding, workers=1)
    record = Record.from_bytes(records.open_shards(tmp_path / "out", manifest.shards)[0])
    assert record.encoding == encoding
    np.testing.assert_array_equal(record.waveform() * 32768, pcm)


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_prepare import Counting
from xlsr_jax.preparation.prepare import prepare
from xlsr_jax.data.records import CorpusError
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    try:
        prepare(Counting(), {root!r}, workers=2, utterances_per_shard=6, progress_bar=False)
    except CorpusError as error:
        sys.exit("error: " + str(error))
"""


def test_a_disk_that_refuses_loses_nothing(whole, tmp_path):
    root = tmp_path / "corpus"
    make(Counting(), root, workers=1)
    largest = max(root.rglob("*.array_record"), key=lambda path: path.stat().st_size)
    limit = largest.stat().st_size - 1
    largest.unlink()
    kept = {path: path.stat().st_mtime_ns for path in root.rglob("*.array_record")}
    script = tmp_path / "limited.py"
    script.write_text(LIMITED.format(tests=str(Path(__file__).parent), root=str(root), limit=limit))
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert ran.returncode == 1
    (line,) = ran.stderr.strip().splitlines()
    assert f"cannot write {largest}: " in line and "File too large" in line
    assert line.endswith("run the same command again, all that was finished is kept")
    assert not list(root.rglob("*.partial-*"))
    assert not (root / "manifest.json").exists()  # it would claim a shard that is not there
    make(Counting(), root, workers=1)
    assert contents(root) == contents(whole)
    assert kept and all(path.stat().st_mtime_ns == mtime for path, mtime in kept.items())


def test_workers_stay_free_of_jax(tmp_path):
    rooms = "xlsr_jax.preparation.prepare, xlsr_jax.preparation.corpora.folder"
    check = f"import sys, {rooms}; print('jax' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_real_recordings_become_shards(shared, tmp_path):
    """Free Spoken Digit Dataset: 3,000 recordings at 8 kHz named <digit>_<speaker>_<index>.wav."""
    source = shared / "speech" / "fsdd"
    if not source.is_dir():
        pytest.skip("no recordings at speech/fsdd in the shared folder")
    rows = ["id\tpath\tlanguage\ttext\tspeaker\tsplit"]
    for path in sorted(source.glob("*.wav")):
        digit, speaker, index = path.stem.split("_")
        split = "test" if int(index) < 5 else "train"
        rows.append(
            f"{path.stem}\t{path.name}\ten\t{DIGITS[int(digit)]}\t{speaker}\t{split}"
        )
    (tmp_path / "fsdd.tsv").write_text("\n".join(rows) + "\n")
    corpus = Folder(str(source), str(tmp_path / "fsdd.tsv"), name="fsdd")
    manifest = make(corpus, tmp_path / "fsdd", workers=2, utterances_per_shard=500)
    count = {split: sum(shard.utterances for shard in manifest.split(split)) for split in
             ("train", "test")}
    assert count == {"train": 2_700, "test": 300} and manifest.rejected == {}
    seconds = sum(soundfile.info(path).duration for path in source.glob("*.wav"))
    hours = manifest.hours("train")["en"] + manifest.hours("test")["en"]
    assert hours == pytest.approx(seconds / 3600, rel=1e-3)
    data = records.open_shards(tmp_path / "fsdd", manifest.split("test"))
    found = [Record.from_bytes(data[i]) for i in range(len(data))]
    assert {record.text for record in found} == set(DIGITS)
    assert len({record.speaker for record in found}) == 6
    record = next(record for record in found if record.id == "7_jackson_0")
    assert (record.text, record.speaker, record.language) == ("seven", "jackson", "en")
    original, rate = soundfile.read(source / "7_jackson_0.wav")
    assert rate == 8_000
    # Every second sample of the doubled rate is the original one, up to the filter's ripple.
    half = record.waveform()[::2][: len(original)]
    assert np.corrcoef(half, original[: len(half)])[0, 1] > 0.99
