"""Everything that is not a line a code as one JSON document, ``figures.json``."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xlsr_jax.analysis import statistics, tables
from xlsr_jax.analysis.codes import Frames
from xlsr_jax.analysis.figures import RunFigures, Similarity


def document(runs: Sequence[RunFigures], frames: Frames) -> dict[str, Any]:
    """What ``figures.json`` holds, for ``json.dumps``; nan is null."""
    return {
        "languages": {
            language: {"utterances": int(utterances), "seconds": float(seconds)}
            for language, utterances, seconds in zip(
                frames.languages, frames.utterances, frames.seconds, strict=True
            )
        },
        "runs": {run.name: _plain(_of_run(run, frames.languages)) for run in runs},
    }


def _of_run(run: RunFigures, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"facts": {n: str(v) for n, v in run.facts.items()}}
    found["code"] = run.code
    found["usage"] = dataclasses.asdict(run.usage)
    if run.phones:
        codes = statistics.codes_per_phone(run.phones.counts_QP)
        found["phones"] = {
            "left_out_frames": run.phones.left_out,
            "found": _with_bits(run.phones.found),
            "phones_shuffled": _with_bits(run.phones.chance),
            "codes_per_phone": dict(zip(run.phones.symbols, codes, strict=True)),
        }
    if run.languages:
        of = run.languages
        found["languages"] = {
            "order": list(names),
            "by_code": _measures(of.by_code),
            "by_codeword": _measures(of.by_codeword),
            "tree": of.merges,
            "principal_components": of.coordinates,
            "explained_variance": of.explained,
            "exclusive": {
                "minimum_frames": statistics.MINIMUM,
                "codes": of.exclusive_codes,
                "frames": of.exclusive_frames,
            },
        }
    return found


def _with_bits(found: statistics.Agreement) -> dict[str, float]:
    """Entropies are in nats; each comes in bits as well."""
    values = dataclasses.asdict(found)
    nats = [n for n in values if n.endswith("entropy") or n == "mutual_information"]
    return values | {f"{name}_bits": values[name] * tables.BITS for name in nats}


def _measures(found: Similarity) -> dict[str, Any]:
    return {
        "cosine": found.cosine,
        "jensen_shannon_bits": found.divergence,
        "halves_bits": found.halves,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
