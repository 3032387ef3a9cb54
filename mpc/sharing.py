"""Additive sharing: all shares but a member's own are seeds (protocol.md, "Additive sharing").

    own_i     = x_i - sum_j expand(sent_ij)
    partial_i = own_i + sum_j expand(received_ji)

What travels to a peer is the 32-byte seed; both sides expand it. Any n-1 of a value's n shares are uniform and independent
of the value.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpc.expand import SEED_BYTES, add_expansions
from mpc.ring import Ring, RunningSum, Vector
from mpc.secret import Entropy, Secret


def draw_seeds(count: int, entropy: Entropy) -> tuple[Secret, ...]:
    """`count` independent seeds."""
    return tuple(Secret(entropy(SEED_BYTES)) for _ in range(count))


def _sum_of_expansions(ring: Ring, start: Vector, seeds: Iterable[Secret], context: bytes, segment: int) -> Vector:
    total = RunningSum(ring, start)
    add_expansions(total, [seed.reveal() for seed in seeds], context, segment=segment)
    return total.finish()


def own_share(ring: Ring, value: Vector, sent: Iterable[Secret], context: bytes, *, segment: int = 0) -> Vector:
    """What is left of `value` (reduced, unchanged by this) when every peer has the expansion of its seed."""
    return ring.subtract(value, _sum_of_expansions(ring, ring.zeros(value.size), sent, context, segment))


def partial_sum(ring: Ring, own: Vector, received: Iterable[Secret], context: bytes, *, segment: int = 0) -> Vector:
    """The sum of all shares that one member holds. Takes `own` over and changes it in place."""
    return _sum_of_expansions(ring, own, received, context, segment)


def combine(ring: Ring, partial_sums: Iterable[Vector], length: int) -> Vector:
    """The total of the partial sums of every member."""
    total = RunningSum(ring, ring.zeros(length))
    for vector in partial_sums:
        total.add(vector)
    return total.finish()
