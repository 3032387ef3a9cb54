"""Cohortium for Python programs: ask a running hospital, and read what its studies have found.

    from cohortium import Hospital

    result = await Hospital("admin.sock").run("blood-pressure")

Everything here is made elsewhere; docs/python.md shows how to use it.
"""

from __future__ import annotations

from mpc.errors import CohortiumError, RoundAborted, TemporaryError, UserError
from mpc.release import Told, Withheld
from mpc.statistics.figures import Quantity, Table
from nodes.client import BlockingHospital, Hospital, Progress, StudyLine
from nodes.results import StudyResult

__all__ = [
    "BlockingHospital",
    "CohortiumError",
    "Hospital",
    "Progress",
    "Quantity",
    "RoundAborted",
    "StudyLine",
    "StudyResult",
    "Table",
    "TemporaryError",
    "Told",
    "UserError",
    "Withheld",
]
