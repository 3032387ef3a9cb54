"""Key files: what is written, what is refused, and that no half-written file is ever taken for a whole one."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from pki.files import (
    read_certificates,
    read_passphrase,
    read_private_key,
    read_secret,
    set_aside,
    write_file,
    write_private_key,
)
from tests.pki.forge import Key, forge, needs_openssl, openssl, p256

KEY = p256()
CERTIFICATE = forge()
SOMEBODY = 65_534


def pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_file(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "alice.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_written_key_is_private_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    before = os.umask(0)
    try:
        write_private_key(path, KEY, force=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    read = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(read, ec.EllipticCurvePrivateKey)
    assert read.private_numbers() == KEY.private_numbers()
    assert read_private_key(path).private_numbers() == KEY.private_numbers()
    assert [entry.name for entry in tmp_path.iterdir()] == ["alice.key"]


def test_the_temporary_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real = os.open

    def watched(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            modes.append(mode)
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", watched)
    write_private_key(tmp_path / "alice.key", KEY, force=False)
    assert modes == [0o600]


def test_a_key_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = key_file(tmp_path, b"old")
    with pytest.raises(IdentityError, match=r"alice\.key exists already and is not overwritten.*--force"):
        write_private_key(path, KEY, force=False)
    assert path.read_bytes() == b"old"
    write_private_key(path, KEY, force=True)
    assert read_private_key(path).private_numbers() == KEY.private_numbers()
    assert [entry.name for entry in tmp_path.iterdir()] == ["alice.key"]


def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "alice.key"
    target.write_bytes(b"untouched")
    link.symlink_to(target)
    write_private_key(link, KEY, force=True)
    assert target.read_bytes() == b"untouched"
    assert not link.is_symlink()


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    path = tmp_path / "alice.key"
    if force:
        path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match=r"cannot write .*alice\.key: No space left on device"):
        write_private_key(path, KEY, force=force)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == ({"alice.key": b"old"} if force else {})


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"cannot write .*nowhere/alice\.key: No such file or directory"):
        write_file(tmp_path / "nowhere" / "alice.key", b"", mode=0o600, force=False)


def test_a_file_is_set_aside_under_another_name(tmp_path: Path) -> None:
    set_aside(tmp_path / "register", "old")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "register").write_text("kept")
    set_aside(tmp_path / "register", "old")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"register.old": "kept"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o601, 0o620, 0o660, 0o777])
def test_a_key_that_others_can_use_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, pem(KEY), mode)
    with pytest.raises(IdentityError) as caught:
        read_private_key(path)
    assert f"(mode {mode:04o}); run: chmod 600 {path}" in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_of_the_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert read_private_key(key_file(tmp_path, pem(KEY), mode)).private_numbers() == KEY.private_numbers()


def test_the_remedy_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    directory = tmp_path / "my keys; rm"
    directory.mkdir()
    with pytest.raises(IdentityError, match=r"chmod 600 '.*/my keys; rm/alice\.key'"):
        read_secret(key_file(directory, b"x", 0o644))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, pem(KEY))
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(IdentityError, match=rf"belongs to another user \(uid {SOMEBODY}\); run: chown 0 "):
        read_private_key(path)


def test_a_key_that_this_user_cannot_read_is_refused() -> None:
    user = os.geteuid()
    # Not tmp_path: its parents are closed to the other user, and it is the file that is to be closed here.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = key_file(Path(directory), pem(KEY), 0o600 if user == 0 else 0o000)
        if user == 0:
            os.seteuid(SOMEBODY)  # root reads everything
        try:
            with pytest.raises(IdentityError, match=r"alice\.key cannot be read by this user \(uid \d+\)"):
                read_private_key(path)
        finally:
            os.seteuid(user)


def encrypted() -> bytes:
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


PASSPHRASE = b"correct horse battery"


def test_a_protected_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    path = tmp_path / "ca.key"
    write_private_key(path, KEY, force=False, passphrase=PASSPHRASE)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert read_private_key(path, lambda: PASSPHRASE).private_numbers() == KEY.private_numbers()
    for wrong in (b"correct horse batter", b""):
        with pytest.raises(IdentityError, match=r"ca\.key does not open with this passphrase, or is damaged") as caught:
            read_private_key(path, lambda wrong=wrong: wrong)  # type: ignore[misc]
        assert caught.value.__cause__ is None


@needs_openssl
def test_openssl_opens_a_protected_key_and_we_open_its(tmp_path: Path) -> None:
    write_private_key(tmp_path / "ca.key", KEY, force=False, passphrase=PASSPHRASE)
    for name in ("pass", "again"):  # openssl reads a file that is named twice on, for a second line
        (tmp_path / name).write_bytes(PASSPHRASE + b"\n")
    plain = openssl(tmp_path, "pkey", "-in", "ca.key", "-passin", "file:pass")
    assert plain.encode() == pem(KEY)
    openssl(
        tmp_path, "pkcs8", "-topk8", "-scrypt", "-in", "ca.key", "-passin", "file:pass", "-passout", "file:again", "-out", "k"
    )
    assert read_private_key(tmp_path / "k", lambda: PASSPHRASE).private_numbers() == KEY.private_numbers()


@pytest.mark.parametrize("passphrase", [b"", b"elevenchars", b"x" * 1024])
def test_a_passphrase_that_is_too_short_or_too_long_protects_nothing(tmp_path: Path, passphrase: bytes) -> None:
    with pytest.raises(IdentityError, match="must have 12 to 1023 bytes"):
        write_private_key(tmp_path / "ca.key", KEY, force=False, passphrase=passphrase)
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_file_holds_one_line_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    for content, found in ((b"a b c\n", b"a b c"), (b"a b c\r\n", b"a b c"), (b" a ", b" a ")):
        path.write_bytes(content)
        path.chmod(0o600)
        assert read_passphrase(path) == found
    for content in (b"", b"\n", b"a\nb\n"):
        path.write_bytes(content)
        with pytest.raises(IdentityError, match="must hold a passphrase, in one line"):
            read_passphrase(path)
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        read_passphrase(path)


@given(st.integers(0, len(encrypted()) - 2))
def test_a_half_written_protected_key_is_never_asked_a_passphrase(length: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = key_file(Path(directory), encrypted()[:length])
        with pytest.raises(IdentityError, match=r"is empty|no '-----BEGIN'|is cut off"):
            read_private_key(path, lambda: pytest.fail("asked"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (bytes(200), "is empty"),
        (b"not a key", "is not a PEM file"),
        (KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "is not a PEM file"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "does not hold a P-256 key"),
        (pem(rsa.generate_private_key(65537, 2048)), "does not hold a P-256 key"),
        (CERTIFICATE.pem, "holds no private key"),
        (encrypted(), "is protected by a passphrase"),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "does not hold a private key that can be read",
        ),
        (b"x" * 300_000, "is larger than"),
    ],
    ids=["empty", "zeros", "text", "der", "p384", "rsa", "certificate", "encrypted", "garbage", "large"],
)
def test_a_file_without_a_usable_key_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = key_file(tmp_path, content)
    with pytest.raises(IdentityError) as caught:
        read_private_key(path)
    assert str(caught.value).startswith(f"{path} {said}")


@given(st.integers(0, len(pem(KEY)) - 2))
def test_a_half_written_key_is_never_taken_for_a_whole_one(length: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = key_file(Path(directory), pem(KEY)[:length])
        with pytest.raises(IdentityError) as caught:
            read_private_key(path)
    assert "PRIVATE KEY-----\nM" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.integers(0, len(CERTIFICATE.pem) - 2))
def test_a_half_written_certificate_is_never_taken_for_a_whole_one(length: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "alice.crt"
        path.write_bytes(CERTIFICATE.pem[:length])
        with pytest.raises(IdentityError):
            read_certificates(path)


def test_files_that_are_missing_or_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("missing", "does not exist"), (".", "is a directory"), ("fifo", "is not a file")):
        for read in (read_private_key, read_certificates):
            with pytest.raises(IdentityError, match=said):
                read(tmp_path / name)


def test_certificates_are_read_in_order(tmp_path: Path) -> None:
    other = forge()
    path = tmp_path / "chain.crt"
    path.write_bytes(CERTIFICATE.pem + other.pem)
    assert read_certificates(path) == (CERTIFICATE.der, other.der)


def test_a_chain_that_ends_in_half_a_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.crt"
    path.write_bytes(CERTIFICATE.pem + CERTIFICATE.pem[:100])
    with pytest.raises(IdentityError, match="is cut off, perhaps half-written"):
        read_certificates(path)


def test_a_key_among_certificates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.crt"
    path.write_bytes(CERTIFICATE.pem + pem(KEY))
    with pytest.raises(IdentityError, match="holds a private key; keep keys and certificates in files of their own"):
        read_certificates(path)
