"""What a hospital or a relay is told that holds the authority: where other nodes get their certificates from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from nodes.config.parts import Struct
from nodes.fields import Listen
from pki.profile import LIST_DAYS, MAX_LIST_DAYS


class EnrolmentConfig(Struct, frozen=True, kw_only=True):
    """The authority at work: tokens are redeemed at `listen`, certificates renewed where the node listens anyway."""

    listen: Listen
    """For nodes that have no certificate yet: not where the node takes messages."""
    authority: Path
    """The directory that 'cohortium pki init' made. The daemon writes its register."""
    passphrase: Path | None = None
    """A file with the passphrase of the authority's key."""
    list_days: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST_DAYS)] = LIST_DAYS
    """When the next revocation list is due, at the latest."""
