"""Which way a node takes to the others, by its configuration: straight, through its relay, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpc.identity import Identity, Role
from mpc.keys import Keyring
from mpc.mailbox import PublishedKey
from mpc.wire import encode
from nodes.config import HospitalConfig, PatientConfig
from nodes.log import Logger
from nodes.transport.guard import Count
from nodes.transport.https import HttpsTransport
from nodes.transport.inbox import Routes
from nodes.transport.mail import RelayedTransport
from nodes.transport.tls import CheckPeer, Proof


def node_transport(
    config: HospitalConfig | PatientConfig,
    *,
    proof: Proof,
    roots: Sequence[bytes],
    roles: frozenset[Role],
    check_peer: CheckPeer,
    count: Count,
    log: Logger,
    keyring: Callable[[], Keyring],
    routes: Routes,
) -> HttpsTransport | RelayedTransport:
    """The transport of a hospital or a patient; `keyring` gives the current one, whose key a patient publishes at its relay.

    Raises IdentityError or ConfigError for files and addresses that cannot be used.
    """
    direct = None
    if config.listen is not None:
        direct = HttpsTransport(
            config.listen,
            proof=proof,
            roots=roots,
            roles=roles,
            check_peer=check_peer,
            limits=config.limits,
            count=count,
            routes=routes,
        )
    if config.relay is None:
        assert direct is not None, "a configuration names a listener or a relay"
        return direct
    patient = isinstance(config, PatientConfig)
    return RelayedTransport(
        Identity(config.consortium, Role.RELAY, config.relay.name),
        config.relay.url,
        proof=proof,
        roots=roots,
        check_peer=check_peer,
        limits=config.limits,
        log=log,
        direct=direct,
        proxy=config.proxy if isinstance(config, PatientConfig) else None,
        key=(lambda: _published(keyring())) if patient else (lambda: None),
    )


def _published(keyring: Keyring) -> bytes:
    return encode(PublishedKey(keyring.chain, keyring.encryption.statement))
