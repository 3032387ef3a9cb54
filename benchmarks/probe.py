"""Measures running processes from outside: CPU time, peak memory, and the bytes on their TCP connections.

Nothing is asked of the measured processes. Byte counts come from the kernel's own account of every socket (TCP_INFO):
the measuring process borrows a copy of each socket descriptor (pidfd_getfd(2)) and reads the counters through it, so
that what is counted is what TLS really put on the wire, records and handshakes included, IP and TCP headers not.

Linux only. Every function raises ProcessLookupError when the process is gone and PermissionError when it is not ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# System call numbers are the same on every architecture since Linux 5.1; Python has os.pidfd_open but no pidfd_getfd.
_SYS_PIDFD_GETFD = 438
# struct tcp_info, linux/tcp.h: 8 bytes of flags, 24 32-bit fields, 2 64-bit pacing rates, and then these counters.
_RECEIVED_OFFSET = 128
_SENT_OFFSET = 200
_RETRANSMITTED_OFFSET = 208
_TCP_INFO_LENGTH = 216
# The first byte of tcp_info is the state; a listening socket carries no data (include/net/tcp_states.h).
_TCP_LISTEN = 10
# clear_refs: 5 resets the peak resident size to the present one (proc_pid_clear_refs(5)).
_RESET_PEAK = b"5"

_libc = ctypes.CDLL(None, use_errno=True)
_socket_link = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Count:
    """Bytes that one TCP connection has carried since it was made, without retransmissions."""

    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over a process's TCP connections between two snapshots, in bytes.

    `opened` and `vanished` count the connections that are in only one of the snapshots. The bytes of an opened one are
    all counted; what a vanished one carried after the first snapshot is unknown and missing here, as is a connection
    that was both opened and closed in between. So the sums are exact when connections are kept.
    """

    sent: int
    received: int
    kept: int
    opened: int
    vanished: int


def cpu_seconds(pids: Iterable[int]) -> float:
    """User plus system CPU time of the processes so far, in seconds, all their threads included, their children not.

    The processes' CPU clocks (clock_getcpuclockid(3)) count in nanoseconds what /proc/PID/stat rounds to 10 ms.
    """
    total = 0.0
    for pid in pids:
        clock = ctypes.c_int()
        error = _libc.clock_getcpuclockid(ctypes.c_int(pid), ctypes.byref(clock))
        if error:
            raise OSError(error, os.strerror(error), f"process {pid}")
        total += time.clock_gettime(clock.value)
    return total


def peak_memory(pid: int) -> int:
    """The largest resident memory of a process since its start or the last `reset_peak_memory`, in bytes."""
    return _status(pid, "VmHWM")


def memory(pid: int) -> int:
    """The resident memory of a process now, in bytes."""
    return _status(pid, "VmRSS")


def reset_peak_memory(pid: int) -> None:
    """Forget the peak so far: `peak_memory` then speaks of what comes after."""
    with _gone_is_no_process(pid):
        Path(f"/proc/{pid}/clear_refs").write_bytes(_RESET_PEAK)


def connections(pid: int) -> Mapping[int, Count]:
    """The TCP connections that a process holds now, by socket inode, each with the bytes carried so far.

    Raises OSError where the kernel or its policy does not let one process look at another's sockets: see `unsupported`.
    """
    found: dict[int, Count] = {}
    pidfd = os.pidfd_open(pid)
    try:
        for descriptor, inode in _sockets(pid):
            if inode in found:
                continue
            copy = _copy_descriptor(pidfd, descriptor)
            if copy is None:
                continue
            # A copy shares the open file with its owner: it is only asked, and closing it leaves the owner's open.
            with socket.socket(fileno=copy) as borrowed:
                # The descriptor may have been closed and given to another socket since it was listed.
                if os.fstat(copy).st_ino == inode and (count := _count(borrowed)) is not None:
                    found[inode] = count
    finally:
        os.close(pidfd)
    return found


def traffic(before: Mapping[int, Count], after: Mapping[int, Count]) -> Traffic:
    """What was carried between two snapshots of one process's connections."""
    nothing = Count(0, 0)
    return Traffic(
        sent=sum(count.sent - before.get(inode, nothing).sent for inode, count in after.items()),
        received=sum(count.received - before.get(inode, nothing).received for inode, count in after.items()),
        kept=len(before.keys() & after.keys()),
        opened=len(after.keys() - before.keys()),
        vanished=len(before.keys() - after.keys()),
    )


def unsupported() -> str | None:
    """Why bytes cannot be counted on this machine, or None when they can; tried on a socket of this process itself."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            if os.fstat(client.fileno()).st_ino in connections(os.getpid()):
                return None
            return "the kernel gives no byte counts in TCP_INFO (Linux 4.19 or newer is needed)"
    except OSError as error:
        return f"sockets of other processes cannot be read here: {error}"


def _status(pid: int, key: str) -> int:
    with _gone_is_no_process(pid):
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    raise ProcessLookupError(f"process {pid} has ended: its status has no {key}")


def _sockets(pid: int) -> list[tuple[int, int]]:
    """Descriptor number and inode of every socket that a process holds."""
    found: list[tuple[int, int]] = []
    with _gone_is_no_process(pid):
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    for link in links:
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if match := _socket_link.fullmatch(target):
            found.append((int(link.name), int(match[1])))
    return found


def _copy_descriptor(pidfd: int, descriptor: int) -> int | None:
    """A descriptor of this process for the same open file, or None when the owner has closed it meanwhile."""
    copy: int = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    if copy >= 0:
        return copy
    error = ctypes.get_errno()
    if error == errno.EBADF:
        return None
    raise OSError(error, os.strerror(error), "pidfd_getfd")


def _count(borrowed: socket.socket) -> Count | None:
    """The byte counters of a TCP connection; None for a listener, another protocol, or an old kernel."""
    if borrowed.family not in (socket.AF_INET, socket.AF_INET6) or borrowed.type != socket.SOCK_STREAM:
        return None
    info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LENGTH)
    if info[0] == _TCP_LISTEN or len(info) < _TCP_INFO_LENGTH:
        return None
    (received,) = struct.unpack_from("=Q", info, _RECEIVED_OFFSET)
    sent, retransmitted = struct.unpack_from("=QQ", info, _SENT_OFFSET)
    return Count(sent=sent - retransmitted, received=received)


@contextmanager
def _gone_is_no_process(pid: int) -> Iterator[None]:
    """Turns the missing file of a process that has ended into ProcessLookupError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} has ended") from error
