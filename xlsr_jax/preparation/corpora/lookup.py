"""Tables of millions of rows, found by id: a dictionary of them would take gigabytes."""

import tempfile
from array import array
from collections.abc import Iterable, Iterator

import numpy as np


class Numbers:
    """Numbers found by id, 16 bytes each.

    Keys are 64-bit hashes: of ten million ids, one in 10^12 others finds a number not its own.

    Args:
      rows: (id, number); ids may repeat.
      typecode: of the numbers, as for ``array``.
    """

    def __init__(self, rows: Iterable[tuple[str, float]], typecode: str):
        keys, values = array("q"), array(typecode)
        for identity, value in rows:
            keys.append(hash(identity))
            values.append(value)
        order = np.argsort(np.array(keys, np.int64), kind="stable")
        self._keys = np.array(keys, np.int64)[order]
        self._values = np.array(values)[order]

    def find(self, identity: str) -> list[float]:
        """The numbers of an id, in the rows' order."""
        begin = np.searchsorted(self._keys, hash(identity), "left")
        end = np.searchsorted(self._keys, hash(identity), "right")
        return self._values[begin:end].tolist()

    def repeated(self) -> frozenset[int]:
        """Hashes of ids that have more than one number."""
        return frozenset(self._keys[1:][self._keys[1:] == self._keys[:-1]].tolist())


class Texts:
    """Texts found by id; they wait in a file without name.

    Args:
      rows: (id, text) without line ends, no tab in an id; of a repeated id the first text counts.

    Attributes:
      repeated: hashes of ids that have several texts.
    """

    def __init__(self, rows: Iterable[tuple[str, str]]):
        self._file = tempfile.TemporaryFile(prefix="xlsr_jax-texts-")  # noqa: SIM115 lives as we do
        self._index = Numbers(self._written(rows), "q")
        self.repeated = self._index.repeated()

    def get(self, identity: str) -> str:
        """The first text of an id, "" where it has none."""
        for offset in self._index.find(identity):
            self._file.seek(offset)
            found, _, text = self._file.readline().decode().rstrip("\n").partition("\t")
            if found == identity:
                return text
        return ""

    def _written(self, rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, int]]:
        offset = 0
        for identity, text in rows:
            yield identity, offset
            offset += self._file.write(f"{identity}\t{text}\n".encode())
