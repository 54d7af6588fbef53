"""From frames to symbols: greedy CTC decoding, and beam search with a language model.

Beam search finds token sequences of high

    total = acoustic + lm_weight * log10 P(words) + word_score * number of words

with flashlight-text, then every sequence that it ends with, and the greedy one, gets its exact
total, and the best is returned: the result is never worse than the greedy sequence.
"""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xlsr_jax.evaluation.ctc_score import acoustic_scores
from xlsr_jax.evaluation.language_model import (
    LanguageModel,
    Lexicon,
    import_flashlight,
    read_lexicon,
)
from xlsr_jax.schema import ConfigError, setting


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Beam search; the defaults are the ones that published models are selected with."""

    beam: int = setting(50, "sequences kept after each frame", low=1)
    beam_threshold: float = setting(50.0, "drops what is this far below the best (nats)", low=0.0)
    beam_symbols: int = setting(100, "symbols tried in a frame, the most probable ones", low=1)
    lm_weight: float = setting(2.0, "times the language model's log10 probability", low=0.0)
    word_score: float = setting(-1.0, "added for each word of the lexicon")
    symbol_score: float = setting(
        0.0, "added for each symbol by a language model over symbols, when ranking what is found"
    )
    log_add: bool = setting(
        True, "acoustic score of all alignments; False: of the best one, as published with KenLM"
    )


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance.

    Attributes:
      ids, tokens: symbols, as numbers and as strings.
      words: of the lexicon, or without one what stands between delimiters; () without delimiter.
      score: the total, acoustic + language; -inf where the words are not in the lexicon.
      acoustic: CTC log-probability (nats) of the tokens.
      language: the language model's weighted part with the word scores; 0 without a model.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    words: tuple[str, ...]
    score: float
    acoustic: float
    language: float


def greedy(log_probs: np.ndarray, blank: int) -> list[int]:
    """The most probable symbol of each frame, repeats merged, blanks dropped.

    Args:
      log_probs: [T, V] float32; anything that grows with the probability will do.
      blank: its symbol id.
    """
    return [symbol for symbol, _, _ in greedy_spans(log_probs, blank)]


def greedy_spans(log_probs: np.ndarray, blank: int) -> list[tuple[int, int, int]]:
    """Greedy decoding with times: (symbol id, first frame, frame after the last).

    A span is where the symbol is the most probable; the blank frames that follow are outside.
    """
    best = np.argmax(log_probs, axis=1) if len(log_probs) else np.zeros(0, np.int64)
    edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))
    runs = zip(best[edges[:-1]].tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return [run for run in runs if run[0] != blank]


class BeamDecoder:
    """Beam search with a KenLM n-gram model, with or without a lexicon, or without either.

    With a lexicon the model is over its words, which the delimiter parts. Without, it is over the
    symbols themselves: phonemes, or characters and the delimiter. Without a model the search is
    plain CTC prefix search, and weight and scores play no part.

    Attributes:
      config: the settings in force.
      lm, lexicon: what was read, None where none was given.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        blank: int,
        lm: str | os.PathLike[str] | None = None,
        lexicon: str | os.PathLike[str] | Mapping[str, Sequence] | None = None,
        word_delimiter: str | None = None,
        config: DecodeConfig | None = None,
    ) -> None:
        """Reads model and lexicon.

        Args:
          symbols: the vocabulary in the order of the output's columns.
          blank: number of the CTC blank.
          lm: ARPA or KenLM binary file.
          lexicon: file of lines "word s y m b o l s", or word -> spelling or list of spellings.
          word_delimiter: the symbol between words, of a character vocabulary.
          config: the defaults where it is None.

        Raises:
          ConfigError: a file is missing or of another vocabulary, flashlight-text is missing.
        """
        self.symbols, self.blank = tuple(symbols), blank
        if not 0 <= blank < len(self.symbols):
            raise ConfigError(
                f"blank {blank} is none of the {len(self.symbols)} symbols; "
                "give its number among them"
            )
        self.delimiter = None
        if word_delimiter in self.symbols:
            self.delimiter = self.symbols.index(word_delimiter)
        self.lexicon = None
        if lexicon is not None:
            spellings = lexicon if isinstance(lexicon, Mapping) else read_lexicon(lexicon)
            self.lexicon = Lexicon(spellings, self.symbols, word_delimiter)
        self.lm = None
        if lm is not None and self.lexicon is not None:
            self.lm = LanguageModel(lm, self.lexicon.words)
        elif lm is not None:
            self.lm = LanguageModel(lm, self.symbols, silent=[self.symbols[blank]])
        self._trie: Any = None
        self._configure(config or DecodeConfig())

    def with_settings(self, **changes: Any) -> "BeamDecoder":
        """The same model and lexicon under other settings; nothing is read again."""
        other = copy.copy(self)
        other._configure(dataclasses.replace(self.config, **changes))
        return other

    def decode(self, log_probs: np.ndarray) -> Hypothesis:
        """The best token sequence that is found for [T, V] float32 log-probabilities.

        Raises:
          ValueError: another number of symbols, or values that are not numbers.
        """
        log_probs = self._checked(log_probs)
        candidates = dict.fromkeys([tuple(greedy(log_probs, self.blank)), *self._search(log_probs)])
        acoustics = acoustic_scores(log_probs, list(candidates), self.blank, self.config.log_add)
        hypotheses = map(self._hypothesis, candidates, acoustics.tolist())
        return max(hypotheses, key=lambda hypothesis: hypothesis.score)

    def total_score(self, log_probs: np.ndarray, tokens: Sequence[str] | Sequence[int]) -> float:
        """The total of any token sequence (strings or ids) under this decoder's models."""
        numbers = {symbol: number for number, symbol in enumerate(self.symbols)}
        ids = tuple(numbers[t] if isinstance(t, str) else int(t) for t in tokens)
        log_probs = self._checked(log_probs)
        acoustic = acoustic_scores(log_probs, [ids], self.blank, self.config.log_add)
        return self._hypothesis(ids, float(acoustic[0])).score

    def _hypothesis(self, ids: tuple[int, ...], acoustic: float) -> Hypothesis:
        tokens = tuple(self.symbols[i] for i in ids)
        words, language = self._read(ids)
        return Hypothesis(ids, tokens, words, acoustic + language, acoustic, language)

    def _read(self, ids: tuple[int, ...]) -> tuple[tuple[str, ...], float]:
        """The words of a token sequence and the language part of its total."""
        spelled = self._split(ids)
        if self.lexicon is None:
            words = tuple("".join(self.symbols[i] for i in word) for word in spelled)
            if self.lm is None:
                return words, 0.0
            score = self.config.lm_weight * self.lm.score(ids)
            return words, score + self.config.symbol_score * len(ids)
        if any(word not in self.lexicon.readings for word in spelled):
            words = tuple("".join(self.symbols[i] for i in word) for word in spelled)
            return words, -np.inf
        choices = [self.lexicon.readings[word] for word in spelled]
        if self.lm is None:
            return tuple(self.lexicon.words[readings[0]] for readings in choices), 0.0
        score, numbers = self._best_reading(choices)
        score = self.config.lm_weight * score + self.config.word_score * len(numbers)
        return tuple(self.lexicon.words[number] for number in numbers), score

    def _best_reading(self, choices: Sequence[Sequence[int]]) -> tuple[float, tuple[int, ...]]:
        """The likeliest words where some spellings stand for several."""
        model = self.lm.model
        paths = [(0.0, (), model.start(False))]
        for readings in choices:
            longer = []
            for score, numbers, state in paths:
                for number in readings:
                    following, part = model.score(state, number)
                    longer.append((score + part, (*numbers, number), following))
            paths = sorted(longer, key=lambda path: -path[0])[: self.config.beam]
        ended = [(score + model.finish(state)[1], numbers) for score, numbers, state in paths]
        return max(ended, key=lambda path: path[0])

    def _split(self, ids: tuple[int, ...]) -> list[tuple[int, ...]]:
        if self.delimiter is None:
            return []
        words: list[list[int]] = [[]]
        for i in ids:
            if i == self.delimiter:
                words.append([])
            else:
                words[-1].append(i)
        return [tuple(word) for word in words if word]

    def _checked(self, log_probs: np.ndarray) -> np.ndarray:
        log_probs = np.ascontiguousarray(log_probs, np.float32)
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.symbols):
            raise ValueError(
                f"log-probabilities of shape {log_probs.shape} are not [frames, "
                f"{len(self.symbols)} symbols]; give the vocabulary that made them"
            )
        if np.isnan(log_probs).any():
            raise ValueError("log-probabilities hold nan; look for the update that diverged")
        return log_probs

    def _search(self, log_probs: np.ndarray) -> list[tuple[int, ...]]:
        """Token sequences that the beam ends with."""
        if not len(log_probs):
            return []
        emissions = log_probs
        if self.lexicon is not None:
            # A word ends with its delimiter, which the last one may lack: one more frame offers it.
            last = np.full((1, len(self.symbols)), -np.inf, np.float32)
            last[0, [self.blank, self.delimiter]] = 0.0
            emissions = np.concatenate([emissions, last])
        results = self._decoder.decode(emissions.ctypes.data, *emissions.shape)
        found = []
        for result in results:
            frames = np.array(result.tokens[1:-1])  # less the states before and after the frames
            starts = np.flatnonzero(np.diff(frames, prepend=-1))
            ids = tuple(int(i) for i in frames[starts] if i != self.blank)
            found += [ids] if self.lexicon is None else [ids, *self._delimited(ids)]
        return found

    def _delimited(self, ids: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The same words with one delimiter between, and with and without one at either end.

        To the search these are one sequence, told by whichever alignment was the best.
        """
        mark = (self.delimiter,)
        inner = tuple(i for word in self._split(ids) for i in (*mark, *word))[1:]
        return [(*lead, *inner, *trail) for lead in ((), mark) for trail in ((), mark)]

    def _configure(self, config: DecodeConfig) -> None:
        """Makes flashlight's decoder, which holds the settings."""
        flashlight, _ = import_flashlight()
        self.config = config
        shared = {
            "beam_size": config.beam,
            "beam_size_token": min(config.beam_symbols, len(self.symbols)),
            "beam_threshold": config.beam_threshold,
            "lm_weight": config.lm_weight if self.lm else 0.0,
            "sil_score": 0.0,
            "log_add": config.log_add,
            "criterion_type": flashlight.CriterionType.CTC,
        }
        model = self.lm.model if self.lm else flashlight.ZeroLM()
        if self.lexicon is None:
            options = flashlight.LexiconFreeDecoderOptions(**shared)
            # "Silence" is the symbol before the first frame: with the blank no symbol is a repeat.
            self._decoder = flashlight.LexiconFreeDecoder(
                options, model, self.blank, self.blank, []
            )
            return
        self._trie = self._trie or self._spellings(flashlight, model)
        options = flashlight.LexiconDecoderOptions(
            word_score=config.word_score if self.lm else 0.0, unk_score=-np.inf, **shared
        )
        unknown = len(self.lexicon.words)  # asked for, though none is let through
        self._decoder = flashlight.LexiconDecoder(
            options, self._trie, model, self.delimiter, self.blank, unknown, [], False
        )

    def _spellings(self, flashlight: Any, model: Any) -> Any:
        """The tree of spellings, each node with the best word score below it (look-ahead)."""
        trie = flashlight.Trie(len(self.symbols), self.delimiter)
        start = model.start(False)
        for spelling, readings in self.lexicon.readings.items():
            for number in readings:
                trie.insert([*spelling, self.delimiter], number, model.score(start, number)[1])
        trie.smear(flashlight.SmearingMode.MAX)
        return trie
