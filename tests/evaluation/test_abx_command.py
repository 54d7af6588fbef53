"""The ABX command: what it prints is what its parts give by hand, and what goes wrong is a line."""

import csv
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.analysis import pretrained
from xlsr_jax import abx as command
from xlsr_jax import config as configuration
from xlsr_jax import features as features_of_runs
from xlsr_jax.data.index import DataConfig, load_index
from xlsr_jax.data.pipeline import Reader
from xlsr_jax.data.records import Manifest, Record, encode_audio, write_shard
from xlsr_jax.evaluation import batches
from xlsr_jax.evaluation.abx import abx, items_of, same_items
from xlsr_jax.models import log_mel
from xlsr_jax.models.cpc import CPC
from xlsr_jax.models.networks import make_network
from xlsr_jax.models.wav2vec2 import Wav2Vec2
from xlsr_jax.training.checkpoint import Checkpoints
from xlsr_jax.training.state import TrainState

TONES = {"p": 300, "t": 700, "a": 1500, "b": 1580}  # Hz
WAV2VEC2 = {
    "conv_dims": (6, 8, 8), "conv_kernels": (10, 4, 3), "conv_strides": (5, 8, 4), "dim": 16,
    "layers": 2, "heads": 2, "ffn": 16, "position_kernel": 4, "position_groups": 2,
    "codewords": 5, "code_dim": 8, "final_dim": 16,
}  # fmt: skip
CPC_MODEL = {"conv_dims": (8,) * 5, "dim": 8, "heads": 2, "ffn": 8, "steps": 2}


def write(root, records, split="test"):
    """A corpus of these records, a shard a language."""
    shards = []
    for language in sorted({record.language for record in records}):
        path = f"{split}/{language}-00000.array_record"
        theirs = [record for record in records if record.language == language]
        shards.append(write_shard(root, path, split, language, theirs))
    Manifest("tones", tuple(shards), {}, {}).save(root)
    return root


def spoken(identity, speaker, phones, sound, language="es", seed=0):
    """A record that begins and ends with silence; ``sound`` is [samples] of (phone, samples).

    Those of as many phones are equally long, so that little is compiled.
    """
    draw, at = np.random.default_rng(seed), 800
    parts, alignment = [np.zeros(at)], []
    for phone in phones:
        part = sound(phone, int(draw.integers(1_000, 1_600)))
        parts.append(part)
        alignment.append((phone, at, at + len(part)))
        at += len(part)
    waveform = np.zeros(1_600 + 1_600 * len(phones), np.float32)
    waveform[:at] = np.concatenate(parts)
    audio = encode_audio(waveform, "pcm16")
    about = {"speaker": speaker, "alignment": tuple(alignment)}
    return Record(identity, language, audio, "pcm16", len(waveform), **about)


def tones(languages=("es",), speakers=("s", "t", "u"), utterances=2):
    """Records in which a and b, near each other, stand between p and t; others in noise."""
    records, draw = [], np.random.default_rng(1)

    def sound(pitch, phone, samples):
        time = np.arange(samples) / 16_000
        noise = 0.2 * draw.standard_normal(samples)
        return 0.2 * np.sin(2 * np.pi * TONES[phone] * pitch * time) + noise

    for language in languages:
        for number, speaker in enumerate(speakers):
            for utterance in range(utterances):
                phones = "patpbt" * (2 + utterance)
                name = f"{language}-{speaker}-{utterance}"
                own = lambda *part, n=number: sound(1 + n / 50, *part)  # noqa: E731
                records.append(spoken(name, speaker, phones, own, language, len(records)))
    return records


def make_run(folder, method="wav2vec2", corpus="", seed=0, classes=0, **model):
    """A run of a method with random parameters; returns its config and parameters."""
    config = configuration.default("tiny", method)
    config.data.path = str(corpus)
    small = {"cpc": CPC_MODEL, "finetune_cpc": CPC_MODEL, "finetune_log_mel": {}}
    for name, value in (small.get(method, WAV2VEC2) | model).items():
        config.model[name] = value
    config = configuration.resolve(config)
    module = configuration.method_module(method)
    how = {"classes": classes} if classes else {}
    objective = module.make_objective(config.model, config.objective, (), **how)
    draw, shapes = np.random.default_rng(seed), jax.eval_shape(objective.init, jax.random.key(0))
    random = lambda leaf: 0.3 * draw.standard_normal(leaf.shape, np.float32)  # noqa: E731
    params = jax.tree.map(random, shapes)
    pretrained.save(folder, 7, params, {"config": configuration.to_dict(config), "step": 7})
    return config, params


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    records = tones(("es", "sv"))
    return write(tmp_path_factory.mktemp("tones"), records), records


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    return folder, *make_run(folder, corpus=corpus[0])


def rows(folder):
    with open(folder / "abx.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def said(capsys, *flags):
    """What a failing command says: a line."""
    assert command.main([str(flag) for flag in flags]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


class Levels(features_of_runs.Features):
    """Features read off the waveform at each frame's centre: it is constant within a phone."""

    def of(self, waveforms):
        window, hop = self.model.geometry
        centres = [np.arange(self.model.frames(len(w))) * hop + window // 2 for w in waveforms]
        levels = [np.rint(w[at] * 32).astype(int) for w, at in zip(waveforms, centres, strict=True)]
        return [np.eye(32, dtype=np.float32)[self.params["code"][level]] for level in levels]


def test_known_features_have_known_errors(tmp_path, monkeypatch, capsys):
    """Levels are phone + 8 speaker; what is made of them is known, and so are the errors."""
    level = lambda speaker: lambda phone, n: np.full(n, (" patb".index(phone) + 8 * speaker) / 32)  # noqa: E731
    records = [spoken(f"u{n}", f"s{n}", "patpbtpatpbt", level(n), seed=n) for n in (0, 1)]
    root, every = write(tmp_path / "corpus", records), np.arange(32)
    swapped = every % 8
    swapped[[10, 12]] = [4, 2]  # speaker 1 says b for a and a for b
    codes = {"phone": every % 8, "speaker": every // 8, "swapped": swapped}
    model = log_mel.ModelConfig(hop=320)
    made = lambda run, layer, name: Levels(name, model, {"code": codes[name]}, corpus=str(root))  # noqa: E731
    monkeypatch.setattr(features_of_runs, "load", made)
    assert command.main(["--run=phone,speaker,swapped", f"--output={tmp_path}"]) == 0
    found = {row["features"]: row for row in rows(tmp_path)}
    errors = {name: (row["within_%"], row["across_%"]) for name, row in found.items()}
    assert errors == {
        "phone": ("0.00", "0.00"),
        "speaker": ("50.00", "50.00"),  # all ties
        "swapped": ("0.00", "100.00"),
    }
    for row in found.values():  # 2 a and 2 b of each speaker between p and t
        assert (row["within_pairs"], row["across_pairs"]) == ("2", "2")
        assert (row["within_triplets"], row["across_triplets"]) == ("16", "32")
        assert (row["speakers"], row["tokens"]) == ("2", "20")


def by_hand(records, features, window, hop, most=100):
    """Within and across, of ``features(waveform)`` of each record by itself."""
    items, found = [], {}
    for record in records:
        found[record.id] = np.asarray(features(record.waveform()))
        names = {"utterance": record.id, "speaker": record.speaker}
        frames = len(found[record.id])
        items += items_of(record.alignment, **names, frames=frames, window=window, hop=hop)
    return [abx(items, found, across, most) for across in (False, True)], len(items)


def test_the_table_is_what_the_parts_give(tmp_path, corpus, run, capsys):
    folder, config, params = run
    assert command.main([f"--run={folder}", "--log_mel", "--max_per_cell=3"]) == 0
    captured = capsys.readouterr()
    network = Wav2Vec2(config.model)  # with its heads
    apply = jax.jit(
        lambda waveform: network.apply(
            {"params": params}, waveform[None], jnp.array([len(waveform)]), method="read"
        )[0]
    )
    frames = jax.jit(
        lambda waveform: log_mel.log_mel(
            waveform[None], jnp.array([(len(waveform) - 400) // 160 + 1]), 80, 400, 160
        )[0]
    )
    found = rows(folder / "abx")
    assert [(row["language"], row["features"], row["update"]) for row in found] == [
        ("es", "mine", "7"), ("es", "log-mel", "-"), ("sv", "mine", "7"), ("sv", "log-mel", "-")
    ]  # fmt: skip
    errors = set()
    for row in found:
        how = {"mine": (apply, 105, 160), "log-mel": (frames, 400, 160)}[row["features"]]
        theirs = [record for record in corpus[1] if record.language == row["language"]]
        results, tokens = by_hand(theirs, *how, most=3)
        for kind, result in zip(("within", "across"), results, strict=True):
            assert row[f"{kind}_%"] == f"{100 * result.error:.2f}" and 0 < result.error < 1
            errors.add(row[f"{kind}_%"])
            assert int(row[f"{kind}_pairs"]) == result.pairs == 2
            assert int(row[f"{kind}_triplets"]) == result.triplets
        assert (int(row["tokens"]), row["speakers"]) == (tokens, "3")
        line = "| " + " | ".join(row.values()) + " |"
        squeezed = ["| " + " | ".join(x.split()[1::2]) + " |" for x in captured.out.splitlines()]
        assert line in squeezed
    assert len(errors) > 4
    assert captured.out.strip() in (folder / "abx/abx.md").read_text()


def test_all_are_asked_about_the_same_tokens(tmp_path, corpus, run):
    """Frames of 10 and 20 ms, and runs that are called the same."""
    theirs = tmp_path / "mine"
    make_run(theirs, corpus=corpus[0], seed=1, conv_strides=(5, 8, 8))
    flags = [f"--run={theirs},{run[0]},{theirs}", "--languages=sv", "--log_mel", "--seconds=3"]
    assert command.main(flags) == 0
    found = rows(theirs / "abx")
    assert [row["features"] for row in found] == [str(theirs), str(run[0]), "log-mel"]
    counts = {tuple(v for k, v in row.items() if "pairs" in k or "trip" in k) for row in found}
    assert len(counts) == 1 and {row["language"] for row in found} == {"sv"}
    assert len({row["across_%"] for row in found}) > 1
    tokens = {int(row["tokens"]) for row in found}
    assert len(tokens) == 1 and 0 < tokens.pop() < sum(6 * (2 + n) - 2 for n in (0, 1)) * 3  # 3 s


def test_same_items_are_those_that_all_hold():
    phones = [
        *[("p", 0, 1000), ("a", 1000, 2000), ("t", 2000, 3000)],
        *[("k", 3250, 4000), ("e", 4000, 5000), ("s", 5000, 6000)],  # 250 samples are a pause at
    ]  # frames of 160
    whole, half = (19, 400, 320), (38, 160, 160)
    names = {"utterance": "u", "speaker": "s"}
    found = same_items(phones, [whole, half], **names)
    assert [[item.phone for item in items] for items in found] == [["a", "e"]] * 2
    assert [(item.start, item.end) for item in found[0]] == [(0, 9), (10, 19)]
    assert [(item.start, item.end) for item in found[1]] == [(0, 19), (20, 37)]
    (alone,) = same_items(phones, [whole], **names)
    assert [item.phone for item in alone] == ["a", "t", "k", "e"]
    # One that lost its last frames takes the token from all.
    found = same_items(phones, [whole, (30, 160, 160)], **names)
    assert [[item.phone for item in items] for items in found] == [["a"]] * 2


NETWORKS = {
    "group norm, with padding": ("wav2vec2", -1, {"statistics_include_padding": True}),
    "layer norm, an inner layer": ("wav2vec2", 1, {"encoder_norm": "layer"}),
    "unispeech": ("unispeech", 0, {}),
    "cpc": ("cpc", -1, {}),
    "fine-tuned": ("finetune", -1, {}),
    "fine-tuned cpc": ("finetune_cpc", -1, {}),
    "log-mel probe": ("finetune_log_mel", -1, {}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_batched_as_one_by_one(tmp_path, corpus, name):
    method, layer, changes = NETWORKS[name]
    classes = 5 if "finetune" in method or method == "unispeech" else 0
    config, params = make_run(tmp_path / "run", method, classes=classes, **changes)
    features = features_of_runs.load(tmp_path / "run", layer)
    assert not features.params.keys() & {"output", "quantizer", "predictors", "classifier"}
    if "cpc" in method:
        network = CPC(config.model, pretraining=method == "cpc")
    else:
        network = make_network(config.model)
    reader = Reader(load_index(DataConfig(path=str(corpus[0])), "test"))
    numbers = [4, 1]  # 1 is longer
    found = features_of_runs.features_of(features, reader, numbers)
    apply = jax.jit(partial(network.apply, layer=layer, method="read"))
    for number in numbers:
        waveform = reader.waveform(number, normalize=False)
        (alone,) = apply({"params": params}, waveform[None], jnp.array([len(waveform)]))
        assert found[str(number)].dtype == np.float32 and np.ptp(alone) > 0.1
        np.testing.assert_allclose(found[str(number)], alone, atol=3e-5)


class Samples(features_of_runs.Features):
    """Features that are the samples themselves."""

    def of(self, waveforms):
        return [waveform[:, None] for waveform in waveforms]


def test_waveforms_are_normalized_where_the_run_asks(corpus):
    reader = Reader(load_index(DataConfig(path=str(corpus[0])), "test"))
    waveform = corpus[1][0].waveform()[:, None]
    unit = (waveform - waveform.mean()) / waveform.std()
    for normalize, expected in ((False, waveform), (True, unit)):
        features = Samples("samples", log_mel.ModelConfig(), {}, normalize=normalize)
        found = features_of_runs.features_of(features, reader, [0])["0"]
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert abs(waveform.std() - 1) > 0.5


def test_the_checkpoint_of_the_lowest_error_or_the_newest(tmp_path):
    for method, figure, chosen in (("finetune", "error_rate", "3"), ("wav2vec2", "loss", "6")):
        folder = tmp_path / method
        config, params = make_run(folder / "made", method, classes=5 * (method == "finetune"))
        checkpoints, zero = Checkpoints(folder, best_by=figure), np.zeros((), np.int32)
        for step, value in ((3, 0.2), (6, 0.5)):
            about = {"config": configuration.to_dict(config), "step": step}
            state = TrainState(zero + step, params, (), zero, zero)
            checkpoints.save(step, state, about, {figure: value})
            checkpoints.wait()
        checkpoints.close()
        assert features_of_runs.load(folder).update == chosen


def test_batches_have_few_shapes():
    shapes = []

    def compute(waveform_BN, samples_B):
        shapes.append(waveform_BN.shape)
        assert waveform_BN.sum(axis=1).tolist() == samples_B.tolist()  # zeros beyond
        return np.cumsum(waveform_BN, axis=1)[:, 99::100]

    frames = lambda samples: samples // 100  # noqa: E731
    for lengths in ([300, 250, 20_000], [17_000], [300] * 5):
        waveforms = [np.ones(length, np.float32) for length in lengths]
        for length, output in zip(lengths, batches.outputs(compute, waveforms, frames)):  # noqa: B905
            np.testing.assert_array_equal(output, np.arange(1, length // 100 + 1) * 100)
    assert batches.outputs(compute, [], frames) == []
    batches.outputs(compute, [np.ones(5, np.float32)], frames, shortest=16_001)
    assert shapes == [(4, 23_040), (1, 19_200), (8, 16_000), (1, 19_200)]


def test_batches_give_back_the_order():
    lengths, done, asked = [3, 9, 4, 2, 8], [], []

    def compute(waveforms):
        asked.append([len(waveform) for waveform in waveforms])
        return [waveform[:1] for waveform in waveforms]

    read = lambda place: np.full(lengths[place], place)  # noqa: E731
    found = batches.all_outputs(compute, lengths, read, 18, done.append)
    assert [int(*output) for output in found] == [0, 1, 2, 3, 4]
    assert asked == [[9, 8], [4, 3, 2]] and done == [2, 3]
    assert batches.all_outputs(compute, [], read, 18) == []


def test_one_speaker_or_none_named(tmp_path, run, capsys):
    lone = write(tmp_path / "lone", tones(speakers=("s",)))
    flags = [f"--run={run[0]}", f"--output={tmp_path / 'out'}"]
    assert command.main([*flags, f"--corpus={lone}"]) == 0
    error = capsys.readouterr().err
    assert "es, across speakers: no pairs" in error and "within speakers" not in error
    (row,) = rows(tmp_path / "out")
    assert (row["across_%"], row["across_pairs"], row["across_triplets"]) == ("-", "0", "0")
    assert float(row["within_%"]) > 0 and row["speakers"] == "1"
    assert "- es, across speakers: no pairs" in (tmp_path / "out/abx.md").read_text()
    nameless = write(tmp_path / "nameless", tones(speakers=("",)))
    assert command.main([*flags, f"--corpus={nameless}"]) == 0
    assert "es: utterances that name no speaker count as of one" in capsys.readouterr().err
    alone = [record for record in tones(("es", "sv"))]
    alone = [dataclasses.replace(r, alignment=()) if r.language == "sv" else r for r in alone]
    assert command.main([*flags, f"--corpus={write(tmp_path / 'part', alone)}"]) == 0
    es, sv = rows(tmp_path / "out")
    assert sv["within_%"] == sv["across_%"] == "-" and sv["tokens"] == "0"
    assert "-" not in (es["within_%"], es["across_%"])


def test_what_goes_wrong_is_a_line(tmp_path, corpus, run, capsys):
    folder, flag = run[0], f"--run={run[0]}"
    assert "is no run" in said(capsys, f"--run={folder},{tmp_path}")
    assert "give the folder of one" in said(capsys, "--run=,")
    absent = tmp_path / "absent"
    line = said(capsys, f"--run={folder},{absent}")
    assert f"{absent} is no run" in line and "give the --workdir" in line
    assert "no corpus at" in said(capsys, flag, f"--corpus={tmp_path}")
    assert "no data for language 'fr'; the corpus has es, sv" in said(
        capsys, flag, "--languages=fr"
    )
    assert "no split 'dev'; it has test" in said(capsys, flag, "--split=dev")
    assert "has layers 0 to 1" in said(capsys, flag, "--layer=2")
    silent = [dataclasses.replace(record, alignment=()) for record in corpus[1]]
    line = said(capsys, flag, f"--corpus={write(tmp_path / 'silent', silent)}")
    assert "no aligned phones" in line and "give a corpus whose records" in line
    make_run(tmp_path / "diverged", corpus=corpus[0])
    params = jax.tree.map(lambda leaf: leaf * np.nan, run[2])
    about = {"config": configuration.to_dict(run[1]), "step": 9}
    pretrained.save(tmp_path / "diverged", 9, params, about)
    line = said(capsys, f"--run={tmp_path / 'diverged'}")
    assert "diverged: features of update 9 are not finite" in line
    for wrong in ("--layer=-2", "--seconds=-1", "--max_per_cell=x"):
        with pytest.raises(SystemExit):
            command.main([flag, wrong])
