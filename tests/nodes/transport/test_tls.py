"""Contexts are made from files, with errors a person can act on, and name nobody in the clear."""

from __future__ import annotations

import asyncio.sslproto
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mpc.errors import IdentityError
from nodes.transport.tls import NodeContext, NodeObject, client_context, peer_identity, server_context
from tests.nodes.transport.certificates import Authority, Files
from tests.nodes.transport.conftest import ALICE, HOSPITAL


def context(make: Callable[..., NodeContext], files: Files) -> NodeContext:
    return make(files.key_file, files.certificate_file, files.roots)


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
    server, client = context(server_context, authority.issue(HOSPITAL)), context(client_context, authority.issue(ALICE))
    client_end, server_end, sent = joined(server, client, HOSPITAL.uri)
    assert isinstance(client_end, NodeObject)
    assert isinstance(server_end, NodeObject)
    assert (client_end.peer, server_end.peer) == (HOSPITAL, ALICE)
    assert peer_identity(client_end) == HOSPITAL
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
@pytest.mark.parametrize("field", ["key_file", "certificate_file"])
def test_a_missing_or_broken_file_is_named(
    authority: Authority, tmp_path: Path, make: Callable[..., NodeContext], field: str
) -> None:
    missing, broken = tmp_path / "missing.pem", tmp_path / "broken.pem"
    broken.write_text("not PEM")
    for file in (missing, broken):
        good = authority.issue(ALICE)
        files = replace(good, key_file=file) if field == "key_file" else replace(good, certificate_file=file)
        with pytest.raises(IdentityError, match=file.name):
            context(make, files)


def test_a_key_of_another_certificate_is_told_so(authority: Authority) -> None:
    files = replace(authority.issue(ALICE), key_file=authority.issue(ALICE).key_file)
    with pytest.raises(IdentityError, match="does not belong to"):
        context(server_context, files)


def test_a_key_with_a_password_is_an_error_and_no_prompt(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue(ALICE)
    key = serialization.load_pem_private_key(files.key_file.read_bytes(), password=None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(IdentityError, match="without a password"):
        context(client_context, replace(files, key_file=locked))


def test_a_connection_that_says_nothing_holds_no_quarter_of_a_megabyte() -> None:
    assert asyncio.sslproto.SSLProtocol.max_size == 64 * 1024  # what asyncio holds for each; 256 KiB unless told
