"""A plan computed on a ciphertext.

Every plaintext is encoded once, when the plan is opened, at the level and the scale at which it will be met: each step then
ends at exactly the scale that the next one was encoded for. Nothing here depends on what is encrypted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhe.ckks.plan import Affine, Plan, Power
from fhe.ckks.seal import Scheme

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Keys:
    """The evaluation key, loaded."""

    galois: Any
    relin: Any


Run = Callable[[Any, Keys], Any]


class Evaluation:
    """A plan, ready to run. `run` may be called again and again."""

    def __init__(self, scheme: Scheme, plan: Plan) -> None:
        self.scheme = scheme
        self._level, self._scale = 0, scheme.parameters.scale
        self._steps: list[Run] = []
        for step in plan.steps:
            target = scheme.parameters.last_scale if step is plan.steps[-1] else scheme.parameters.scale
            self._steps.append(self._affine(step, target) if isinstance(step, Affine) else self._power(step))

    def run(self, ciphertext: Any, keys: Keys) -> Any:
        """The result's ciphertext, at the lowest level."""
        for step in self._steps:
            ciphertext = step(ciphertext, keys)
        return ciphertext

    def _plain(self, values: Array, level: int, scale: float) -> Any:
        return self.scheme.plaintext(np.tile(values, self.scheme.parameters.slots // len(values)).tolist(), level, scale)

    def _affine(self, step: Affine, target: float) -> Run:
        level = self._level
        scale = target * self.scheme.primes[level] / self._scale
        block, stride = step.block, step.stride
        groups: list[list[tuple[int, Any]]] = []
        for first in range(0, step.diagonals, stride):
            found = ((place, step.diagonal(first + place)) for place in range(min(stride, step.diagonals - first)))
            groups.append([(place, self._plain(np.roll(row, first * block), level, scale)) for place, row in found if row.any()])
        bias = self._plain(step.bias.reshape(-1), level + 1, target)
        rows, columns = step.matrix.shape
        sums = [rows * block << place for place in range((columns // rows).bit_length() - 1)] if rows < columns else []
        self._level, self._scale = level + 1, target
        scheme = self.scheme

        def run(x: Any, keys: Keys) -> Any:
            total, turned = None, [x]
            for group in reversed(groups):
                if total is not None:
                    scheme.evaluator.rotate_vector_inplace(total, stride * block, keys.galois)
                for place, plain in group:
                    while len(turned) <= place:
                        turned.append(scheme.turn(turned[-1], block, keys.galois))
                    product = scheme.times(turned[place], plain)
                    if total is None:
                        total = product
                    else:
                        scheme.evaluator.add_inplace(total, product)
            assert total is not None, "no map has weights of zero alone"
            for turn in sums:
                scheme.evaluator.add_inplace(total, scheme.turn(total, turn, keys.galois))
            # Only now, as each turn adds noise, which counts for little at the product's scale.
            scheme.evaluator.rescale_to_next_inplace(total)
            total.scale = target
            scheme.evaluator.add_plain_inplace(total, bias)
            return total

        return run

    def _power(self, step: Power) -> Run:
        terms = [np.repeat(row, step.block) for row in step.terms]
        if step.degree == 2:
            return self._square(*terms)
        return self._cubic(*terms) if step.degree == 3 else self._quartic(*terms)

    def _square(self, h: Array) -> Run:
        """(u + h)^2."""
        shift = self._plain(h, self._level, self._scale)
        self._descend()

        def run(u: Any, keys: Keys) -> Any:
            self.scheme.evaluator.add_plain_inplace(u, shift)
            return self.scheme.product(u, u, keys.relin)

        return run

    def _cubic(self, c3: Array, c2: Array, c1: Array) -> Run:
        """(c3 u + c2) u^2 + c1 u."""
        level, scale = self._level, self._scale
        cube = self._plain(c3, level, scale)
        line = self._plain(c1, level, self._after(2) * self.scheme.primes[level] / scale)
        self._descend()
        square = self._plain(c2, self._level, self._scale)
        self._descend()

        def run(u: Any, keys: Keys) -> Any:
            factor = self._times(u, cube)
            self.scheme.evaluator.add_plain_inplace(factor, square)
            return self._sum(self.scheme.product(factor, self.scheme.product(u, u, keys.relin), keys.relin), self._times(u, line))

        return run

    def _quartic(self, a: Array, b: Array, c: Array) -> Run:
        """(u^2 + a u + b)^2 + c u."""
        level, scale = self._level, self._scale
        middle = self._plain(a, level, scale)
        line = self._plain(c, level, self._after(2) * self.scheme.primes[level] / scale)
        self._descend()
        shift = self._plain(b, self._level, self._scale)
        self._descend()

        def run(u: Any, keys: Keys) -> Any:
            inner = self._sum(self.scheme.product(u, u, keys.relin), self._times(u, middle))
            self.scheme.evaluator.add_plain_inplace(inner, shift)
            return self._sum(self.scheme.product(inner, inner, keys.relin), self._times(u, line))

        return run

    def _after(self, squares: int) -> float:
        """The scale after so many squarings."""
        scale = self._scale
        for place in range(squares):
            scale = scale * scale / self.scheme.primes[self._level + place]
        return scale

    def _descend(self) -> None:
        self._scale, self._level = self._after(1), self._level + 1

    def _times(self, u: Any, plain: Any) -> Any:
        product = self.scheme.times(u, plain)
        self.scheme.evaluator.rescale_to_next_inplace(product)
        return product

    def _sum(self, left: Any, right: Any) -> Any:
        """Brought to one level first; their scales are the same by how the plaintexts were encoded, up to rounding of the
        doubles."""
        while right.coeff_modulus_size() > left.coeff_modulus_size():
            self.scheme.evaluator.mod_switch_to_next_inplace(right)
        right.scale = left.scale
        self.scheme.evaluator.add_inplace(left, right)
        return left
