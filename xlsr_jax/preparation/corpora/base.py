"""The one signature of all corpus readers: a source in, utterances out, nothing decoded yet."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from xlsr_jax.data.speech import Speech, UnreadableAudio


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive, which is read from its begin to its end and never by name.

    Attributes:
      archive: path of the archive.
      number: how many members come before it, those of archives within the archive counted.
    """

    archive: str
    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance before decoding.

    Attributes:
      id: unique within the corpus.
      language: code as the corpus has it ("es", "zh", "sv-SE").
      load: opens or synthesizes the audio; raises ``UnreadableAudio`` with the reason. Called with
        the path of the member's bytes where there is a ``member``, else with nothing.
      text, speaker, phonemes: labels where the corpus has them, else "".
      member: where the audio lies in an archive.
      seconds: length as the source states it, for estimates; 0 where it does not.
    """

    id: str
    language: str
    load: Callable[..., Speech]
    text: str = ""
    speaker: str = ""
    phonemes: str = ""
    member: Member | None = None
    seconds: float = 0.0


def refused(reason: str) -> Callable[..., Speech]:
    """A ``load`` for what the source itself rules out: it is set aside with this reason."""
    return functools.partial(_refuse, reason)


def _refuse(reason: str, *_: str) -> Speech:
    raise UnreadableAudio(reason)


class Corpus(Protocol):
    """A corpus reader. What it lists is pickled, ``load`` with it: worker processes get copies.

    ``splits()`` names the splits; ``utterances(split)`` lists a split in a fixed order without
    opening audio, lazily where it is long, and is asked for more than once; ``fingerprint()`` holds
    whatever changes the output (sources, options, versions of label makers), so that a resumed
    preparation notices a change and names it. Keys that end in "version" name software: a finished
    corpus stays good under another one, an unfinished one not. A reader may have
    ``notes(manifest)``, lines that a person should see after the preparation.
    """

    name: str

    def splits(self) -> Sequence[str]: ...

    def utterances(self, split: str) -> Iterable[Utterance]: ...

    def fingerprint(self) -> Mapping[str, str]: ...
