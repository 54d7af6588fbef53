"""TIMIT (LDC93S1): read English with phones aligned by hand.

--source is a folder or a .tar.gz that holds TRAIN/DR1..DR8/<speaker>/<sentence>.WAV (.PHN, .TXT)
and TEST likewise, at any depth and in upper or lower case; of the .WAV (NIST SPHERE) and .WAV.wav
(RIFF) of one sentence the latter is read. Labels in other files (.WRD) are not used.

Splits: train is TRAIN (3,696 utterances); valid the development set of 50 speakers of TEST that
Kaldi and Halberstadt (1998) use (400); test the core test set of 24 speakers that the corpus names
(192). With --full-test test is all of TEST (168 speakers, 1,344 utterances), and there is no valid,
for its speakers are in it. The two sentences SA1 and SA2 that every speaker reads are left out, as
everywhere; how many files, and those of the speakers outside both sets, "made_with" in the manifest
says under "left out".

An utterance is named <speaker>_<sentence> (FCJF0_SI1027), its language is en, its text that of the
.TXT as it stands. Its phonemes are the symbols of the .PHN, all 61 or folded to 48 or 39 by Lee and
Hon (1989). Folding drops the glottal stop q: its samples go to the phone after it. Equal
neighbours that it makes ("sil sil" of a pause and a closure) stay two, in phonemes and alignment,
as in Kaldi's scoring.
"""

import argparse
import dataclasses
import functools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from xlsr_jax.data import audio
from xlsr_jax.data.records import SAMPLE_RATE, CorpusError
from xlsr_jax.data.speech import Phone, Speech, UnreadableAudio
from xlsr_jax.preparation.archives import Tree, open_source
from xlsr_jax.preparation.corpora.base import Utterance, refused

_SYMBOLS = (
    "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h b d g p t k dx q jh ch s sh z "
    "zh f th v dh m n ng em en eng nx l r w y hh hv el bcl dcl gcl pcl tcl kcl pau epi h#"
)
PHONES = tuple(_SYMBOLS.split())
# Lee & Hon, "Speaker-independent phone recognition using hidden Markov models" (1989): 48 for
# training, of which 39 are told apart in scoring. "" is dropped.
_TO_48 = {
    "ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw",
    "bcl": "vcl", "dcl": "vcl", "gcl": "vcl", "pcl": "cl", "tcl": "cl", "kcl": "cl",
    "h#": "sil", "pau": "sil", "q": "",
}  # fmt: skip
_TO_39 = {
    "ao": "aa", "ax": "ah", "el": "l", "en": "n", "ix": "ih", "zh": "sh",
    "cl": "sil", "vcl": "sil", "epi": "sil",
}  # fmt: skip
_VALID = (
    "FADG0 FAKS0 FCAL1 FCMH0 FDAC1 FDMS0 FDRW0 FEDW0 FGJD0 FJEM0 FJMG0 FJSJ0 FKMS0 FMAH0 FMML0 "
    "FNMR0 FREW0 FSEM0 MAJC0 MBDG0 MBNS0 MBWM0 MCSH0 MDLF0 MDLS0 MDVC0 MERS0 MGJF0 MGLB0 MGWT0 "
    "MJAR0 MJFC0 MJSW0 MMDB1 MMDM2 MMJR0 MMWH0 MPDF0 MRCS0 MREB0 MRJM4 MRJR0 MROA0 MRTK0 MRWS1 "
    "MTAA0 MTDT0 MTEB0 MTHC0 MWJG0"
)
VALID_SPEAKERS = frozenset(_VALID.split())
_CORE = (
    "MDAB0 MWBT0 FELC0 MTAS1 MWEW0 FPAS0 MJMP0 MLNT0 FPKT0 MLLL0 MTLS0 FJLM0 MBPM0 MKLT0 FNLP0 "
    "MCMJ0 MJDH0 FMGD0 MGRT0 MNJM0 FDHC0 MJLN0 MPAM0 FMLD0"
)
CORE_SPEAKERS = frozenset(_CORE.split())
_RIFF, _SPHERE = ".wav.wav", ".wav"
_NAME = re.compile(
    r"(?:.*/)?(train|test)/dr\d/([^/]+)/(s[aix]\d+)(\.wav\.wav|\.wav|\.phn|\.txt)", re.IGNORECASE
)
_LINE = re.compile(r"\s*(\d{1,10})\s+(\d{1,10})\s+(.*\S)\s*", re.ASCII)
_Key = tuple[str, str, str]  # ("train" or "test", "FCJF0", "SI1027")


@dataclasses.dataclass(frozen=True)
class Timit:
    """Reader of TIMIT (``base.Corpus``); see the module's docstring.

    Attributes:
      source: folder or tar archive.
      phones: symbols to tell apart: 61, 48 or 39.
      full_test: test is all of TEST, and there is no valid.
    """

    source: str
    phones: int = 39
    full_test: bool = False
    name: str = "timit"

    def __post_init__(self):
        if self.phones not in (61, 48, 39):
            raise CorpusError(f"phones of TIMIT are 61, 48 or 39; got {self.phones}")

    def __reduce__(self):  # without what has been read
        return type(self), dataclasses.astuple(self)

    def splits(self) -> Sequence[str]:
        """Those of train, valid and test of which the source has anything."""
        have = {self._split(key) for key in (*self._heard, *self._aside)}
        splits = tuple(split for split in ("train", "valid", "test") if split in have)
        if not splits:
            raise CorpusError(
                f"no utterances of TIMIT in {self.source} (looked for TRAIN/DR1/FCJF0/SI1027.WAV "
                "and the like); give the folder that holds TRAIN and TEST"
            )
        return splits

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Those with audio in the order of the files, then those without."""
        for key, name in self._heard.items():
            if self._split(key) == split:
                yield self._utterance(key, name)
        for key, reason in self._aside.items():
            if self._split(key) == split:
                yield _utterance(key, load=refused(reason))

    def fingerprint(self) -> Mapping[str, str]:
        """Options, what was left out, and an archive's size or a folder's names and sizes."""
        prompts = sum(_is_prompt(key) for key in self._heard)
        others = sum(not self._split(key) for key in self._heard) - prompts
        return {
            "phones": str(self.phones),
            "test": "all of TEST" if self.full_test else "core",
            "left out": f"{prompts} of SA1 and SA2, {others} of speakers in neither valid nor test",
            "source": self._tree.described(lambda name: _parsed(name) is not None),
        }

    @functools.cached_property
    def _tree(self) -> Tree:
        return open_source(self.source)

    @functools.cached_property
    def _files(self) -> dict[tuple[_Key, str], str]:
        """{(utterance, suffix): name} in the tree's order."""
        files: dict[tuple[_Key, str], str] = {}
        for name in self._tree.names:
            place = _parsed(name)
            if place in files:
                raise CorpusError(
                    f"{self.source} has {place[0][2]} of {place[0][1]} twice: "
                    f"{files[place]} and {name}; give one copy of TIMIT as --source"
                )
            if place:
                files[place] = name
        return files

    @functools.cached_property
    def _heard(self) -> dict[_Key, str]:
        """{utterance: name of its audio} in the tree's order."""
        return {
            key: name
            for (key, kind), name in self._files.items()
            if kind == _RIFF or kind == _SPHERE and (key, _RIFF) not in self._files
        }

    @functools.cached_property
    def _aside(self) -> dict[_Key, str]:
        """{utterance: reason} of those that have labels or a refused member, but no audio."""
        lacking = {key: f"file is missing: {key[2]}.WAV" for key, _ in self._files}
        for name, reason in self._tree.refused:
            place = _parsed(posixpath.normpath(name))
            if place and place[1] in (_RIFF, _SPHERE):
                lacking[place[0]] = f"{reason}: {name}"
        return {key: lacking[key] for key in sorted(lacking) if key not in self._heard}

    def _split(self, key: _Key) -> str:
        """Its split, or "" for what is left out."""
        part, speaker, _ = key
        if _is_prompt(key):
            return ""
        if part == "train":
            return "train"
        if self.full_test or speaker in CORE_SPEAKERS:
            return "test"
        return "valid" if speaker in VALID_SPEAKERS else ""

    def _utterance(self, key: _Key, name: str) -> Utterance:
        try:
            _, samples, text = self._labels(key, ".txt")[0]
            phones = _phones(self._labels(key, ".phn"), self.phones)
        except UnreadableAudio as error:
            return _utterance(key, load=refused(str(error)))
        return _utterance(
            key,
            text=text,
            phonemes=" ".join(phone.symbol for phone in phones),
            seconds=samples / SAMPLE_RATE,
            **self._tree.audio(name, functools.partial(load, phones=phones)),
        )

    def _labels(self, key: _Key, kind: str) -> list[tuple[int, int, str]]:
        """(start, end, label) of each line of a label file; at least one."""
        file = f"{key[2]}{kind.upper()}"
        if (key, kind) not in self._files:
            raise UnreadableAudio(f"label file is missing: {file}")
        try:
            lines = [line for _, line in self._tree.lines(self._files[key, kind])]
        except CorpusError as error:
            raise UnreadableAudio(f"label file cannot be read as UTF-8: {file}") from error
        found = [_LINE.fullmatch(line or "-") for line in lines if line is None or line.strip()]
        if not found or None in found:
            raise UnreadableAudio(
                f"malformed label file: {file} has a line that is not START END LABEL"
            )
        return [(int(match[1]), int(match[2]), match[3]) for match in found]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's options of this reader."""
    add = parser.add_argument
    add("--source", required=True, help="folder that holds TRAIN and TEST, or a .tar.gz of it")
    add("--phones", type=int, choices=(61, 48, 39), default=39, help="default %(default)s")
    add("--full-test", action="store_true", help="all of TEST as test, and no valid")
    add("--name", default="timit", help="corpus name in the manifest")


def from_flags(options: argparse.Namespace) -> Timit:
    """The reader that the command line asks for."""
    return Timit(options.source, options.phones, options.full_test, options.name)


def fold(symbol: str, phones: int) -> str:
    """One of the 61 symbols in the alphabet of 61, 48 or 39; "" for q in the latter two."""
    if phones == 61:
        return symbol
    symbol = _TO_48.get(symbol, symbol)
    return _TO_39.get(symbol, symbol) if phones == 39 else symbol


def load(path: str, phones: tuple[Phone, ...]) -> Speech:
    """Decodes a sentence and aligns it; raises ``UnreadableAudio``, also where it is cut short."""
    speech = audio.decode(path)
    samples = len(speech.waveform)
    if phones[-1].start * speech.rate >= samples * SAMPLE_RATE:
        raise UnreadableAudio(
            f"phones beyond the audio: the last begins at {phones[-1].start}, of "
            f"{samples} samples at {speech.rate} Hz"
        )
    return dataclasses.replace(speech, alignment=phones)


def _phones(labels: list[tuple[int, int, str]], phones: int) -> tuple[Phone, ...]:
    found: list[Phone] = []
    begin = None  # of a dropped phone before
    for start, end, symbol in labels:
        if symbol not in PHONES:
            raise UnreadableAudio(f"unknown phone: {symbol!r}")
        if end < start:
            raise UnreadableAudio(f"phone ends before it starts: {start} {end} {symbol}")
        begin = start if begin is None else begin
        if folded := fold(symbol, phones):
            found.append(Phone(folded, begin, end))
            begin = None
    if not found:
        raise UnreadableAudio("no phones: nothing but q")
    return tuple(found)


def _parsed(name: str) -> tuple[_Key, str] | None:
    match = _NAME.fullmatch(name)
    if not match:
        return None
    part, speaker, sentence, kind = match.groups()
    return (part.lower(), speaker.upper(), sentence.upper()), kind.lower()


def _is_prompt(key: _Key) -> bool:
    return key[2].startswith("SA")


def _utterance(key: _Key, **fields) -> Utterance:
    _, speaker, sentence = key
    return Utterance(id=f"{speaker}_{sentence}", language="en", speaker=speaker, **fields)
