"""What a daemon works by: its configuration and all that this names, read and checked as a whole."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mpc.errors import IdentityError
from nodes.config import HospitalConfig, PatientConfig, RelayConfig, identity_of
from nodes.identity import Kept, load_identity
from nodes.log import Event
from nodes.revocation import with_file, with_kept
from nodes.store.sealing import StorageKey, credentials_directory
from pki.node import NodeKey
from pki.trust import TrustStore

C = TypeVar("C", bound=HospitalConfig | PatientConfig | RelayConfig)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """One moment's configuration, and whom it makes the node believe and be."""

    config: C
    trust: TrustStore
    """Obeys the newest revocation lists that were known."""
    node_key: NodeKey
    former: tuple[NodeKey, ...] = ()
    """Who the node was before, as far as that still holds."""
    notes: tuple[tuple[Event, str], ...] = ()
    """What was passed over, for the log."""


def load(config: C) -> Loaded[C]:
    """Raises IdentityError or ConfigError for keys, certificates and lists that cannot be used now."""
    files, rules, now = config.identity, config.revocation, time.time()
    pins = config.trust.pins(config.consortium)
    trust = TrustStore.load(*files.authorities, list_grace=rules.refuse_after, pins=pins)
    found = load_identity(files.key, files.certificate, kept_of(config), trust, now, identity_of(config))
    notes = [(Event.IDENTITY_PASSED_OVER, found.passed_over)] if found.passed_over else []
    trust, older = with_kept(trust, config.state, now)
    if rules.file is not None:
        trust, more = with_file(trust, rules.file, now, found.node.chain[1:])
        older += more
    notes += [(Event.REVOCATIONS_REFUSED, text) for text in older]
    node_key, *former = _unrevoked((found.node, *found.former), trust, now)
    return Loaded(config, trust, node_key, tuple(former), tuple(notes))


def _unrevoked(pairs: Sequence[NodeKey], trust: TrustStore, now: float) -> list[NodeKey]:
    """Those whose certificates are on no list, whatever its age: this node may be the one that is to fetch a newer list."""
    left, why = [], []
    for pair in pairs:
        try:
            trust.whatever_age().verify(pair.chain, now)
            left.append(pair)
        except IdentityError as error:
            why.append(error)
    if not left:
        raise why[0]
    return left


def kept_of(config: HospitalConfig | PatientConfig | RelayConfig) -> Kept:
    """Where this node keeps a key and certificate that it got itself."""
    if isinstance(config, RelayConfig):
        return Kept(config.state)
    path = config.storage_key
    return Kept(config.state, lambda: StorageKey.load(path, credentials_directory(os.environ)))
