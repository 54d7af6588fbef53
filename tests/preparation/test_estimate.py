"""Estimates of a preparation: right where all is known, and as far off as they say elsewhere."""

import dataclasses
import functools
import io
import math
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import soundfile

from xlsr_jax import prepare as entry
from xlsr_jax.data import audio
from xlsr_jax.data.records import CorpusError
from xlsr_jax.data.speech import Speech, UnreadableAudio
from xlsr_jax.preparation import estimate, sampling
from xlsr_jax.preparation.archives import Tree, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.estimate import Estimate, Figure
from xlsr_jax.preparation.prepare import prepare
from xlsr_jax.preparation.processing import Processing


def noise(samples: int, number: int) -> Speech:
    if number % 10 == 3:
        raise UnreadableAudio(f"no voice: {number}")
    rng = np.random.default_rng(number)
    return Speech(0.1 * rng.standard_normal(samples).astype(np.float32), 16_000)


@dataclasses.dataclass(frozen=True)
class Noisy:
    """Noise: ``lengths`` in samples of each (split, language); every tenth cannot be read."""

    lengths: tuple[tuple[str, str, tuple[int, ...]], ...]
    stated: float = 0.0  # what the source states of a second of its audio
    clean: bool = False  # all can be read
    name: str = "noisy"

    def splits(self) -> Sequence[str]:
        return tuple(dict.fromkeys(row[0] for row in self.lengths))

    def utterances(self, split: str) -> Iterator[Utterance]:
        for where, language, lengths in self.lengths:
            for number, samples in enumerate(lengths if where == split else ()):
                yield Utterance(
                    f"{split}-{language}-{number}",
                    language,
                    functools.partial(noise, samples, 10 * number if self.clean else number),
                    seconds=self.stated * samples / 16_000,
                )
            if where == split:
                yield Utterance(f"{split}-{language}-x", language, refused("not wanted: x"))

    def fingerprint(self) -> Mapping[str, str]:
        return {}


def drawn(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(2_000, 30_000, count).tolist())


SMALL = Noisy((
    ("train", "es", drawn(1, 20)), ("train", "fr", drawn(2, 12)), ("test", "es", drawn(3, 6)),
))  # fmt: skip


def readable(corpus: Noisy, split: str, language: str) -> float:
    """Hours that can be read."""
    return sum(
        samples / 16_000 / 3600
        for where, code, lengths in corpus.lengths
        for number, samples in enumerate(lengths)
        if (where, code) == (split, language) and number % 10 != 3
    )


def within(figure: Figure, truth: float, by: float = 1.0) -> bool:
    return abs(figure.value - truth) <= by * figure.reach


def test_where_all_is_decoded_it_says_what_preparation_makes(tmp_path):
    found = estimate.estimate(SMALL, tmp_path / "out", workers=1, utterances_per_shard=8)
    assert not (tmp_path / "out").exists()
    manifest = prepare(
        SMALL, tmp_path / "out", workers=1, utterances_per_shard=8, progress_bar=False
    )
    hours = sum(sum(manifest.hours(split).values()) for split in ("train", "test"))
    assert found.hours.value == pytest.approx(hours, rel=1e-9) and found.hours.reach == 0
    parts = {(part.split, part.language): part for part in found.parts}
    assert list(parts) == [("train", "es"), ("train", "fr"), ("test", "es")]
    assert [(part.listed, part.ruled_out, part.shards) for part in found.parts] == [
        (21, 1, 3), (13, 1, 2), (7, 1, 1),
    ]  # fmt: skip
    assert len(manifest.shards) == 6
    assert parts["train", "fr"].hours.value == pytest.approx(manifest.hours("train")["fr"])
    for part in (parts["train", "es"], parts["test", "es"]):  # one sample stands for both
        assert within(part.hours, manifest.hours(part.split)["es"], 1.5) and part.hours.reach > 0
    files = [*tmp_path.glob("out/*/*.array_record"), *tmp_path.glob("out/*/*.npy")]
    assert found.size.value == pytest.approx(sum(f.stat().st_size for f in files), rel=0.15)
    assert found.aside == {"no voice": 2 + 1 + 1} and found.sampled == {"es": 26, "fr": 12}


def test_the_error_is_as_large_as_the_range_says():
    rng = np.random.default_rng(0)
    lengths = rng.gamma(3, 2, 400)
    stated = lengths * rng.uniform(0.8, 1.2, 400)
    for x in (np.ones(400), stated):
        for part in (np.arange(400), np.arange(0, 400, 5)):
            errors, reaches = [], []
            for _ in range(1_500):
                order = rng.permutation(400)  # the part is as random as the sample
                whole, weights = lengths[order], x[order]
                sample = rng.choice(400, 30, replace=False)
                found = estimate._ratio(
                    weights[sample], whole[sample], weights[part].sum(), len(part), 400
                )
                errors.append(found.value - whole[part].sum())
                reaches.append(found.reach)
            assert np.mean(reaches) == pytest.approx(2 * np.std(errors), rel=0.1)
            assert abs(np.mean(errors)) < 0.1 * np.std(errors)


def test_a_sample_tells_of_hundreds_and_is_the_same_each_time():
    corpus = Noisy((("train", "es", drawn(4, 900)), ("test", "es", drawn(5, 100))))
    first, again = (estimate.estimate(corpus, "out", sample=40) for _ in range(2))
    assert first.hours == again.hours and first.aside == again.aside
    assert first.sampled == {"es": 40} and 0 < first.hours.reach < 0.35 * first.hours.value
    truth = {split: readable(corpus, split, "es") for split in ("train", "test")}
    assert within(first.hours, sum(truth.values()), 1.5)
    for part in first.parts:
        assert within(part.hours, truth[part.split], 1.5)


def test_every_utterance_has_the_same_chance_to_be_drawn():
    counts = np.zeros(50)
    corpus = Noisy((("train", "es", (2_000,) * 30), ("test", "es", (2_000,) * 20)))
    for seed in range(400):
        overheard = sampling.Overheard(corpus, 10)
        overheard._random.seed(seed)
        ids = [u.id for split in corpus.splits() for u in overheard.utterances(split)]
        ids = [each for each in ids if not each.endswith("x")]
        for u in overheard.drawn["es"]:
            counts[ids.index(u.id)] += 1
    assert counts.sum() == 4_000
    assert ((counts - 80) ** 2 / 80).sum() < 85  # chi-squared of 49, p below 0.001


def test_stated_lengths_leave_only_what_cannot_be_read_to_chance():
    lengths = (("train", "es", drawn(6, 300)),)
    hours = sum(lengths[0][2]) / 16_000 / 3600
    for stated in (1.0, 2.0):  # what is stated is measured against the sample
        found = estimate.estimate(Noisy(lengths, stated, clean=True), "out", sample=5)
        assert found.stated == ("es",) and found.parts[0].hours == found.hours
        assert found.hours.value == pytest.approx(hours) and found.hours.reach < 1e-6 * hours
    assert "the source states the lengths of all languages" in estimate.report(found)
    found = estimate.estimate(Noisy(lengths, 1.0), "out", sample=25)
    assert within(found.hours, readable(Noisy(lengths), "train", "es"), 1.5)
    assert found.hours.reach > 0.01 * hours


def test_processing_counts():
    long = Processing(min_seconds=1.0)
    found = estimate.estimate(SMALL, "out", processing=long)
    kept = sum(
        n / 16_000 / 3600 for _, _, lengths in SMALL.lengths for i, n in enumerate(lengths)
        if i % 10 != 3 and n >= 16_000
    )  # fmt: skip
    assert found.hours.value == pytest.approx(kept) and found.aside["too short"] > 0


@dataclasses.dataclass(frozen=True)
class Packed:
    """Every audio file of a source, language by its first folder."""

    source: str
    name: str = "packed"

    @functools.cached_property
    def _tree(self) -> Tree:
        return open_source(self.source)

    def splits(self) -> Sequence[str]:
        return ("train",)

    def utterances(self, split: str) -> Iterator[Utterance]:
        for name in self._tree.names:
            yield Utterance(name, name.split("/")[0], **self._tree.audio(name, audio.decode))

    def fingerprint(self) -> Mapping[str, str]:
        return {}


def pack(root) -> float:
    """A tree in ``root/in`` and the same in ``root/in.tar.gz``; returns the hours."""
    total = 0
    with tarfile.open(root / "in.tar.gz", "w:gz") as tar:
        for number, samples in enumerate(drawn(7, 12)):
            buffer, name = io.BytesIO(), f"{'es' if number % 3 else 'fr'}/{number}.flac"
            pcm = np.random.default_rng(number).integers(-900, 900, samples).astype(np.int16)
            soundfile.write(buffer, pcm, 16_000, format="FLAC")
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
            (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "in" / name).write_bytes(buffer.getvalue())
            total += samples
    return total / 16_000 / 3600


def test_an_archive_tells_what_its_folder_tells(tmp_path):
    hours = pack(tmp_path)
    folder, archive = (
        estimate.estimate(Packed(str(tmp_path / name)), tmp_path / "out", encoding="flac")
        for name in ("in", "in.tar.gz")
    )
    assert folder.hours.value == pytest.approx(hours) and archive.hours.value == folder.hours.value
    assert archive.sampled == folder.sampled == {"es": 8, "fr": 4}
    assert archive.size.value == pytest.approx(folder.size.value, rel=1e-6)
    assert (folder.archived, archive.archived) == (False, True)


def test_where_time_is_up_it_says_what_it_does_not_know(tmp_path):
    pack(tmp_path)
    found = estimate.estimate(Packed(str(tmp_path / "in.tar.gz")), "out", seconds=0.0)
    assert found.sampled == {} and math.isnan(found.hours.value) and math.isnan(found.size.value)
    lines = estimate.report(found).splitlines()
    assert lines[1].split() == ["train", "es", "8", "0", "1", "?", "±", "?"]
    assert "none came in time of es, fr" in lines[-2]
    stated = estimate.estimate(Noisy(SMALL.lengths, 1.0), "out", seconds=0.0)
    hours = sum(sum(lengths) for _, _, lengths in SMALL.lengths) / 16_000 / 3600
    assert stated.hours.value == pytest.approx(hours) and math.isnan(stated.hours.reach)


def test_a_language_that_time_left_out_counts_like_the_others():
    tallies = {
        ("train", "es"): sampling.Tally(listed=10),
        ("train", "fr"): sampling.Tally(listed=4, ruled_out=1),
    }
    measured = [sampling.Measured("es", 0.0, seconds, 0, 0) for seconds in (2.0, 4.0)]
    found = estimate._total(tallies, measured, set(), "seconds")
    assert found.value == 13 * 3.0 and math.isnan(found.reach)


def whole(**changes) -> Estimate:
    part = estimate.Part("train", "es", 10, 1, 2, Figure(1.0, 0.1))
    known = dict(
        parts=(part,), hours=Figure(1.0, 0.1), size=Figure(3e9, 2e8), work=Figure(600.0, 60.0),
        listing=10.0, archived=False, workers=1, encoding="pcm16", stated=(), sampled={"es": 9},
        aside={}, free=4 * 10**9,
    )  # fmt: skip
    return Estimate(**known | changes)


def test_time_is_that_of_the_workers_or_of_the_archives():
    assert whole().seconds == Figure(610.0, 60.0)
    assert whole(workers=8).seconds == Figure(310.0, 30.0)  # no more at work than shards
    assert whole(work=Figure(6.0, 1.0), archived=True).seconds == Figure(20.0, 0.0)


def test_the_report_is_readable_and_warns_of_a_small_disk():
    lines = estimate.report(whole(aside={"not audio": 2})).splitlines()
    assert lines[1].split() == ["train", "es", "10", "1", "2", "1.000", "±", "0.100"]
    assert lines[2].split() == ["all", "10", "1", "2", "1.000", "±", "0.100"]
    assert lines[3:] == [
        "output: 3.0 GB ± 200.0 MB as pcm16, estimated; 4.0 GB are free there",
        "time: 10.2 min ± 60 s with 1 worker, estimated",
        "estimated from 9 decoded utterances, with ± two standard errors",
        "set aside in the sample: 2 x not audio",
        "nothing was written",
    ]
    small = estimate.report(whole(free=10**9)).splitlines()
    assert small[-2] == "the disk is too small for that; name another --output, or --encoding flac"
    assert "the store does not say what is free" in estimate.report(whole(free=None))


def test_the_command_writes_nothing_and_says_so(tmp_path, capsys, monkeypatch):
    pack(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = sorted(os.walk(tmp_path))
    output = tmp_path / "not" / "there"
    command = ["folder", "--source", str(tmp_path / "in"), "--output", str(output), "--dry-run"]
    assert entry.main([*command, "--split", "train", "--workers", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:5] == ["train", "es", "8", "0", "1"]
    assert shown[-1] == "nothing was written" and "with 2 workers" in shown[-3]
    assert sorted(os.walk(tmp_path)) == before
    assert entry.main([*command, "--workers", "0"]) == 1
    assert capsys.readouterr().err == "error: workers must be 1 or more; got 0\n"


def test_what_preparation_refuses_it_refuses():
    twice = Noisy((("train", "es", (9_000,)), ("train", "es", (9_000,))))
    with pytest.raises(CorpusError, match="ids occur more than once"):
        estimate.estimate(twice, "out")
    with pytest.raises(CorpusError, match="no utterance in corpus noisy"):
        estimate.estimate(Noisy(()), "out")
