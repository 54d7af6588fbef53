"""Which mesh, recomputation and number of microbatches fit a slice and take the least time."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from xlsr_jax.compilation.forecast import Forecast


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Values of ``config.mesh.replica``, ``.model.remat`` and ``.training.accumulation``."""

    replica: int
    remat: str
    accumulation: int

    def __str__(self) -> str:
        return (
            f"--config.mesh.replica={self.replica} --config.model.remat={self.remat} "
            f"--config.training.accumulation={self.accumulation}"
        )


Measure = Callable[[Candidate], Sequence[Forecast] | None]
"""Forecasts of every shape; None where the candidate does not divide the batch."""


def candidates(
    measure: Measure, replicas: Sequence[int], remats: Sequence[str], microbatches: Sequence[int]
) -> Iterator[tuple[Candidate, Sequence[Forecast]]]:
    """Measures what may be best, each in turn, and leaves out what cannot be.

    More microbatches than fit need cost messages and nothing else; recomputing costs arithmetic and
    wins nothing where the update fits whole without it.

    Args:
      replicas: of parameters, for the mesh.
      remats: the cheapest first.
      microbatches: ascending.
    """
    for replica in replicas:
        for remat in remats:
            for accumulation in microbatches:
                candidate = Candidate(replica, remat, accumulation)
                found = measure(candidate)
                if found is None:
                    continue
                yield candidate, found
                if all(each.fits for each in found):
                    break
            else:
                continue
            if accumulation == microbatches[0]:
                break
