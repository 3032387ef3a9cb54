"""An exported audit log is checked with nothing but itself and a certificate, and no byte of it can change."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from mpc.errors import CohortiumError, IdentityError, TemporaryError, UsageError
from mpc.identity import Identity, Role
from nodes.audit_export import Export, ExportRefused, check_export, export
from nodes.store.audit import AuditEvent, AuditLine, ChainBroken, audit_line
from nodes.store.volatile import VolatileStore
from pki.authority import Authority
from pki.node import NodeKey, load_node_key
from pki.trust import TrustStore
from tests.pki.forge import needs_openssl

ALICE = Identity("demo", Role.PATIENT, "alice")
BOB = Identity("demo", Role.PATIENT, "bob")
LINES = 6


@dataclass
class Home:
    """An authority, two nodes of it, and alice's log."""

    directory: Path
    key: NodeKey
    store: VolatileStore

    @property
    def certificate(self) -> Path:
        return self.directory / "alice.crt"

    @property
    def root(self) -> Path:
        return self.directory / "ca" / "ca.crt"

    async def export(self, name: str = "export.jsonl") -> Path:
        path = self.directory / name
        path.write_bytes(b"".join([piece async for piece in export(self.store, self.key, time.time())]))
        return path

    def changed(self, change: Callable[[list[bytes]], object], name: str = "export.jsonl") -> Path:
        """Another file, of lines that were changed."""
        lines = (self.directory / name).read_bytes().splitlines(keepends=True)
        change(lines)
        path = self.directory / "changed.jsonl"
        path.write_bytes(b"".join(lines))
        return path

    def check(self, path: Path, after: Export | None = None) -> Export:
        return check_export(path, certificate=self.certificate, after=after)


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    authority = Authority.create(tmp_path / "ca", "demo", time.time())
    for node in (ALICE, BOB):
        authority.issue_node(node, (), (), time.time(), out=tmp_path, force=False)
    trust = TrustStore.load(tmp_path / "ca" / "ca.crt")
    key = load_node_key(tmp_path / "alice.key", tmp_path / "alice.crt", trust, time.time(), ALICE)
    store = VolatileStore()
    await store.open()
    await store.record([audit_line(float(at), AuditEvent.CONSENTED, "pulse", reason="", n=at) for at in range(1, LINES + 1)])
    made = Home(tmp_path, key, store)
    await made.export()
    return made


def refused(home: Home, path: Path, after: Export | None = None) -> CohortiumError:
    with pytest.raises((ChainBroken, ExportRefused)) as caught:
        home.check(path, after)
    assert caught.value.exit_status == 1
    return caught.value


async def test_an_export_verifies_by_the_nodes_certificate_and_by_the_authoritys(home: Home) -> None:
    path = home.directory / "export.jsonl"
    by_node = home.check(path)
    assert (by_node.node, by_node.erased_to, by_node.last) == (ALICE, 0, LINES)
    assert check_export(path, authority=home.root) == by_node


async def test_a_new_log_is_an_export_of_no_lines(home: Home) -> None:
    home.store = VolatileStore()
    await home.store.open()
    assert home.check(await home.export("empty.jsonl")).last == 0


@needs_openssl
async def test_the_file_is_what_the_page_says_it_is_and_openssl_verifies_it(home: Home) -> None:
    """Only hashlib, json and openssl."""
    await home.store.erase_before(3.5)
    await home.store.record([AuditLine(5.0, AuditEvent.DECLINED, "weight", b'{"why":1}')])
    await home.store.erase_before(100.0, "weight")
    path = await home.export("later.jsonl")
    first, *lines, last = path.read_bytes().splitlines()
    header = json.loads(first)
    assert list(header) == ["audit", "node", "exported", "erased_to", "anchor", "last", "certificates"]
    assert (header["audit"], header["node"], header["erased_to"], header["last"]) == (1, ALICE.uri, 3, 9)
    digest, number, seen = bytes.fromhex(header["anchor"]), header["erased_to"], []
    for raw in lines:
        number += 1
        line = json.loads(raw)
        text = raw[raw.index(b'"entry":') + 8 : -1] if "entry" in line else b""
        body = hashlib.sha256(text).digest() if text else bytes.fromhex(line["erased"])
        digest = hashlib.sha256(b"cohortium/v1/audit\0" + digest + number.to_bytes(8, "big") + body).digest()
        assert (line["number"], line["digest"]) == (number, digest.hex())
        seen.append(line["entry"]["event"] if text else "")
    assert seen == ["consented", "consented", "consented", "erased", "", "erased"]
    assert number == header["last"]
    signature = bytes.fromhex(json.loads(last)["signature"])
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    (home.directory / "signature").write_bytes(encode_dss_signature(r, s))
    (home.directory / "signed").write_bytes(b"cohortium/v1/audit-export\0" + first + b"\n" + digest)

    def openssl(*words: str) -> str:
        done = subprocess.run(["openssl", *words], cwd=home.directory, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    (home.directory / "public.pem").write_text(openssl("x509", "-in", "alice.crt", "-noout", "-pubkey"))
    assert openssl("dgst", "-sha256", "-verify", "public.pem", "-signature", "signature", "signed") == "Verified OK\n"
    assert (home.check(path).erased_to, home.check(path).last) == (3, 9)


async def test_no_byte_can_change(home: Home) -> None:
    raw = (home.directory / "export.jsonl").read_bytes()
    path = home.directory / "changed.jsonl"
    starts = [0]
    while starts[-1] < len(raw):
        starts.append(raw.index(b"\n", starts[-1]) + 1)
    for at in range(0, len(raw), 7):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        error = refused(home, path)
        line = next(index for index, end in enumerate(starts[1:]) if at < end)
        if isinstance(error, ChainBroken) and 1 <= line <= LINES:
            assert error.number == line, f"byte {at}"
        else:
            assert line in (0, LINES + 1), f"byte {at} of line {line}: {error}"


@pytest.mark.parametrize(
    ("change", "number"),
    [
        pytest.param(lambda lines: lines.pop(1), 1, id="the first line removed"),
        pytest.param(lambda lines: lines.pop(4), 4, id="a line removed"),
        pytest.param(lambda lines: lines.pop(LINES), LINES, id="the last line removed"),
        pytest.param(lambda lines: lines.insert(3, lines.pop(4)), 3, id="two lines exchanged"),
        pytest.param(lambda lines: lines.insert(3, lines[2]), 3, id="a line twice"),
        pytest.param(lambda lines: lines.__delitem__(slice(4, None)), 4, id="cut after a line"),
        pytest.param(lambda lines: lines.__setitem__(5, lines[5][:30]), 5, id="cut in a line"),
        pytest.param(lambda lines: lines.__setitem__(5, lines[5].replace(b',"event"', b', "event"')), 5, id="a space more"),
        pytest.param(lambda lines: lines.__setitem__(2, b"\xff\xfe nonsense\n"), 2, id="nonsense"),
        pytest.param(lambda lines: lines.__setitem__(2, b'{"number":2}\n'), 2, id="other json"),
    ],
)
async def test_the_first_line_that_is_wrong_is_named(home: Home, change: Callable[[list[bytes]], object], number: int) -> None:
    error = refused(home, home.changed(change))
    assert isinstance(error, ChainBroken)
    assert error.number == number
    assert str(error).startswith(f"line {number}: ")


def _all_anew(lines: list[bytes]) -> None:
    """Somebody who knows the format, and not the key, changes a line and works out all digests."""
    digest = bytes(32)
    lines[3] = lines[3].replace(b"consented", b"declined")
    for number, raw in enumerate(lines[1:-1], 1):
        text = raw[raw.index(b'"entry":') + 8 : -2]
        body = hashlib.sha256(text).digest()
        digest = hashlib.sha256(b"cohortium/v1/audit\0" + digest + number.to_bytes(8, "big") + body).digest()
        lines[number] = b'{"number":%d,"digest":"%s","entry":%s}\n' % (number, digest.hex().encode(), text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(_all_anew, "is not what this node signed", id="all digests worked out anew"),
        pytest.param(lambda lines: lines.pop(), "has no signature at its end", id="without a signature"),
        pytest.param(lambda lines: lines.append(lines[-2]), "goes on after its signature", id="more after it"),
        pytest.param(lambda lines: lines.pop(0), "does not begin as", id="without a header"),
        pytest.param(lambda lines: lines.clear(), "does not begin as", id="empty"),
        pytest.param(
            lambda lines: lines.__setitem__(0, lines[0].replace(b"patient/alice", b"patient/bob")),
            "is not what this node signed",
            id="another name",
        ),
    ],
)
async def test_what_no_line_shows_is_told(home: Home, change: Callable[[list[bytes]], object], text: str) -> None:
    error = refused(home, home.changed(change))
    assert isinstance(error, ExportRefused)
    assert text in str(error)


async def test_another_nodes_certificate_or_authority_does_not_verify_it(home: Home, tmp_path: Path) -> None:
    path = home.directory / "export.jsonl"
    with pytest.raises(ExportRefused, match="is not what this node signed"):
        check_export(path, certificate=home.directory / "bob.crt")
    Authority.create(tmp_path / "other", "demo", time.time())
    with pytest.raises(IdentityError, match="not trusted here"):
        check_export(path, authority=tmp_path / "other" / "ca.crt")
    with pytest.raises(UsageError, match="cannot read"):
        home.check(home.directory / "nowhere")


async def test_what_bob_signed_in_alices_name_is_refused(home: Home) -> None:
    trust = TrustStore.load(home.root)
    bob = load_node_key(home.directory / "bob.key", home.directory / "bob.crt", trust, time.time(), BOB)
    home.key = NodeKey(ALICE, bob.private_key, bob.chain, bob.credential)
    path = await home.export("forged.jsonl")
    for certificate, authority in ((home.directory / "bob.crt", None), (None, home.root)):
        with pytest.raises(ExportRefused, match=r"is of .*alice, signed by .*bob"):
            check_export(path, certificate=certificate, authority=authority)


async def test_a_later_export_goes_on_from_an_earlier_one(home: Home) -> None:
    earlier = home.check(home.directory / "export.jsonl")
    await home.store.record([audit_line(7.0, AuditEvent.RELEASED, "pulse")])
    assert home.check(await home.export("later.jsonl"), earlier).last == LINES + 1
    await home.store.erase_before(LINES + 0.5)
    assert home.check(await home.export("erased.jsonl"), earlier).erased_to == LINES
    await home.store.erase_before(100.0)
    with pytest.raises(ExportRefused, match="nobody can tell whether one goes on from the other"):
        home.check(await home.export("more.jsonl"), earlier)


async def test_a_history_that_was_written_anew_does_not_go_on_from_an_earlier_export(home: Home) -> None:
    """Even its own node cannot do that: whoever keeps an earlier export sees it."""
    earlier = home.check(home.directory / "export.jsonl")
    home.store = VolatileStore()
    await home.store.open()
    await home.store.record([audit_line(float(at), AuditEvent.CONSENTED, "pulse", reason="", n=at) for at in range(1, 4)])
    error = refused(home, await home.export("shorter.jsonl"), earlier)
    assert isinstance(error, ChainBroken)
    assert error.number == 4
    await home.store.record([audit_line(float(at), AuditEvent.CONSENTED, "pulse", reason="", n=at) for at in range(4, 9)])
    error = refused(home, await home.export("anew.jsonl"), earlier)
    assert isinstance(error, ChainBroken)
    assert str(error) == f"line {LINES}: it, or one before it, is not the one of the earlier export"


async def test_lines_that_are_erased_meanwhile_end_the_export(home: Home) -> None:
    pieces = export(home.store, home.key, time.time())
    await anext(pieces)
    await home.store.erase_before(3.5)
    with pytest.raises(TemporaryError, match="export it again"):
        async for _ in pieces:
            pass


async def test_a_node_signs_no_log_that_does_not_verify(home: Home) -> None:
    home.store._disk.audit.pop(2)
    with pytest.raises(ChainBroken, match="line 3: it is missing"):
        await home.export("broken.jsonl")
