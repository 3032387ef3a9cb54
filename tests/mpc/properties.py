"""How the property-based tests of `mpc` run: quickly, without a deadline per case, and saying how to repeat a failure."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

quick = settings(max_examples=80, deadline=None, print_blob=True)
slow = settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
"""For cases that each make and run a whole round."""
