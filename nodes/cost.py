"""What a round of a study costs, before it runs: bytes that a patient moves, seconds that it takes.

The constants are what `benchmarks/secure_sum.py` measures (benchmarks/README.md): good to a third where nothing else runs and no
line is slow. Nobody decides by them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpc.statistics import Layout
from mpc.study import Study
from mpc.wire import encode

_SENT, _SENT_EACH = 4_200, 1_000
"""Bytes that a patient sends: to the hospital, and to each other member. Envelopes, HTTP and TLS together."""
_RECEIVED, _RECEIVED_EACH = 5_000, 2_600
"""... and receives: the Invitation without its study, and of each member a Share and its lines in Roster and Collect."""

_ROUND = 0.03
"""Seconds that a round takes whatever it asks."""
_PAIR, _MEMBER = 0.0024, 0.004
"""Seconds of a processor for a Share, both ends together; and for all that hospital and one patient tell each other."""
_SHARED, _ADDED = 5e-9, 20e-9
"""Seconds for an element of a Share, both ends; and of a partial sum, at the hospital."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one round over all members."""

    sent: int
    """Bytes of one patient, as is `received`."""
    received: int
    apart: float
    """Seconds, where every node has a machine of its own."""
    together: float
    """Seconds, with all nodes on two processors."""


def cost(study: Study, layout: Layout) -> Cost:
    """The cost of a round, if all members take part and answer at once."""
    members = len(study.members)
    at_hospital = members * (_MEMBER + _ADDED * layout.length)
    of_shares = (members - 1) * (_PAIR + 2 * _SHARED * layout.length)
    return Cost(
        sent=_SENT + _SENT_EACH * (members - 1) + layout.octets,
        received=_RECEIVED + len(encode(study)) + _RECEIVED_EACH * members,
        apart=_ROUND + at_hospital + of_shares,
        together=_ROUND + (at_hospital + members * of_shares) / 2,
    )
