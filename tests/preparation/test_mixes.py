"""Mixes: parts by their own readers, ids and speakers apart, one code a language, hours stated."""

import dataclasses
import functools
import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import soundfile

from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest, Record, Shard
from xlsr_jax.data.speech import Speech
from xlsr_jax.preparation.corpora import mixes
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.mixes import RECIPES, Mix, Part, hours_table
from xlsr_jax.preparation.prepare import prepare
from xlsr_jax.prepare import main

RATE = 16_000


def speak(level, seconds=0.1):
    return Speech(np.full(int(seconds * RATE), level, np.float32), RATE)


@dataclasses.dataclass(frozen=True)
class Stub:
    """Utterances given as (split, id, language, speaker, level)."""

    rows: tuple[tuple, ...]
    option: str = ""

    def splits(self):
        return list(dict.fromkeys(row[0] for row in self.rows))

    def utterances(self, split):
        for row_split, identity, language, speaker, level in self.rows:
            if row_split == split:
                load = refused("no voice: here") if level is None else (
                    functools.partial(speak, level))  # fmt: skip
                yield Utterance(identity, language, load, f"text {level}", speaker)

    def fingerprint(self):
        return {"option": self.option, "stub version": "1"}


CV = Stub((
    ("train", "1", "sv-SE", "anna", 0.25),
    ("train", "2", "zh-CN", "bo", 0.5),
    ("train", "3", "sw", "", 0.125),
    ("valid", "4", "es", "", 0.0625),
    ("other", "5", "sv-SE", "", None),
))  # fmt: skip
BABEL = Stub((("test", "1", "zh", "bo", -0.25), ("train", "2", "tr", "anna", -0.5)))


def prepared(corpus, out):
    """{id: (split, language, text, speaker, level)} and {id: reason}."""
    manifest, found = prepare(corpus, out, workers=1, progress_bar=False), {}
    for shard in manifest.shards:
        source = records.open_shards(out, [shard])
        for r in (Record.from_bytes(source[i]) for i in range(len(source))):
            found[r.id] = shard.split, r.language, r.text, r.speaker, r.waveform()[0]
    aside = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return found, {line["id"]: line["reason"] for line in aside}


def test_every_field_of_two_parts_that_collide(tmp_path):
    mix = Mix((Part("cv", "common_voice", CV), Part("babel", "babel", BABEL)))
    assert list(mix.splits()) == ["train", "valid", "test", "other"]
    found, aside = prepared(mix, tmp_path / "out")
    assert found == {
        "cv/1": ("train", "sv", "text 0.25", "cv/anna", 0.25),
        "cv/2": ("train", "zh", "text 0.5", "cv/bo", 0.5),
        "cv/3": ("train", "sw", "text 0.125", "", 0.125),
        "cv/4": ("valid", "es", "text 0.0625", "", 0.0625),
        "babel/1": ("test", "yue", "text -0.25", "babel/bo", -0.25),
        "babel/2": ("train", "tr", "text -0.5", "babel/anna", -0.5),
    }
    assert aside == {"cv/5": "no voice: here"}
    made = Manifest.load(tmp_path / "out").made_with
    assert (made["cv reader"], made["babel stub version"]) == ("common_voice", "1")


def test_one_part_keeps_its_ids_and_a_recipe_its_languages(tmp_path):
    mix = Mix((Part("common_voice", "common_voice", CV),), "xlsr10")
    found, aside = prepared(mix, tmp_path / "out")
    assert {each: (row[1], row[3]) for each, row in found.items()} == {
        "1": ("sv", "anna"), "2": ("zh", "bo"), "4": ("es", ""),
    }  # fmt: skip
    assert aside == {"5": "no voice: here"}
    unknown = Mix((Part("mine", "folder", CV),), "xlsr10")
    assert [u.id for u in unknown.utterances("train")] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("reader", "theirs", "ours"),
    [
        ("common_voice", "sv-SE", "sv"), ("common_voice", "zh-CN", "zh"),
        ("common_voice", "zh-HK", "zh-HK"), ("common_voice", "ga-IE", "ga"), ("mls", "es", "es"),
        ("babel", "tp", "tpi"), ("babel", "ku", "kmr"), ("babel", "yue", "yue"),
    ],
)  # fmt: skip
def test_languages_have_one_code(reader, theirs, ours):
    assert mixes.code(reader, theirs) == ours


def test_recipes_state_what_the_papers_do():
    hours = {name: recipe.hours for name, recipe in RECIPES.items()}
    ten = hours["xlsr10"]["common_voice"]
    assert len(ten) == 11 and sum(ten.values()) == 793 + 557 == 1350
    assert {each: len(of) for each, of in hours["xlsr53"].items()} == {
        "common_voice": 36, "mls": 8, "babel": 17,
    }  # fmt: skip
    assert sum(hours["xlsr53"]["mls"].values()) == pytest.approx(50_700, abs=50)
    assert sum(RECIPES["xlsr53"].sums.values()) == 56_000
    babel = {name: of["babel"] for name, of in hours.items() if "babel" in of}
    assert [len(babel[name]) for name in ("babel10", "babel14", "xlsr53")] == [10, 14, 17]
    assert sum(hours["unispeech"]["common_voice"].values()) == 2_082
    for name, of in hours.items():
        assert of.keys() == RECIPES[name].sums.keys() and set(of) <= set(mixes.READERS)


def manifest_of(hours):
    shards = (
        Shard(f"{split}/{language}", split, language, 1, round(some * 3600 * RATE), "")
        for (split, language), some in hours.items()
    )
    return Manifest("m", tuple(shards), {}, {})


def test_the_table_sets_hours_stated_beside_those_found():
    manifest = manifest_of({("train", "es"): 167.5, ("train", "es2"): 1, ("valid", "es"): 9,
                            ("train", "en"): 550.25})  # fmt: skip
    rows = [line.split() for line in hours_table(manifest, "xlsr10").splitlines()]
    assert ["es", "168.0", "167.500"] in rows
    assert ["en", "557.0", "550.250"] in rows
    assert ["fr", "353.0", "0.000"] in rows
    assert ["es2", "-", "1.000"] in rows
    assert ["all", "1350.0", "718.750"] in rows
    assert rows[-1][3:] == ["fr", "it", "ky", "nl", "ru", "sv", "tr", "tt", "zh"]
    wide = [line.split() for line in hours_table(manifest_of({}), "xlsr53").splitlines()]
    assert ["de", "1966.5+", "0.000"] in wide  # and what Common Voice has
    assert ["pl", "103.7", "0.000"] in wide
    assert ["zu", "-", "0.000"] in wide
    assert ["all", "56000.0", "0.000"] in wide
    mix = Mix((Part("a", "folder", CV),), "xlsr10")
    assert mix.notes(manifest)[-1] == hours_table(manifest, "xlsr10")
    assert Mix((Part("a", "folder", CV),)).notes(manifest) == ()


def recordings(root, *names):
    for number, name in enumerate(names, start=1):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.full(1_600, 1_000 * number, np.int16), RATE)


@pytest.mark.parametrize("suffix", ["tsv", "json"])
def test_a_list_of_parts_with_the_readers_own_options(suffix, tmp_path):
    recordings(tmp_path / "my a", "es/1.wav", "es/2.wav")
    recordings(tmp_path / "b", "1.wav")
    rows = [
        {"reader": "folder", "source": str(tmp_path / "my a"), "options": ["--split", "train"]},
        {"reader": "folder", "source": str(tmp_path / "b"),
         "options": ["--split", "few", "--language", "zh-CN"]},
    ]  # fmt: skip
    path = tmp_path / f"parts.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        lines = ["reader\tsource\toptions\tname"]
        lines += [f"folder\t{row['source']}\t{' '.join(row['options'])}\t" for row in rows]
        path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    command = ["mixes", "--parts", str(path), "--output", str(tmp_path / "out"), "--name", "all"]
    assert main([*command, "--workers", "1"]) == 0
    manifest = Manifest.load(tmp_path / "out")
    source = records.open_shards(tmp_path / "out", manifest.shards)
    found = [Record.from_bytes(source[i]) for i in range(len(source))]
    assert [(r.id, r.language, r.waveform()[0] * 32_768) for r in found] == [
        ("folder/es/1.wav", "es", 1_000),
        ("folder/es/2.wav", "es", 2_000),
        ("folder-2/1.wav", "zh", 1_000),
    ]
    assert [shard.split for shard in manifest.shards] == ["train", "few"]
    assert str(tmp_path) not in str(manifest.made_with)


def test_recipes_hand_sources_and_options_to_readers(tmp_path, monkeypatch):
    given = []

    def module(name, flags):
        made = types.ModuleType(name)
        made.add_flags = lambda parser: [
            parser.add_argument(flag, action=action) for flag, action in flags.items()
        ]
        made.from_flags = lambda options: given.append((name, vars(options))) or CV
        full = f"xlsr_jax.preparation.corpora.{name}"
        made.__spec__ = importlib.util.spec_from_loader(full, None)
        monkeypatch.setitem(sys.modules, full, made)
        monkeypatch.setattr(sys.modules["xlsr_jax.preparation.corpora"], name, made, raising=False)

    module("common_voice", {"--source": "store", "--pretraining": "store_true"})
    module("mls", {"--source": "store"})
    mix = mixes.from_flags(flags("--recipe", "xlsr53", "--mls", "m",
                                 "--common_voice", "c", "--common_voice", "d"))  # fmt: skip
    assert given == [
        ("common_voice", {"source": "c", "pretraining": True}),
        ("common_voice", {"source": "d", "pretraining": True}),
        ("mls", {"source": "m"}),
    ]
    assert [part.name for part in mix.parts] == ["common_voice", "common_voice-2", "mls"]
    assert (mix.name, mix.recipe) == ("xlsr53", "xlsr53")


def flags(*arguments):
    import argparse

    parser = argparse.ArgumentParser()
    mixes.add_flags(parser)
    return parser.parse_args(arguments)


def test_complaints_are_one_line(tmp_path):
    def complaint(*arguments):
        with pytest.raises(CorpusError) as error:
            mixes.from_flags(flags(*arguments))
        assert "\n" not in str(error.value)
        return str(error.value)

    def listed(content, suffix="json"):
        path = tmp_path / f"parts.{suffix}"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return complaint("--parts", str(path))

    assert "give --common_voice --mls --babel or --parts" in complaint()
    assert "no reader 'nothing'" in listed([{"reader": "nothing"}])
    assert "no reader '..os'" in listed([{"reader": "..os"}])
    assert "'base' is no reader" in listed([{"reader": "base"}])
    assert listed([{"reader": "folder"}]).startswith("the part 'folder': the following arguments")
    bad = {"reader": "folder", "source": "x", "options": ["--langage", "es"]}
    assert "unrecognized arguments: --langage es" in listed([bad])
    good = {"reader": "folder", "source": "x", "name": "a"}
    assert "two parts are named 'a'" in listed([good, good])
    assert "part 1 of" in listed([{"source": "x"}])
    assert "part 1 of" in listed("reader\tplace\nfolder\tx\n", "tsv")
    assert "is no list of parts" in listed({"reader": "folder"})
    assert "cannot be read" in listed("{oops")
    assert "must end in .tsv or .json" in listed("", "txt")
    assert "cannot be read" in complaint("--parts", str(tmp_path / "none.tsv"))


def test_common_voice_by_its_own_reader(tmp_path):
    folder = tmp_path / "cv-corpus-4-2019-12-10" / "sv-SE"
    (folder / "clips").mkdir(parents=True)
    lines = ["client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"]
    for number in range(3):
        clip = f"common_voice_sv-SE_{number}.mp3"
        soundfile.write(folder / "clips" / clip, np.zeros(16_000), 48_000, format="MP3")
        lines.append(f"{'ab' * 64}\t{clip}\tJa {number}.\t2\t0\t\t\t")
    tables = {"validated": lines, "dev": lines[:2], "test": lines[:1], "train": lines[:1]}
    for table, rows in tables.items():
        (folder / f"{table}.tsv").write_text("\n".join(rows) + "\n")
    mix = mixes.from_flags(flags("--recipe", "xlsr10", "--common_voice", str(folder.parent)))
    manifest = prepare(mix, tmp_path / "out", workers=1, progress_bar=False)
    counts = {(s.split, s.language): s.utterances for s in manifest.shards}
    assert counts == {("train", "sv"): 2, ("valid", "sv"): 1}
    assert ["sv", "3.0", "0.000"] in [line.split() for line in mix.notes(manifest)[-1].splitlines()]
