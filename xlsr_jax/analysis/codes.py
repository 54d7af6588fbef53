"""Codes of a corpus: which codewords a pretraining run's quantizer takes for each frame."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from xlsr_jax import config as configuration
from xlsr_jax import storage
from xlsr_jax.config import Config
from xlsr_jax.data import labels
from xlsr_jax.data.index import Index
from xlsr_jax.data.labels import LabelsConfig
from xlsr_jax.data.pipeline import Reader
from xlsr_jax.data.records import SAMPLE_RATE, CorpusError
from xlsr_jax.evaluation import batches
from xlsr_jax.evaluation.batches import LONGEST
from xlsr_jax.evaluation.windows import by_length
from xlsr_jax.models import networks
from xlsr_jax.models.quantizer import Quantizer
from xlsr_jax.models.wav2vec2 import Wav2Vec2
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import load_parameters

_DRAW = 7  # of utterances; fixed, so that every run is asked about the same frames


@dataclasses.dataclass(frozen=True)
class Coder:
    """The feature encoder and quantizer of a pretraining run.

    Attributes:
      config: of the run; ``model.dtype`` is float32.
      params: those of a whole pretraining network of any method.
      step: updates that the parameters have seen.
      run: folder of the run.
    """

    config: Config
    params: dict
    step: int
    run: Path

    def __post_init__(self) -> None:
        # Statistics over valid frames alone, so that no row depends on how it is padded.
        model = dataclasses.replace(
            networks.for_inference(self.config.model), statistics_include_padding=False
        )
        wanted = {name: value for name, value in self.params.items() if name != "context_network"}
        object.__setattr__(self, "params", jax.tree.map(jnp.asarray, wanted))
        object.__setattr__(self, "_codes", jax.jit(partial(_codes, model)))

    @property
    def groups(self) -> int:
        return self.params["quantizer"]["codebook"].shape[0]

    @property
    def codewords(self) -> int:
        """Codewords of each group."""
        return self.params["quantizer"]["codebook"].shape[1]

    def codes(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """[T_i, G] int32 of each waveform: its most likely codewords, nothing masked, no noise.

        Args:
          waveforms: float32 at 16 kHz, normalized where the run asks for it; any lengths, each at
            least a frame. What a row gives does not depend on the others.
        """
        compute = partial(self._codes, self.params)
        return batches.outputs(compute, waveforms, self.config.model.frames)


def _codes(model, params, waveform_BN, samples_B):
    # The network without its pretraining heads: methods differ in those, not in the quantizer.
    quantizer = params["quantizer"]
    trunk = {name: value for name, value in params.items() if name != "quantizer"}
    features_BTC = Wav2Vec2(model, pretraining=False).apply(
        {"params": trunk},
        waveform_BN,
        samples_B,
        method=lambda network, *inputs: network.normalise(network.encode(*inputs)),
    )
    groups, codewords, width = quantizer["codebook"].shape
    quantize = Quantizer(groups=groups, codewords=codewords, dim=groups * width)
    return quantize.apply({"params": quantizer}, features_BTC).best


def load(run: str | Path, step: int | None = None) -> Coder:
    """The coder of a pretraining run.

    Args:
      run: its --workdir.
      step: of the checkpoint; the newest where not given.

    Raises:
      CheckpointError: no run, or no such checkpoint.
      ConfigError: its parameters hold no codebook.
    """
    run = storage.at(run)
    params, about = load_parameters(run, step)
    if "codebook" not in params.get("quantizer", {}):
        begun = about["config"].get("init_from")
        mend = f"; the run that it began with is {begun}" if begun else ""
        raise ConfigError(
            f"{run} has no codebook (its method is {about['config']['method']}): "
            f"give a pretraining run that has one{mend}"
        )
    config = configuration.resolve(configuration.from_saved(about["config"]))
    return Coder(config, params, int(about["step"]), run)


def draw(index: Index, seconds: float, shortest: int) -> np.ndarray:
    """Record numbers of about ``seconds`` of each language: whole utterances, always the same.

    An utterance counts with its first 30 s. A language with less gives all that it has.

    Args:
      seconds: of each language; 0 for all there is.
      shortest: samples; shorter utterances are left out.

    Raises:
      CorpusError: where nothing is that long.
    """
    chosen = [np.zeros(0, np.int64)]
    for number, language in enumerate(index.languages):
        there = np.flatnonzero((index.language == number) & (index.samples >= shortest))
        order = np.random.default_rng([_DRAW, *language.encode()]).permutation(there)
        reached = np.cumsum(np.minimum(index.samples[order], LONGEST), dtype=np.int64)
        enough = np.searchsorted(reached, seconds * SAMPLE_RATE) + 1 if seconds else len(order)
        chosen.append(np.sort(order[:enough]))
    numbers = np.concatenate(chosen)
    if not len(numbers):
        raise CorpusError(f"{index.root}: no utterance is as long as a frame ({shortest} samples)")
    return numbers


@dataclasses.dataclass(frozen=True)
class Frames:
    """All frames of the drawn utterances, one utterance after another.

    Attributes:
      languages: codes; those that have frames.
      language: [frames] int16 number in ``languages``.
      utterance: [frames] int32 place of the utterance among those drawn.
      phone: [frames] int32 number in ``phones``; 0 for a frame that no phone covers.
      phones: symbols, of which the first stands for none; only that one if nothing is aligned.
      seconds: [languages] of audio.
      utterances: [languages] drawn.
    """

    languages: tuple[str, ...]
    language: np.ndarray
    utterance: np.ndarray
    phone: np.ndarray
    phones: tuple[str, ...]
    seconds: np.ndarray
    utterances: np.ndarray


def look(reader: Reader, numbers: np.ndarray, window: int, hop: int) -> Frames:
    """What is known of the frames of some records: language and phone.

    A frame's phone is the one that covers most of the samples it sees (wav2vec 2.0 appendix D).

    Args:
      numbers: of ``draw``.
      window, hop: samples that a frame sees, and between frames.
    """
    whole = reader.index
    drawn = dataclasses.replace(
        whole, samples=np.minimum(whole.samples[numbers], LONGEST), language=whole.language[numbers]
    )
    records = map(reader.record, numbers)
    tokens = [
        (record.id, tuple(f"{start}:{end}:{symbol}" for symbol, start, end in record.alignment))
        for record in records
    ]
    frames = (drawn.samples - window) // hop + 1
    phone, phones = np.zeros(int(frames.sum()), np.int32), ("",)
    if any(sequence for _, sequence in tokens):
        every = np.arange(len(tokens))
        made = labels.make_vocabulary(drawn, tokens, LabelsConfig(unit="aligned"), every)
        phone = labels.encode_frames(drawn, tokens, made, window, hop).numbers
        phones = ("", *made.symbols[1:])
    there = np.unique(drawn.language)
    language = np.searchsorted(there, drawn.language).astype(np.int16)
    return Frames(
        languages=tuple(whole.languages[number] for number in there),
        language=np.repeat(language, frames),
        utterance=np.repeat(np.arange(len(numbers), dtype=np.int32), frames),
        phone=phone,
        phones=phones,
        seconds=np.bincount(language, weights=drawn.samples) / SAMPLE_RATE,
        utterances=np.bincount(language),
    )


def codes_of(
    coder: Coder,
    reader: Reader,
    numbers: np.ndarray,
    batch_seconds: float = 60.0,
    progress: Callable[[float], object] = lambda seconds: None,
) -> np.ndarray:
    """[frames, G] int32 codes of the frames of ``look``, in its order.

    Args:
      batch_seconds: audio computed at once, with its padding.
      progress: called with the seconds of audio that were done.
    """
    lengths = np.minimum(reader.index.samples[numbers], LONGEST)
    found: list[np.ndarray] = [np.zeros(0)] * len(numbers)
    for group in by_length(lengths.tolist(), round(batch_seconds * SAMPLE_RATE)):
        waveforms = [
            reader.waveform(int(numbers[place]), coder.config.data.normalize)[:LONGEST]
            for place in group
        ]
        for place, codes in zip(group, coder.codes(waveforms), strict=True):
            found[place] = codes
        progress(sum(map(len, waveforms)) / SAMPLE_RATE)
    return np.concatenate(found)
