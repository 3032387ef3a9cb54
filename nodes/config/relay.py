"""What a relay is told: who has a mailbox, how much may wait, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

from mpc.errors import IdentityError
from mpc.identity import Identity, Role
from nodes.config.enrolment import EnrolmentConfig
from nodes.config.parts import DaemonConfig, Struct
from nodes.fields import Listen, Positive, Text
from nodes.yaml_struct import Problem


class RelayQuota(Struct, frozen=True, kw_only=True):
    """The most that waits at a relay, of one sender and for one recipient each."""

    sender_messages: Positive = 100_000
    sender_bytes: Positive = 1024**3
    recipient_messages: Positive = 100_000
    recipient_bytes: Positive = 1024**3


class RelayConfig(DaemonConfig, frozen=True, kw_only=True):
    """A relay: it keeps sealed messages for nodes of its consortium until they fetch them."""

    listen: Listen
    recipients: tuple[Text, ...] = ()
    """ROLE/NAME of nodes that have a mailbox before they have ever been here."""
    quota: RelayQuota = RelayQuota()
    max_age_hours: Positive = 7 * 24
    """Messages that nobody fetched for so long are deleted."""
    enrolment: EnrolmentConfig | None = None
    """Only where the authority lives here."""

    def problems(self) -> Iterator[Problem]:
        """Who may have a mailbox."""
        for index, name in enumerate(self.recipients):
            try:
                role = Identity.parse(f"spiffe://{self.consortium}/{name}").role
            except IdentityError:
                role = Role.MODEL
            if role not in (Role.HOSPITAL, Role.PATIENT):
                yield Problem(("recipients", index), f"{name!r} is no node with a mailbox; write patient/NAME or hospital/NAME")

    @property
    def place(self) -> str:
        """Where it takes messages, for people."""
        return self.listen

    @property
    def mailboxes(self) -> tuple[Identity, ...]:
        """`recipients` as identities."""
        return tuple(Identity.parse(f"spiffe://{self.consortium}/{name}") for name in self.recipients)
