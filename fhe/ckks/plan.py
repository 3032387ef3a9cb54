"""What is computed under encryption, and how numbers lie in the slots: a plan for the service and a layout for the client.

A ciphertext holds `slots` numbers, and a vector of P numbers (P a power of two) fills it again and again. Then turning the slots
turns the vector, and an affine map of M rows and K columns, both powers of two, is done by diagonals (Halevi and Shoup 2014, in
the form of Juvekar, Vaikuntanathan and Chandrakasan 2018, "hybrid"):

    sum over d < min(M, K) of diagonal[d] * turn(x, d),   diagonal[d][i] = A[i mod M, (i + d) mod K]

and, where M < K, log2(K / M) turns add what lies M apart. A convolution is the same map on blocks of slots: the client lays the
image out by kernel element (im2col), one block for each element and one slot of it for each window, and turns go by whole
blocks.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fhe.ckks.polynomial import LEVELS, TERMS, evaluate
from fhe.errors import BundleError

Array = NDArray[np.float64]

MAX_BITS = {4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Bits of all primes together that give 128-bit security, by degree (Homomorphic Encryption Standard 2018, table 1)."""
HEADROOM = 7
"""Bits of the first and the last prime above the others: a result may be 64 times what calibration saw."""
_SCALES = (28, 40)
"""Bits of the scale, least and most: less is too coarse, more is never needed."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the scheme."""

    degree: int
    """Of the polynomials; half of it is the number of slots."""
    bits: tuple[int, ...]
    """Of each prime: the first, one for each level, and the last, which is for turning and squaring."""
    lift: int
    """Bits of the scale above the primes'. Noise counts against the scale; what is above the primes is taken from the precision
    of the weights, which matters where polynomials make large numbers of small ones."""

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext."""
        return self.degree // 2

    @property
    def scale(self) -> float:
        """What a number is multiplied by before it is rounded."""
        return 2.0 ** (self.bits[1] + self.lift)

    @property
    def last_scale(self) -> float:
        """That of the result, which has to fit the first prime."""
        return 2.0 ** self.bits[1]

    @property
    def levels(self) -> int:
        """Multiplications, one after another."""
        return len(self.bits) - 2


def choose(levels: int, slots: int, lift: int) -> Parameters | None:
    """The smallest parameters for so many levels and slots, at 128-bit security; None when there are none."""
    for degree, most in MAX_BITS.items():
        scale = min(_SCALES[1], (most - 2 * HEADROOM) // (levels + 2))
        if scale >= _SCALES[0] and degree // 2 >= slots:
            return Parameters(degree=degree, bits=(scale + HEADROOM, *[scale] * levels, scale + HEADROOM), lift=lift)
    return None


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a client has to know. It tells the shape of the first map and no weight."""

    parameters: Parameters
    size: int
    """Numbers of one sample."""
    gather: tuple[int, ...]
    """For each slot of the period, which number of the sample lies in it; -1 for none, which is 0."""
    results: tuple[int, ...]
    """In which slots the results lie."""
    reach: float
    """What a decrypted 1 stands for."""
    step: float
    """Results are rounded to whole multiples of it."""
    turns: tuple[int, ...]
    """Slots to turn by, for which the evaluation key has keys."""

    def check(self) -> None:
        """Raises BundleError for numbers that make no sense."""
        p = self.parameters
        period = len(self.gather)
        for holds, rule in (
            (p.degree in MAX_BITS and sum(p.bits) <= MAX_BITS.get(p.degree, 0), "the parameters give less than 128 bits"),
            (len(p.bits) > 2 and min(p.bits) >= _SCALES[0] and max(p.bits) <= 60, "primes have 28 to 60 bits"),
            (0 <= p.lift <= HEADROOM, "the scale is at most that of the first prime"),
            (0 < period <= p.slots and period & (period - 1) == 0, "the period is a power of two, at most the slots"),
            (self.size > 0 and all(-1 <= place < self.size for place in self.gather), "gather names numbers of the sample"),
            (all(0 < number < np.inf for number in (self.reach, self.step)), "reach and step are above 0"),
            (bool(self.results) and all(0 <= place < p.slots for place in self.results), "results lie in slots"),
            (all(0 < turn < p.slots for turn in self.turns), "turns are by 1 to the number of slots"),
        ):
            if not holds:
                raise BundleError(f"the layout does not fit itself: {rule}")

    def spread(self, values: Array) -> Array:
        """(samples, size), each number within -1 to 1 -> (samples, slots): what is encrypted."""
        places = np.array(self.gather)
        period = np.where(places >= 0, values[:, np.maximum(places, 0)], 0.0)
        return np.tile(period, self.parameters.slots // len(places))

    def collect(self, slots: Array) -> Array:
        """(samples, slots) -> (samples, results), with the noise rounded away."""
        return np.round(slots[:, list(self.results)] * self.reach / self.step) * self.step


@dataclass(frozen=True, slots=True)
class Affine:
    """x -> A x + b on blocks: `matrix` is (M, K), each a power of two, `bias` (M, block)."""

    matrix: Array
    bias: Array

    @property
    def block(self) -> int:
        """Slots of one element."""
        return int(self.bias.shape[1])

    @property
    def diagonals(self) -> int:
        """How many at most; those of zeros alone are left out."""
        return int(min(self.matrix.shape))

    @property
    def stride(self) -> int:
        """Diagonals are taken in groups of so many: few turns of the input, and one of the sum for each group (Shanks' baby and
        giant steps)."""
        return 1 << -(-(self.diagonals.bit_length() - 1) // 2)

    def diagonal(self, d: int) -> Array:
        """(period,): what the input, turned by d blocks, is multiplied by."""
        rows, columns = self.matrix.shape
        place = np.arange(max(rows, columns))
        return np.repeat(self.matrix[place % rows, (place + d) % columns], self.block)

    @property
    def turns(self) -> set[int]:
        """Slots to turn by, all of them powers of two."""
        rows, columns = self.matrix.shape
        sums = {rows << step for step in range((columns // rows).bit_length() - 1)} if rows < columns else set()
        groups = {1} if self.stride > 1 else set()
        giants = {self.stride} if self.diagonals > self.stride else set()
        return {turn * self.block for turn in groups | giants | sums}


@dataclass(frozen=True, slots=True)
class Power:
    """x -> p(x), see `fhe.ckks.polynomial`: `terms` is (terms, M), one column for each block of `block` slots."""

    degree: int
    terms: Array
    block: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What the service computes: affine maps with polynomials between them."""

    steps: tuple[Affine | Power, ...]

    @property
    def levels(self) -> int:
        """Multiplications, one after another."""
        return sum(1 if isinstance(step, Affine) else LEVELS[step.degree] for step in self.steps)

    @property
    def period(self) -> int:
        """The slots that the widest step takes."""
        return max(int(max(step.matrix.shape)) * step.block for step in self.affine)

    @property
    def affine(self) -> Iterator[Affine]:
        """The maps alone."""
        return (step for step in self.steps if isinstance(step, Affine))

    @property
    def turns(self) -> tuple[int, ...]:
        """Slots to turn by. A turn by all of the slots is none."""
        return tuple(sorted(set().union(*(step.turns for step in self.affine))))

    def simulate(self, slots: Array) -> Array:
        """The same in clear: (samples, slots) -> (samples, period of the result)."""
        values = slots
        for step in self.steps:
            if isinstance(step, Affine):
                rows, columns = step.matrix.shape
                blocks = values[:, : columns * step.block].reshape(len(values), columns, step.block)
                values = (np.einsum("mk,nkb->nmb", step.matrix, blocks) + step.bias).reshape(len(values), rows * step.block)
            else:
                rows = step.terms.shape[1]
                blocks = values[:, : rows * step.block].reshape(len(values), rows, step.block)
                values = evaluate(step.degree, step.terms, blocks).reshape(len(values), -1)
            # A narrow result lies in the slots again and again, and so it may meet a wider map.
            values = np.tile(values, max(1, slots.shape[1] // values.shape[1]))
        return values

    def dump(self) -> bytes:
        """As a file: a zip of plain arrays, two for each step, those of an affine map all of reals."""
        out = io.BytesIO()
        pairs = [
            (step.matrix, step.bias) if isinstance(step, Affine) else (step.terms, np.array([step.degree, step.block]))
            for step in self.steps
        ]
        np.savez(out, *(array for pair in pairs for array in pair))
        return out.getvalue()

    @classmethod
    def load(cls, data: bytes) -> Plan:
        """Raises BundleError for bytes that are no plan."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = [file[f"arr_{place}"] for place in range(len(file.files))]
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError("the plan is not one, or damaged; make the bundle again") from error
        pairs = list(zip(arrays[::2], arrays[1::2], strict=False))
        steps = tuple(_power(*pair) if pair[1].dtype.kind == "i" else _affine(*pair) for pair in pairs)
        if not steps or len(arrays) % 2 or not isinstance(steps[0], Affine) or not isinstance(steps[-1], Affine):
            raise BundleError("the plan has steps missing; make the bundle again")
        return cls(steps)


def _affine(matrix: Array, bias: Array) -> Affine:
    sizes = (*matrix.shape, *bias.shape)
    if len(sizes) != 4 or sizes[0] != sizes[2] or not all(size > 0 and size & (size - 1) == 0 for size in sizes):
        raise BundleError("the plan has a map of sizes that do not fit; make the bundle again")
    return Affine(matrix.astype(np.float64), bias.astype(np.float64))


def _power(terms: Array, power: NDArray[np.int64]) -> Power:
    if power.shape != (2,) or int(power[0]) not in TERMS or terms.ndim != 2 or len(terms) != TERMS[int(power[0])]:
        raise BundleError("the plan has a polynomial of a degree that does not exist; make the bundle again")
    return Power(int(power[0]), terms.astype(np.float64), int(power[1]))
