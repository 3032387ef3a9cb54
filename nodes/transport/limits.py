"""Every deadline, size and count that bounds what a peer can make the HTTPS transport do, in one place."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Units are in the names: seconds, bytes, or plain counts. All are positive.

    The defaults suit a hospital with hundreds of patients.
    """

    message_bytes: int = 32 * MIB
    """Largest message sent or taken."""
    small_bytes: int = 64 * KIB
    """Messages up to this size do not wait for the budget."""
    budget_bytes: int = 8 * MIB
    """Bodies of larger messages that may be in memory together; one larger than that comes in alone."""
    bytes_per_second: int = 64 * KIB
    """Slowest peer that is put up with: a body's deadline grows by its size over this."""

    handshake_seconds: float = 10.0
    """From accepting a connection to the end of its TLS handshake."""
    header_seconds: float = 10.0
    """From the first byte of a request, or the end of the handshake, to the end of the request's headers."""
    body_seconds: float = 10.0
    """For a body of no bytes; see `bytes_per_second`."""
    idle_seconds: float = 90.0
    """How long the server keeps a connection between two requests."""
    linger_seconds: float = 1.0
    """How long a refused peer may still read why before its connection is cut."""
    stop_seconds: float = 10.0
    """How long `stop` lets requests under way finish."""

    connect_seconds: float = 10.0
    """For a new connection to a recipient, TCP and TLS together."""
    send_seconds: float = 20.0
    """From `send` to its answer for a message of no bytes; see `bytes_per_second`."""
    kept_seconds: float = 75.0
    """How long the client keeps an unused connection: below any server's `idle_seconds`, so that the client closes."""

    connections: int = 800
    """Connections accepted in all; below the usual 1024 open files of a process."""
    connections_per_peer: int = 8
    """Connections accepted from one identity. An idle one gives way to a new one."""
    handshakes_per_address: int = 128
    """Connections from one address whose handshake has not ended; a whole practice may sit behind one address."""
    requests_per_peer: int = 4
    """Requests of one identity handled at the same time."""
    connections_per_recipient: int = 2
    """Connections that the client opens to one recipient."""

    def body_deadline(self, size: int) -> float:
        """Seconds in which a body of `size` bytes must be here."""
        return self.body_seconds + size / self.bytes_per_second

    def send_deadline(self, size: int) -> float:
        """Seconds in which the answer to a message of `size` bytes must be here."""
        return self.send_seconds + size / self.bytes_per_second
