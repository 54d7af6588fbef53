"""Speech data that TensorFlow Datasets (TFDS) prepared, of any builder with an audio feature.

    python -m xlsr_jax.prepare tfds --builder librispeech --data_dir ~/tensorflow_datasets \\
        --language en --split-as train_clean100=train --split-as dev_clean=valid --output corpora/ls
    python -m xlsr_jax.prepare tfds --builder common_voice/es:2.0.0 --data_dir ... --output ...

The builder is name[/config][:version], as TFDS spells it; the version is the highest that is
there. Its files, ArrayRecord or TFRecord, are read directly, because ``tfds.data_source`` needs
TensorFlow for audio; this needs tensorflow-datasets alone (pip install xlsr_jax[tfds]). The splits
validation and dev become valid, others keep their names; --split-as gives one another.

Features are found by name (see --column); the audio is the one of type Audio: integers, of which
int64 counts as 16 bits wide as TFDS decodes, or floats in [-1, 1], or files as they were
(lazy_decode). Other features with samples are named by --column audio= and --rate. The id is the
feature id, where it is text, or path or file, or else the shard and the number: --column id= takes
that for all. The language is --language, or the utterance's, or a config that looks like a code.

Set aside: utterances without samples or without language, and those that cannot be parsed.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.corpora import embedded, examples
from xlsr_jax.preparation.corpora.base import Utterance, refused
from xlsr_jax.preparation.corpora.embedded import Rules
from xlsr_jax.preparation.corpora.examples import Shard

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # of shards' names, unless told
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Reader of TFDS data; see the module's docstring for the rules.

    Attributes:
      builder: name[/config][:version].
      data_dir: what TFDS calls so; holds the builder's folder.
      rate: in Hz, of audio whose feature does not tell; 0 for none.
    """

    builder: str
    data_dir: str
    rules: Rules = Rules()
    rate: int = 0
    name: str = "tfds"

    def splits(self) -> Sequence[str]:
        return list(dict.fromkeys(self.rules.split(theirs) for theirs in self._shards))

    def utterances(self, split: str) -> Iterator[Utterance]:
        for theirs, shards in self._shards.items():
            if self.rules.split(theirs) == split:
                for shard in shards:
                    yield from self._listed(shard)

    def fingerprint(self) -> Mapping[str, str]:
        """Options, the data's version, and the names and sizes of the files."""
        files = hashlib.sha256()
        for shard in (shard for shards in self._shards.values() for shard in shards):
            size = os.path.getsize(shard.path) if os.path.exists(shard.path) else -1
            files.update(f"{shard.name}\t{size}\n".encode())
        return {
            **self.rules.described(),
            "rate": str(self.rate or "as told"),
            "builder": "/".join(self._builder),
            "source": f"folder (sha256 {files.hexdigest()})",
        }

    @functools.cached_property
    def _folder(self) -> str:
        name, _, version = self.builder.partition(":")
        return _version_folder(os.path.join(os.path.expanduser(self.data_dir), name), version)

    @property
    def _builder(self) -> list[str]:
        """Name, config if there are any, and version."""
        root = os.path.expanduser(self.data_dir)
        return os.path.relpath(self._folder, root).split(os.sep)

    @functools.cached_property
    def _shards(self) -> dict[str, list[Shard]]:
        """{their split: its files}, of those to take."""
        info = _json(self._folder, "dataset_info.json")
        form = info.get("fileFormat", "tfrecord")
        found = {}
        for split in info.get("splits", ()):
            lengths = [int(length) for length in split.get("shardLengths", ())]
            template = split.get("filepathTemplate") or TEMPLATE
            names = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": form}
            found[split["name"]] = [
                Shard(
                    self._folder, form, length, template.format(**names, **_place(i, len(lengths)))
                )
                for i, length in enumerate(lengths)
                if length
            ]
        return {split: found[split] for split in self.rules.taken(found, self._folder)}

    @functools.cached_property
    def _features(self) -> dict[str, dict[str, Any]]:
        """{feature: its description}."""
        described = _json(self._folder, "features.json")
        if "featuresDict" not in described:
            raise CorpusError(
                f"{self._folder}/features.json is of another TFDS version; prepare "
                "the data again with tensorflow-datasets 4.5 or newer"
            )
        return described["featuresDict"]["features"]

    def _listed(self, shard: Shard) -> Iterator[Utterance]:
        classes = self._classes()
        kinds = {name: _kind(feature, name in classes) for name, feature in self._features.items()}
        columns = self.rules.chosen(kinds, self._folder)
        audio = examples.audio_of(columns["audio"], self._features[columns["audio"]], self.rate)
        language = self.rules.language or self._config_language()
        if not language and not columns["language"]:
            raise CorpusError(
                f"{self.builder} names no language; give --language, or the feature "
                "that has it with --column language="
            )
        for number, (at, example) in enumerate(shard.examples()):
            where = f"{shard.name}:{number}"
            if example is None:
                reason = "damaged record: it cannot be parsed"
                yield Utterance(where, language or embedded.UNKNOWN, refused(reason))
                continue
            row = {name: _value(example, name, classes) for name in columns.values()}
            said = self.rules.language or embedded.label(row, columns["language"]) or language
            load = functools.partial(examples.load, shard, at, audio, self.rules.max_seconds)
            yield Utterance(
                id=embedded.label(row, columns["id"]) or where,
                language=said or embedded.UNKNOWN,
                load=load if said else refused("no language"),
                text=embedded.label(row, columns["text"]),
                speaker=embedded.label(row, columns["speaker"]),
                seconds=examples.seconds(example, audio),
            )

    def _config_language(self) -> str:
        codes = [config for config in self._builder[1:-1] if embedded.looks_like_a_code(config)]
        return next(iter(codes), "")

    def _classes(self) -> dict[str, list[str]]:
        """{feature: names} of features that hold numbers of classes."""
        classes = {}
        for feature in self._features:
            path = os.path.join(self._folder, f"{feature}.labels.txt")
            if os.path.isfile(path):
                with open(path, encoding="utf-8") as file:
                    classes[feature] = file.read().splitlines()
        return classes


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--builder", required=True, metavar="NAME[/CONFIG][:VERSION]", help="such as librispeech")
    add("--data_dir", "--data-dir", required=True, metavar="DIR", help="where TFDS has its data")
    add("--rate", type=int, default=0, metavar="HZ", help="of audio whose feature does not tell")
    embedded.add_flags(parser, "tfds")


def from_flags(options: argparse.Namespace) -> Tfds:
    """The reader that the command line asks for."""
    rules = embedded.from_flags(options)
    return Tfds(options.builder, options.data_dir, rules, options.rate, options.name)


def _place(number: int, count: int) -> dict[str, str]:
    """What templates call the place of a shard among others."""
    index, total = f"{number:05d}", f"{count:05d}"
    return {"SHARD_INDEX": index, "NUM_SHARDS": total, "SHARD_X_OF_Y": f"{index}-of-{total}"}


def _version_folder(folder: str, version: str) -> str:
    """The folder of a version, the highest if "", of the only config where there are configs."""
    above = os.path.dirname(folder)
    if not os.path.isdir(folder):
        there = ", ".join(_folders(above)) or "nothing"
        raise CorpusError(f"no {os.path.basename(folder)} in {above}; it has {there}")
    names = _folders(folder)
    versions = [name for name in names if _VERSION.fullmatch(name)]
    if not versions and len(names) == 1:
        return _version_folder(os.path.join(folder, names[0]), version)
    if not versions:
        raise CorpusError(
            f"{folder} has no version of data; give --builder NAME/CONFIG, with one of "
            f"{', '.join(names) or 'none'}, or prepare it with tfds build"
        )
    if version and version not in versions:
        raise CorpusError(f"{folder} has no version {version}; it has {', '.join(versions)}")
    highest = max(versions, key=lambda name: [int(part) for part in name.split(".")])
    return os.path.join(folder, version or highest)


def _folders(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(each.name for each in os.scandir(folder) if each.is_dir() and each.name[0] != ".")


def _json(folder: str, name: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{folder} is no prepared data: {name} cannot be read ({error})"
        ) from error


def _kind(feature: Mapping[str, Any], has_classes: bool) -> str:
    """A feature's kind, as ``Rules.chosen`` takes it."""
    if feature["pythonClassName"].endswith(".Audio"):
        return "audio"
    return "text" if has_classes or "text" in feature or _dtype(feature) == "string" else "other"


def _dtype(feature: Mapping[str, Any]) -> str:
    held = feature.get("audio") or feature.get("tensor") or {}
    return held.get("dtype", "")


def _value(example: Any, name: str, classes: Mapping[str, Sequence[str]]) -> object:
    """A label: bytes, a number, the name of a class, or None."""
    feature = example.features.feature.get(name)
    held = feature and getattr(feature, feature.WhichOneof("kind") or "int64_list").value
    if not held:
        return None
    if name in classes and isinstance(held[0], int):
        return classes[name][held[0]] if 0 <= held[0] < len(classes[name]) else None
    return held[0]
