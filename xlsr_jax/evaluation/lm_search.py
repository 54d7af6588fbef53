"""Search for the language model's weight and the word score on a validation set.

wav2vec 2.0 tunes them over weights of [0, 5] and scores of [-5, 5] in 128 trials. Here the trials
are the first points of a low-discrepancy sequence, after the settings that the decoder came with:
no trial depends on another's outcome, so a search that was cut off goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xlsr_jax.evaluation.decode import BeamDecoder
from xlsr_jax.evaluation.error_rate import Utterance, align
from xlsr_jax.schema import ConfigError

WEIGHTS, SCORES = (0.0, 5.0), (-5.0, 5.0)  # the published ranges
_PLASTIC = 1.324717957244746  # g of ``_points``


@dataclasses.dataclass(frozen=True)
class Trial:
    """One pair of settings and what it gave.

    Attributes:
      number: 0 is the decoder's own settings.
      lm_weight, score: the settings; score is of words with a lexicon, else of symbols.
      errors, length: edit distance and reference tokens, summed over the validation set.
    """

    number: int
    lm_weight: float
    score: float
    errors: int
    length: int

    @property
    def corpus_rate(self) -> float:
        return self.errors / self.length


def search(
    decoder: BeamDecoder,
    examples: Sequence[tuple[np.ndarray, Sequence[str]]],
    path: str | os.PathLike[str],
    trials: int = 128,
    seed: int = 0,
) -> tuple[BeamDecoder, Trial]:
    """Decodes the validation set ``trials`` times; returns the best decoder and its trial.

    The best has the least corpus rate, of equals the first.

    Args:
      decoder: with a language model.
      examples: ([T, V] float32 log-probabilities, reference), the reference being words for a
        decoder with a lexicon and symbols for one without.
      path: JSON lines, a heading and one line a trial; trials found in it are not run again.
      trials, seed: further trials go on with the sequence of the seed.

    Raises:
      ConfigError: no language model, no reference tokens, or a file of another search.
    """
    if decoder.lm is None:
        raise ConfigError("there is no language model whose weight could be searched; give one")
    length = sum(len(reference) for _, reference in examples)
    if not length:
        raise ConfigError("the validation set has no reference tokens; give utterances with labels")
    name = "symbol_score" if decoder.lexicon is None else "word_score"
    heading = {"search": name, "seed": seed, "examples": _digest(decoder, examples)}
    own = (decoder.config.lm_weight, getattr(decoder.config, name))
    path = Path(path)
    done = _read(path, heading)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", buffering=1, encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps(heading) + "\n")
        for number, (weight, score) in enumerate([own, *_points(trials - 1, seed)]):
            if number in done:
                continue
            trial_decoder = decoder.with_settings(**{"lm_weight": weight, name: score})
            errors = _errors(trial_decoder, examples)
            done[number] = Trial(number, weight, score, errors, length)
            line = dataclasses.asdict(done[number]) | {"corpus_rate": done[number].corpus_rate}
            file.write(json.dumps(line) + "\n")
    best = min((done[n] for n in range(trials)), key=lambda trial: (trial.errors, trial.number))
    return decoder.with_settings(**{"lm_weight": best.lm_weight, name: best.score}), best


def _points(count: int, seed: int) -> list[tuple[float, float]]:
    """Points that fill the rectangle evenly from the first on: multiples of an irrational step.

    The step is (1/g, 1/g^2) with g^3 = g + 1, the plane's counterpart of the golden ratio.
    """
    start = np.random.default_rng(seed).random(2)
    steps = np.arange(1, count + 1)[:, None] / np.array([_PLASTIC, _PLASTIC**2])
    low, high = np.array([WEIGHTS, SCORES]).T
    points = low + (start + steps) % 1.0 * (high - low)
    return [(float(weight), float(score)) for weight, score in np.round(points, 4)]


def _errors(decoder: BeamDecoder, examples: Sequence[tuple[np.ndarray, Sequence[str]]]) -> int:
    utterances = []
    for number, (log_probs, reference) in enumerate(examples):
        found = decoder.decode(log_probs)
        hypothesis = found.tokens if decoder.lexicon is None else found.words
        utterances.append(Utterance(str(number), "", tuple(reference), hypothesis))
    return sum(alignment.errors for alignment in align(utterances))


def _digest(decoder: BeamDecoder, examples: Sequence[tuple[np.ndarray, Sequence[str]]]) -> str:
    """What the trials' figures depend on beside their own settings."""
    about = [decoder.symbols, dataclasses.asdict(decoder.config), decoder.lm.words]
    about.append([decoder.lm.path.name, decoder.lm.path.stat().st_size])
    digest = hashlib.sha256(json.dumps(about).encode())
    for log_probs, reference in examples:
        digest.update(np.ascontiguousarray(log_probs, np.float32).tobytes())
        digest.update(json.dumps(list(reference)).encode())
    return digest.hexdigest()[:16]


def _read(path: Path, heading: dict[str, object]) -> dict[int, Trial]:
    """Trials of a search that was cut off; drops a last line that was not written whole."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines and lines[0] != heading:
        raise ConfigError(
            f"{path} holds a search of other settings, seed or utterances; "
            "delete it or give another file"
        )
    names = [field.name for field in dataclasses.fields(Trial)]
    return {line["number"]: Trial(*(line[name] for name in names)) for line in lines[1:]}
