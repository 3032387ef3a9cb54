"""Ports for daemons that start again: different, free, and none that an outgoing connection may take meanwhile."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from scripts import ports
from scripts.ports import free_ports


def test_ports_are_different_and_free() -> None:
    chosen = free_ports(50)
    assert len(set(chosen)) == 50
    for port in chosen:
        socket.create_server(("127.0.0.1", port)).close()


def test_no_outgoing_connection_can_take_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(50):
            with socket.create_connection(server.getsockname()) as outgoing:
                assert outgoing.getsockname()[1] > max(free_ports(20))


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr(ports, "LOWEST", port)
    monkeypatch.setattr(ports, "_end", lambda: port + 1)
    assert free_ports(1) == [port]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(OSError, match="fewer than 1 ports"):
        free_ports(1)


@pytest.mark.parametrize(
    ("content", "end"), [("32768\t60999\n", 32768), ("15000 65000", 15000), ("1024 65535", 32768), ("x", 32768)]
)
def test_the_range_of_the_kernel_is_heeded(content: str, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_RANGE", tmp_path / "range")
    assert ports._end() == 32768
    (tmp_path / "range").write_text(content)
    assert ports._end() == end
