"""The probe against processes whose transfers and allocations are known beforehand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import probe

_MEGABYTE = 1 << 20

# Both children obey lines on stdin and answer with one line each, so that every step has happened when the test looks.
_RECEIVER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
peers = [server.accept()[0]]
print("ready", flush=True)
while order := input().split():
    if order[0] == "take":
        left = int(order[1])
        while left:
            left -= len(peers[-1].recv(min(left, 65536)))
    elif order[0] == "answer":
        peers[-1].sendall(bytes(int(order[1])))
    elif order[0] == "accept":
        peers.append(server.accept()[0])
    print("done", flush=True)
"""
_SENDER = """
import socket, sys
def connect():
    return socket.create_connection(("127.0.0.1", int(sys.argv[1])))
peers = [connect()]
print("ready", flush=True)
while order := input().split():
    if order[0] == "send":
        peers[-1].sendall(bytes(int(order[1])))
    elif order[0] == "connect":
        peers.append(connect())
    elif order[0] == "close":
        peers.pop(0).close()
    elif order[0] == "burn":
        import time
        while time.process_time() < float(order[1]):
            pass
    elif order[0] == "allocate":
        block = bytearray(b"x") * int(order[1])
        del block
    print("done", flush=True)
"""


class Child:
    """A child process that does what it is told, one line at a time."""

    def __init__(self, source: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", source, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def do(self, order: str) -> None:
        self.tell(order)
        assert self.read() == "done"

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def pair() -> Iterator[tuple[Child, Child]]:
    """A sender and a receiver with one connection between them."""
    receiver = Child(_RECEIVER)
    sender = Child(_SENDER, receiver.read())
    try:
        assert sender.read() == receiver.read() == "ready"
        yield sender, receiver
    finally:
        sender.end()
        receiver.end()


needs_sockets = pytest.mark.skipif(probe.unsupported() is not None, reason=str(probe.unsupported()))


@needs_sockets
def test_a_known_transfer_is_counted_on_both_sides_and_both_ways(pair: tuple[Child, Child]) -> None:
    sender, receiver = pair
    before = probe.connections(sender.pid), probe.connections(receiver.pid)
    sender.tell("send 3000001")
    receiver.do("take 3000001")
    assert sender.read() == "done"
    receiver.do("answer 77")
    after = probe.connections(sender.pid), probe.connections(receiver.pid)

    assert probe.traffic(before[0], after[0]) == probe.Traffic(sent=3000001, received=77, kept=1, opened=0, vanished=0)
    assert probe.traffic(before[1], after[1]) == probe.Traffic(sent=77, received=3000001, kept=1, opened=0, vanished=0)


@needs_sockets
def test_a_connection_opened_between_the_snapshots_counts_and_a_closed_one_is_reported(
    pair: tuple[Child, Child],
) -> None:
    sender, receiver = pair
    sender.tell("send 5000")
    receiver.do("take 5000")
    assert sender.read() == "done"
    before = probe.connections(sender.pid)
    receiver.tell("accept")
    sender.do("connect")
    assert receiver.read() == "done"
    sender.do("close")
    sender.do("send 123")
    after = probe.connections(sender.pid)

    assert probe.traffic(before, after) == probe.Traffic(sent=123, received=0, kept=0, opened=1, vanished=1)


@needs_sockets
def test_looking_leaves_the_connection_usable_and_no_descriptor_behind(pair: tuple[Child, Child]) -> None:
    sender, receiver = pair
    probe.connections(sender.pid)
    held = _own_descriptors()
    for _ in range(5):
        assert len(probe.connections(sender.pid)) == 1
    assert _own_descriptors() == held
    sender.do("send 10")
    receiver.do("take 10")


def test_cpu_time_of_a_busy_child_is_seen(pair: tuple[Child, Child]) -> None:
    sender, receiver = pair
    before = probe.cpu_seconds([sender.pid])
    sender.do(f"burn {before + 0.2}")
    used = probe.cpu_seconds([sender.pid]) - before
    assert 0.19 <= used <= 0.4
    both = probe.cpu_seconds([sender.pid, receiver.pid])
    assert both > probe.cpu_seconds([sender.pid])


def test_the_peak_grows_with_a_known_allocation_and_can_be_reset(pair: tuple[Child, Child]) -> None:
    sender, _ = pair
    idle = probe.memory(sender.pid)
    sender.do(f"allocate {64 * _MEGABYTE}")
    peak = probe.peak_memory(sender.pid)
    assert 63 * _MEGABYTE <= peak - idle <= 70 * _MEGABYTE
    probe.reset_peak_memory(sender.pid)
    assert probe.peak_memory(sender.pid) < idle + 4 * _MEGABYTE
    sender.do(f"allocate {32 * _MEGABYTE}")
    assert 31 * _MEGABYTE <= probe.peak_memory(sender.pid) - idle <= 38 * _MEGABYTE


def test_a_process_that_has_ended_is_said_to_be_gone() -> None:
    child = subprocess.Popen([sys.executable, "-I", "-c", ""])
    child.wait()
    for measure in (probe.memory, probe.peak_memory, probe.reset_peak_memory, probe.connections):
        with pytest.raises(ProcessLookupError):
            measure(child.pid)
    with pytest.raises(OSError, match=str(child.pid)):
        probe.cpu_seconds([child.pid])


def _own_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
