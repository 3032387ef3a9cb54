"""Contexts are made from files, with errors a person can act on, and name nobody in the clear."""

from __future__ import annotations

import asyncio.sslproto
import errno
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpc.errors import IdentityError
from nodes.transport.tls import NodeContext, NodeObject, client_context, peer_identity, server_context
from tests.nodes.transport.certificates import Authority, Files, Pair
from tests.nodes.transport.conftest import ALICE, HOSPITAL


def context(make: Callable[..., NodeContext], files: Files) -> NodeContext:
    return make(files.pair, files.roots)


def joined(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject, bytes]:
    """A handshake in memory; both ends, and all that the client sent in it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_hostname=name)
    server_end = server.wrap_bio(middle := ssl.MemoryBIO(), to_client, server_side=True)
    sent = b""
    unfinished = [client_end, server_end]
    while unfinished:
        for end in list(unfinished):
            try:
                end.do_handshake()
                unfinished.remove(end)
            except ssl.SSLWantReadError:
                pass
            sent += (data := to_server.read())
            middle.write(data)
    return client_end, server_end, sent


def test_both_ends_know_each_other_after_the_handshake(authority: Authority) -> None:
    hospital = authority.issue(HOSPITAL)
    server, client = context(server_context, hospital), context(client_context, authority.issue(ALICE))
    client_end, server_end, sent = joined(server, client, HOSPITAL.uri)
    assert isinstance(client_end, NodeObject)
    assert isinstance(server_end, NodeObject)
    assert (client_end.peer, server_end.peer) == (HOSPITAL, ALICE)
    assert peer_identity(client_end, client_end.chain) == HOSPITAL
    assert client_end.chain == hospital.pair.chain
    assert client_end.version() == server_end.version() == "TLSv1.3"
    assert client_end.compression() is None
    assert b"spiffe" not in sent
    assert b"general" not in sent


@pytest.mark.parametrize("name", [None, "hospital.example", ""])
def test_a_client_that_names_no_node_gets_no_connection(authority: Authority, name: str | None) -> None:
    client = context(client_context, authority.issue(ALICE))
    with pytest.raises(IdentityError):
        client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)


def test_the_machines_web_authorities_are_not_trusted(authority: Authority) -> None:
    roots = context(client_context, authority.issue(ALICE)).get_ca_certs(binary_form=True)
    assert roots == [ssl.PEM_cert_to_DER_cert(authority.file.read_text())]


@pytest.mark.parametrize("make", [server_context, client_context])
def test_a_key_of_another_certificate_is_told_so(authority: Authority, make: Callable[..., NodeContext]) -> None:
    one, two = authority.issue(ALICE), authority.issue(ALICE)
    with pytest.raises(IdentityError, match="use a pair that was issued together"):
        make(Pair(one.pair.private_key, two.pair.chain), one.roots)


def test_the_key_lies_on_no_disk_in_the_clear(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    files, seen = authority.issue(ALICE), []
    genuine = ssl.SSLContext.load_cert_chain

    def look(self: ssl.SSLContext, file: str, **options: Any) -> None:
        seen.append((Path(file).read_text(), stat.S_IMODE(Path(file).stat().st_mode), file))
        genuine(self, file, **options)

    monkeypatch.setattr(NodeContext, "load_cert_chain", look)
    context(client_context, files)
    [(text, mode, file)] = seen
    assert "BEGIN ENCRYPTED PRIVATE KEY" in text
    assert "BEGIN PRIVATE KEY" not in text
    assert mode == 0o600
    assert not Path(file).exists()


def test_a_machine_without_room_for_the_key_is_told_so(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nodes.transport.tls.tempfile.NamedTemporaryFile", full)
    with pytest.raises(IdentityError, match=r"No space left on device.* can be written"):
        context(client_context, authority.issue(ALICE))


def test_a_connection_that_says_nothing_holds_no_quarter_of_a_megabyte() -> None:
    assert asyncio.sslproto.SSLProtocol.max_size == 64 * 1024  # what asyncio holds for each; 256 KiB unless told
