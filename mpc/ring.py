"""`Ring(modulus)`: vectors over the integers modulo M = R+1, as numpy uint64 arrays.

M is at most 2^63, so that the sum of two elements fits in 64 bits. Elements are always reduced, except inside a running sum,
which may take `lazy_terms` of them before it must be reduced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.uint64]

MAX_MODULUS = 2**63
# Elements worked on at once: 64 kB, so that temporaries stay in the processor's cache and malloc re-uses them; whole-vector
# temporaries cost more in page faults than in arithmetic.
_BLOCK = 1 << 13


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


@dataclass(frozen=True, slots=True)
class Ring:
    """The integers modulo `modulus`, 2 <= modulus <= 2^63. Raises ValueError for another modulus."""

    modulus: int

    def __post_init__(self) -> None:
        if not 2 <= self.modulus <= MAX_MODULUS:
            raise ValueError("the modulus must lie between 2 and 2^63")

    @property
    def bits(self) -> int:
        """Bit length of the largest element."""
        return (self.modulus - 1).bit_length()

    @property
    def width(self) -> int:
        """Bytes of one packed element, 1 to 8."""
        return (self.bits + 7) // 8

    @property
    def lazy_terms(self) -> int:
        """How many reduced elements may be added in 64 bits before the sum must be reduced."""
        return int((2**64 - 1) // (self.modulus - 1))

    def zeros(self, length: int) -> Vector:
        """The zero vector."""
        return np.zeros(length, dtype=np.uint64)

    def contains(self, vector: Vector) -> bool:
        """Whether every element is reduced."""
        return vector.size == 0 or int(vector.max()) < self.modulus

    def add(self, a: Vector, b: Vector) -> Vector:
        """a + b of reduced vectors."""
        modulus = np.uint64(self.modulus)
        total = np.empty_like(a)
        for block in _blocks(a.size):
            np.add(a[block], b[block], out=total[block])
            # Below M the difference wraps round to a huge number, so the smaller of the two is the reduced one.
            np.minimum(total[block], total[block] - modulus, out=total[block])
        return total

    def subtract(self, a: Vector, b: Vector) -> Vector:
        """a - b of reduced vectors."""
        modulus = np.uint64(self.modulus)
        difference = np.empty_like(a)
        for block in _blocks(a.size):
            np.subtract(a[block], b[block], out=difference[block])
            # Where b is larger the difference has wrapped round; adding M wraps it back, to the smaller number.
            np.minimum(difference[block], difference[block] + modulus, out=difference[block])
        return difference

    def reduce(self, vector: Vector) -> None:
        """Takes every element modulo M, in place."""
        modulus = np.uint64(self.modulus)
        for block in _blocks(vector.size):
            vector[block] -= (vector[block] // modulus) * modulus

    def pack(self, vector: Vector) -> bytes:
        """`width` little-endian bytes an element. The vector must be reduced."""
        packed = np.empty((vector.size, self.width), dtype=np.uint8)
        octets = np.ascontiguousarray(vector, dtype="<u8").view(np.uint8).reshape(-1, 8)
        # Byte column by byte column: one strided copy of short rows is several times slower.
        for column in range(self.width):
            packed[:, column] = octets[:, column]
        return packed.tobytes()

    def unpack(self, packed: bytes | memoryview, length: int) -> Vector:
        """The vector of `length` elements that `packed` holds. Raises ValueError for another size or an element >= M."""
        if len(packed) != length * self.width:
            raise ValueError("the packed vector has another length")
        vector = self.zeros(length)
        octets = vector.view(np.uint8).reshape(-1, 8)
        columns = np.frombuffer(packed, dtype=np.uint8).reshape(-1, self.width)
        for column in range(self.width):
            octets[:, column] = columns[:, column]
        vector = vector.astype(np.uint64, copy=False)
        if not self.contains(vector):
            raise ValueError("an element is not below the modulus")
        return vector


class RunningSum:
    """Adds many reduced vectors, reducing only as often as 64 bits demand."""

    __slots__ = ("_room", "ring", "total")

    def __init__(self, ring: Ring, start: Vector) -> None:
        """`start` is taken over and changed in place."""
        self.ring = ring
        self.total = start
        self._room = ring.lazy_terms - 1

    def reserve(self, terms: int = 1) -> None:
        """Makes room for so many more terms at every element, fewer than `Ring.lazy_terms`; call it before they are added."""
        if self._room < terms:
            self.ring.reduce(self.total)
            self._room = self.ring.lazy_terms - 1
        self._room -= terms

    def add(self, vector: Vector) -> None:
        """Adds a reduced vector."""
        self.reserve()
        self.total += vector

    def finish(self) -> Vector:
        """The reduced sum. The object is of no use afterwards."""
        self.ring.reduce(self.total)
        return self.total
