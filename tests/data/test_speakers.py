import dataclasses
import hashlib
import itertools
import time

import numpy as np
import pytest

from tests.data.corpora import make_corpus, ramp
from xlsr_jax.data import pipeline, records, speakers
from xlsr_jax.data.labelled import LabelledPlan
from xlsr_jax.data.pipeline import DataConfig, plan_training, train_batches
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.schema import ConfigError

SETTINGS = {
    "batch_seconds": 6.0,
    "min_samples": 1600,
    "max_crop_samples": 4000,
    "buckets": 1,
    "same_speaker": 4,
}
# Utterances of each speaker; "ann" of aa is not "ann" of bb.
VOICES = {
    "aa": {"ann": 37, "bob": 12, "cyd": 4, "dan": 21, "eve": 2},
    "bb": {"ann": 9, "fay": 15},
}


def write(root, voices, samples=5000, split="train"):
    """A corpus whose speakers' utterances lie mixed up; returns [records] (language, name)."""
    shards, said, rng = [], [], np.random.default_rng(0)
    for language, counts in voices.items():
        names = rng.permutation([name for name, count in counts.items() for _ in range(count)])
        found = []
        for name in names:
            length = samples if isinstance(samples, int) else int(rng.integers(*samples))
            audio = records.encode_audio(ramp(len(said), length), "pcm16")
            identity = f"{language}-{len(said)}"
            found.append(Record(identity, language, audio, "pcm16", length, speaker=str(name)))
            said.append((language, str(name)))
        path = f"{split}/{language}-00000.array_record"
        shards.append(records.write_shard(root, path, split, language, found))
    Manifest("voices", tuple(shards), {}, {}).save(root)
    return said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("voices")
    write(root, VOICES)
    return root


def planned(root, row_multiple=4, **settings):
    return plan_training(DataConfig(path=str(root), **(SETTINGS | settings)), row_multiple)


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def drawn_groups(plan, steps, seed=0):
    """[groups, n] record numbers of all groups of the first steps of a one-bucket plan."""
    stream = pipeline.schedule(plan, seed)
    return np.concatenate([stream[step][1].reshape(-1, plan.group) for step in range(steps)])


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name, array in batch.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


def test_speakers_are_read_once_and_kept(tmp_path, capsys):
    said = write(tmp_path, {"aa": {"a b": 3, "c": 2, "": 2}, "bb": {"c": 4}})
    index = planned(tmp_path, same_speaker=0).index
    numbers = speakers.load(index)
    assert numbers.dtype == np.int32
    # Equal numbers where language and name are equal, and only there; -1 for no name.
    for one, (language, name) in zip(numbers, said, strict=True):
        same = np.array([other == (language, name) for other in said])
        np.testing.assert_array_equal(numbers == one, same)
        assert (one == speakers.UNKNOWN) == (name == "")
    kept = tmp_path / "speakers/train/aa-00000.tsv"
    lines = kept.read_text().split("\n")
    assert lines[0] == f"# speakers of the shard with sha256 {index.shards[0].sha256}"
    assert lines[1] == f"aa-0\t{said[0][1]}"
    assert "speakers of train/aa-00000.array_record" in capsys.readouterr().err

    shard = (tmp_path / index.shards[0].path).rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(speakers.load(index), numbers)  # the shard is not opened
    assert capsys.readouterr().err == ""
    shard.rename(tmp_path / index.shards[0].path)
    for damaged in (lines[1:], ["# speakers of the shard with sha256 0", *lines[1:]], lines[:-2]):
        kept.write_text("\n".join(damaged))
        np.testing.assert_array_equal(speakers.load(index), numbers)
        assert kept.read_text().split("\n") == lines


def test_rows_come_in_groups_of_one_speaker(corpus):
    plan = planned(corpus)
    assert plan.rows == (16,)  # 24 fit, in multiples of 4 groups of 4
    offsets = set()
    for batch in take(train_batches(plan, seed=3), 30):
        for group in batch["record"].reshape(-1, 4):
            assert len(set(plan.speaker[group])) == 1
            assert len(set(plan.index.language[group])) == 1
            there = np.sum(plan.speaker == plan.speaker[group[0]])
            assert len(set(group)) == min(there, 4)
        np.testing.assert_array_equal(batch["language"], plan.index.language[batch["record"]])
        for row, record in enumerate(batch["record"]):
            wave, whole = batch["waveform"][row], ramp(record, 5000)
            start = int(np.flatnonzero(whole == wave[0])[0])
            np.testing.assert_array_equal(wave, whole[start : start + 4000])
            offsets.add(start)
    assert len(offsets) > 200


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_languages_keep_their_shares_and_utterances_come_equally_often(corpus, alpha):
    plan = planned(corpus, alpha=alpha)
    groups = drawn_groups(plan, 400)
    language = plan.index.language[groups].ravel()
    hours = Manifest.load(corpus).hours("train")
    tempered = np.array([hours[name] ** alpha for name in ("aa", "bb")])
    shares = np.bincount(language) / language.size
    np.testing.assert_allclose(shares, tempered / tempered.sum(), atol=0.002)
    times = np.bincount(groups.ravel(), minlength=len(plan.speaker))
    for number in (0, 1):
        mine = times[plan.index.language == number]
        # Within a speaker at most 1 apart by whole epochs; one epoch is under way.
        assert mine.min() > 20
        np.testing.assert_allclose(mine, mine.mean(), rtol=0.15)
    by_speaker = np.bincount(plan.speaker, times)
    of_aa = np.unique(plan.speaker[plan.index.language == 0])
    counts = np.bincount(plan.speaker)[of_aa]
    drawn = by_speaker[of_aa] / by_speaker[of_aa].sum()
    np.testing.assert_allclose(drawn, counts / counts.sum(), atol=0.005)


def test_a_round_draws_every_utterance_equally_often_and_none_twice_in_an_epoch_too_many():
    rng = np.random.default_rng(1)
    for size in (1, 3, 8):
        counts = [1, 2, 5, 7, 8, 9, 13, 16, 40, *rng.integers(1, 30, 10)]
        speaker = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
        numbers = 1000 + np.arange(len(speaker), dtype=np.int32)
        groups = speakers.Groups(numbers, speaker, size, (7,))
        drawn = np.stack([groups[i] for i in range(3 * len(numbers))]) - 1000
        assert (speaker[drawn] == speaker[drawn[:, :1]]).all()
        for group in drawn:
            _, times = np.unique(group, return_counts=True)
            there = counts[speaker[group[0]]]
            assert len(times) == min(there, size) and times.max() <= -(-size // there)
        for part in np.split(drawn, 3):  # rounds
            np.testing.assert_array_equal(np.bincount(part.ravel()), size)
        assert len({tuple(sorted(group)) for group in drawn.tolist()}) > 0.2 * len(drawn)
        # Whenever an epoch ends, a speaker's utterances are at most one draw apart.
        for end in groups.epoch_begins:
            times = np.bincount(drawn[:end].ravel(), minlength=len(numbers))
            for one in range(len(counts)):
                assert np.ptp(times[speaker == one]) <= 1
            # and speakers had what is theirs, up to two groups: one for the phase, one for rounding
            epochs = np.searchsorted(groups.epoch_begins, end)
            had = np.bincount(speaker, times, len(counts)) / size
            assert (np.abs(had - np.array(counts) * epochs / size) <= 2).all()


def test_speakers_of_few_utterances_do_not_all_come_in_one_epoch():
    numbers = np.arange(400, dtype=np.int32)
    groups = np.diff(speakers.Groups(numbers, numbers, 8, (0,)).epoch_begins)
    assert groups.sum() == 400 and groups.min() > 50 - 25 and groups.max() < 50 + 25


def test_groups_are_dealt_anew_each_epoch():
    """Two utterances of one speaker meet about as often as chance has it."""
    numbers = np.arange(16, dtype=np.int32)
    groups = speakers.Groups(numbers, np.zeros(16, np.int32), 4, (0,))
    met = np.zeros((16, 16))
    for i in range(4 * 1000):
        group = groups[i]
        met[np.ix_(group, group)] += 1
    np.testing.assert_array_equal(np.diag(met), 1000)
    others = met[~np.eye(16, dtype=bool)]
    np.testing.assert_allclose(others, 1000 * 3 / 15, atol=5 * np.sqrt(1000 * 0.2 * 0.8))


@pytest.mark.parametrize(("hosts", "workers"), [(2, 0), (4, 0), (2, 1)])
def test_hosts_share_out_the_same_global_batch(corpus, hosts, workers):
    expected = take(train_batches(planned(corpus), seed=5), 4)
    plan = planned(corpus, workers=workers)
    parts = [take(train_batches(plan, seed=5, host=h, hosts=hosts), 4) for h in range(hosts)]
    for step, batch in enumerate(expected):
        columns = {name: [part[step][name] for part in parts] for name in batch}
        assert_equal({name: np.concatenate(parts) for name, parts in columns.items()}, batch)
        for part in columns["record"]:  # each host has whole groups
            assert (np.ptp(plan.speaker[part].reshape(-1, 4), axis=1) == 0).all()


def test_late_steps_are_reached_without_replay(corpus):
    plan = planned(corpus)
    began = time.perf_counter()
    late = take(train_batches(plan, seed=1, start_step=10**9), 1)[0]
    assert time.perf_counter() - began < 5
    assert_equal(late, take(train_batches(plan, seed=1, start_step=10**9 - 1), 2)[1])
    other = take(train_batches(plan, seed=2, start_step=10**9), 1)[0]
    assert (other["record"] != late["record"]).mean() > 0.5


def test_repeats_are_counted_and_said(corpus):
    plan = planned(corpus)
    groups = drawn_groups(plan, 600)
    repeats = np.mean([4 - len(set(group)) for group in groups.tolist()]) / 4
    # eve's 2 utterances of aa: half of her windows, which are 2 / 76 of the language's.
    hours = np.array([76, 24])
    expected = (np.sqrt(hours) / np.sqrt(hours).sum())[0] * 2 / 76 * 0.5
    assert abs(repeats - expected) < 0.002
    summary = plan.summary()
    assert "rows in groups of 4 of one speaker; speakers: aa 5, bb 2" in summary
    line = f"fewer than 4 utterances: 1; their groups repeat some, {expected:.1%} of all windows"
    assert line in summary
    one = planned(corpus, languages=("bb",), same_speaker=2).summary()
    assert "groups of 2 of one speaker; speakers: bb 2" in one and "repeat" not in one


def test_short_and_nameless_utterances_are_left_out_and_said(tmp_path):
    write(tmp_path, {"aa": {"ann": 30, "bob": 20, "": 6}}, samples=(1000, 9000))
    plan = planned(tmp_path, buckets=3, batch_seconds=12.0)
    used = np.concatenate([cell for row in plan.cells for cell in row])
    keep = (plan.index.samples >= 1600) & (plan.speaker >= 0)
    np.testing.assert_array_equal(np.sort(used), np.flatnonzero(keep))
    summary = plan.summary()
    assert f"{keep.sum()} utterances" in summary
    assert f"left out, shorter than 0.1 s: aa {(plan.index.samples < 1600).sum()}" in summary
    assert "left out, without a speaker: 6 utterances" in summary
    stream, seen = pipeline.schedule(plan, 0), set()
    for step in range(60):
        bucket, numbers = stream[step]
        assert (plan.index.samples[numbers] >= plan.lengths[bucket]).all()
        assert (np.ptp(plan.speaker[numbers].reshape(-1, 4), axis=1) == 0).all()
        seen |= {bucket}
    assert seen == {0, 1, 2}


def test_a_single_speaker_works_and_is_said(tmp_path):
    write(tmp_path, {"aa": {"ann": 3}})
    plan = planned(tmp_path, same_speaker=8, row_multiple=1)
    assert "groups of 8 of one speaker; speakers: aa 1" in plan.summary()
    assert "1; their groups repeat some, 62.5% of all windows" in plan.summary()
    for batch in take(train_batches(plan, seed=0), 3):
        _, times = np.unique(batch["record"].reshape(-1, 8)[0], return_counts=True)
        assert sorted(times) == [2, 3, 3]


def test_errors(corpus, tmp_path):
    make_corpus(tmp_path, {"aa": [5000] * 4})
    with pytest.raises(CorpusError, match="does not say who speaks in aa, .*same_speaker=0"):
        planned(tmp_path)
    with pytest.raises(ConfigError, match="multiples of 28 .*same_speaker=7 is a factor of it"):
        planned(corpus, same_speaker=7)
    plan = planned(corpus, row_multiple=1)
    with pytest.raises(ConfigError, match="24 rows, in groups of 4, do not divide over 4 hosts"):
        train_batches(plan, seed=0, hosts=4)
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    labelled = LabelledPlan(**fields, labels=None, width=8, refused=())
    with pytest.raises(ConfigError, match="with labels mix speakers; set .*same_speaker=0"):
        train_batches(labelled, seed=0)
    write(tmp_path / "damaged", {"aa": {"ann": 40}}, samples=20_000)
    shard = tmp_path / "damaged/train/aa-00000.array_record"
    content = bytearray(shard.read_bytes())
    content[300_000:400_000] = bytes(100_000)
    shard.write_bytes(content)
    with pytest.raises(CorpusError, match=r"record \d+ of train/aa-00000.array_record .*sha256"):
        planned(tmp_path / "damaged")


def test_without_groups_the_stream_is_what_it_was(tmp_path):
    """Hash of batches made before there were groups."""
    rng = np.random.default_rng(0)
    lengths = {"aa": rng.integers(1000, 9500, 60), "bb": rng.integers(1000, 9500, 25)}
    make_corpus(tmp_path, lengths)
    settings = {"same_speaker": 0, "max_crop_samples": 8000, "buckets": 3, "batch_seconds": 3.0}
    plan = planned(tmp_path, row_multiple=2, **settings)
    for start, expected in ((0, "2395716772cb36bb"), (10**6, "246e9573fefaae68")):
        digest = hashlib.sha256()
        for batch in take(train_batches(plan, seed=7, start_step=start), 5):
            for name, array in sorted(batch.items()):
                digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
        assert digest.hexdigest().startswith(expected)
    assert not (tmp_path / "speakers").exists()
