"""What a hospital is told: which studies it runs, and where the patients are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from nodes.config.enrolment import EnrolmentConfig
from nodes.config.parts import NodeConfig
from nodes.fields import RELAY, Listen, Places
from nodes.yaml_struct import Problem


class HospitalConfig(NodeConfig, frozen=True, kw_only=True):
    """A hospital: which studies it runs, and where the patients are."""

    listen: Listen
    studies: Path
    """Directory of *.yaml."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    """How often a round that failed before anything was collected is opened again without those who failed it."""
    patients: Annotated[Places, msgspec.Meta(min_length=1)]
    """Where each is reached: its URL, or `relay`."""
    enrolment: EnrolmentConfig | None = None
    """Only where the authority lives here."""

    @property
    def place(self) -> str:
        """Where it takes messages, for people."""
        return self.listen

    def behind_relay(self, patient: str) -> bool:
        """Whether this patient is reached through the relay."""
        return self.patients.get(patient) == RELAY

    def endpoint(self, patient: str, announced: str) -> str:
        """Where to send what is for this patient."""
        place = self.patients.get(patient, announced)
        return self.relay.endpoint if place == RELAY and self.relay is not None else place

    def problems(self) -> Iterator[Problem]:
        """Who is behind a relay needs one."""
        behind = [name for name, place in self.patients.items() if place == RELAY]
        if behind and self.relay is None:
            yield Problem(
                ("patients", behind[0]), "is behind a relay, but none is named; add relay: {name: ..., url: https://...}"
            )
