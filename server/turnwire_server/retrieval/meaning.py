"""Which chunks are nearest to a query in meaning: the vectors of a tenant as one matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .documents import ChunkKey
from .store import Place

Vector = Sequence[float]
_STORED = np.dtype("<f4")


def stored(vector: Vector) -> bytes:
    """A vector as it is kept: of length one, so that a product with another is their cosine."""
    found = np.asarray(vector, dtype=np.float32)
    length = float(np.linalg.norm(found))
    return (found / length if length > 0 else found).astype(_STORED).tobytes()


class Matrix:
    """The vectors of a tenant's chunks, as of a version of its documents. Chunks without a vector of the dimensions
    that most have are not in it."""

    def __init__(self, version: int, places: Sequence[Place], vectors: Mapping[str, bytes]) -> None:
        self.version = version
        of_chunks = [(place.key, vectors[place.fingerprint]) for place in places if place.fingerprint in vectors]
        sizes = [len(vector) for _, vector in of_chunks]
        size = max(set(sizes), key=sizes.count, default=0)
        chosen = [(key, vector) for key, vector in of_chunks if len(vector) == size]
        self.keys: Sequence[ChunkKey] = [key for key, _ in chosen]
        self.missing = len(places) - len(chosen)
        joined = b"".join(vector for _, vector in chosen)
        self._rows: NDArray[np.float32] = np.frombuffer(joined, dtype=_STORED).reshape(len(chosen), -1 if chosen else 0)

    @property
    def size_bytes(self) -> int:
        """With a guess at what the keys take."""
        return int(self._rows.nbytes) + 200 * len(self.keys) + 1024

    def nearest(self, vector: Vector, limit: int) -> list[ChunkKey]:
        """The nearest, the best first; none to a vector that is not of the same kind."""
        query = np.asarray(vector, dtype=np.float32)
        if not self.keys or query.shape != (self._rows.shape[1],):
            return []
        cosines = self._rows @ query
        count = min(limit, len(self.keys))
        best = np.argpartition(-cosines, count - 1)[:count]
        ordered = sorted(best.tolist(), key=lambda row: (-float(cosines[row]), row))
        return [self.keys[row] for row in ordered]
