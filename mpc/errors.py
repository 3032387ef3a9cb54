"""Every error of the house.

    CohortiumError
    |-- UserError            a person's mistake: says what is wrong, where, and what to do
    |   |-- UsageError       the command line                                        exit 2
    |   |-- IdentityError    a key or certificate that is refused                    exit 77
    |   |   `-- RevokedError because its authority has taken it back
    |   `-- ConfigError      configuration, study, policy or local data              exit 78
    |       |-- StudyError   a study that cannot be run as it is written
    |       `-- DataError    a value that a study cannot take
    |-- TemporaryError       a passing fault: try again                              exit 75
    |-- MessageRefused       a peer's message, with the answer that the peer gets
    |-- RoundAborted         a round that ended without a result: code, phase, names
    `-- InvalidTransition    a state machine met an event that its table does not have

No text of an error carries a value, a share, a seed or a key. A secret that failed a check is described by the rule that it
broke ("above its bound"), never by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class CohortiumError(Exception):
    """Root of the tree. `exit_status` is what a command that ends with this error exits with."""

    exit_status = 1


class UserError(CohortiumError):
    """A person's mistake. The text says what is wrong, where, and what to do."""

    exit_status = 78


class UsageError(UserError):
    """The command line was used wrongly."""

    exit_status = 2


class IdentityError(UserError):
    """A key or certificate that is missing, unreadable, too readable, expired, of the wrong role or not trusted."""

    exit_status = 77


class RevokedError(IdentityError):
    """A certificate that its authority has taken back, or whose authority was itself taken back. `node` is whose, as a URI."""

    def __init__(self, text: str, node: str) -> None:
        super().__init__(text)
        self.node = node


class ConfigError(UserError):
    """A configuration file, or something it names, cannot be used."""

    exit_status = 78


class StudyError(ConfigError):
    """A study that cannot be run as it is written; where arithmetic is the reason, the text shows the arithmetic."""


class DataError(ConfigError):
    """A local value that the study cannot take. Names the variable and the broken rule, never the value."""


class TemporaryError(CohortiumError):
    """A fault that may pass: the same call may succeed later."""

    exit_status = 75


class Answer(StrEnum):
    """What the sender of a message is told. The words are the wire's own; docs/protocol.md lists them."""

    ACCEPTED = "accepted"
    """Taken, or taken before: the same message twice is one effect."""
    LATER = "later"
    """Valid, but its round is not known here yet: send it again."""
    GONE = "gone"
    """Valid, but its round has ended here: do not send it again."""
    REJECTED = "rejected"
    """Anything wrong up to and including the signature; no detail, so that nobody can probe."""
    REFUSED = "refused"
    """Signed, but not what this round expects from this sender."""
    UNOPENABLE = "unopenable"
    """The wrapped key, the seal or the payload does not open; one answer for all three."""


class MessageRefused(CohortiumError):
    """A message that is not taken. `answer` is what the peer hears; `reason` is for local logs and counters only.

    Reasons are fixed slugs ("signature", "wrong-recipient", ...), so that a counter by reason stays small.
    """

    def __init__(self, answer: Answer, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer
        self.reason = reason


class RoundAborted(CohortiumError):
    """A round that ended without a result."""

    def __init__(self, code: str, phase: str, missing: tuple[str, ...] = (), detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code
        self.phase = phase
        self.missing = missing


class InvalidTransition(CohortiumError):
    """An event that the state's table does not have: a bug of this program, told with the round's story so far."""

    def __init__(self, machine: str, state: str, event: str, story: tuple[str, ...]) -> None:
        super().__init__(f"{machine} in state {state} has no transition for {event}; so far: {' > '.join(story) or 'nothing'}")
        self.machine = machine
        self.state = state
        self.event = event
        self.story = story


def few(names: Sequence[str], most: int = 10) -> str:
    """Names for an error's text: the first `most`, and how many more there are. A peer may have made the list."""
    return (", ".join(names[:most]) or "none") + (f" and {len(names) - most} more" if len(names) > most else "")
