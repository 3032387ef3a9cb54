"""Key and certificate files: written whole or not at all, and secrets are read only where nobody else can read them.

A file appears under its name complete and on disk, or it does not appear: temporary file in the same directory, fsync,
link or rename, fsync of the directory. A power cut leaves the old file or the new one.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mpc.errors import IdentityError

PRIVATE = 0o600
PUBLIC = 0o644

Passphrase = Callable[[], bytes]
"""Asked only when a key turns out to be protected. May raise IdentityError."""

MIN_PASSPHRASE = 12
"""Bytes. A stolen key file can be guessed at offline, and the standard's key derivation slows that down only a little."""
_MAX_PASSPHRASE = 1023  # what OpenSSL takes

_MAX_BYTES = 256 * 1024
_PEM_END = re.compile(rb"-----END [A-Z0-9 ]+-----")


def write_file(path: Path, data: bytes, *, mode: int, force: bool) -> None:
    """Put `data` at `path` atomically and durably, with exactly `mode` from its first moment.

    Without `force` an existing file is never replaced, not even one that appears while this runs. Raises IdentityError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_synced(temporary, data, mode)
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, this fails when the name is taken
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise IdentityError(f"cannot write {path}: {error.strerror}") from error


def is_there(path: Path) -> bool:
    """Whether `path` names anything, be it a dangling link. Raises IdentityError when that cannot be found out."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IdentityError(f"cannot look at {path}: {error.strerror}") from error
    return True


def check_free(*paths: Path) -> None:
    """Raises IdentityError when one of `paths` exists: asked for a pair of files before either is written."""
    for path in paths:
        if is_there(path):
            raise _taken(path)


def set_aside(path: Path, suffix: str) -> None:
    """Rename the file at `path`, if there is one, to the same with `.suffix`. Raises IdentityError."""
    try:
        if is_there(path):
            path.rename(path.with_name(f"{path.name}.{suffix}"))
            sync_directory(path.parent)
    except OSError as error:
        raise IdentityError(f"cannot rename {path}: {error.strerror}") from error


def make_directory(path: Path) -> None:
    """Create `path` and its parents where missing, `path` itself for the owner alone. Raises IdentityError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise IdentityError(f"cannot create the directory {path}: {error.strerror}") from error


def write_private_key(path: Path, key: ec.EllipticCurvePrivateKey, *, force: bool, passphrase: bytes | None = None) -> None:
    """Write `key` as PKCS#8 PEM (RFC 5958), mode 0600, encrypted when there is a passphrase. Raises IdentityError."""
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        check_passphrase(passphrase)
        protection = serialization.BestAvailableEncryption(passphrase)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    write_file(path, pem, mode=PRIVATE, force=force)


def write_certificates(path: Path, chain: Sequence[x509.Certificate], *, force: bool) -> None:
    """Write `chain`, leaf first, as PEM that everybody may read. Raises IdentityError."""
    pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
    write_file(path, pem, mode=PUBLIC, force=force)


def read_secret(path: Path) -> bytes:
    """The bytes of a file that holds a secret.

    Raises IdentityError when it is missing, not a plain file, readable by group or others, or owned by a stranger.
    """
    return _read(path, secret=True)


def check_passphrase(passphrase: bytes) -> None:
    """Raises IdentityError when a key cannot be protected by `passphrase`."""
    if not MIN_PASSPHRASE <= len(passphrase) <= _MAX_PASSPHRASE:
        raise IdentityError(f"a passphrase must have {MIN_PASSPHRASE} to {_MAX_PASSPHRASE} bytes; choose another")


def read_passphrase(path: Path) -> bytes:
    """The passphrase in the file at `path`: its first line, nothing else. Raises IdentityError; see `read_secret`."""
    passphrase = read_secret(path).removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase or b"\n" in passphrase:
        raise IdentityError(f"{path} must hold a passphrase, in one line and nothing else")
    return passphrase


def read_private_key(path: Path, passphrase: Passphrase | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key in the PEM file at `path`. Raises IdentityError naming the file and the remedy.

    `passphrase` is asked when the key is protected; without it such a key is refused.
    """
    pem = read_secret(path)
    _check_pem(path, pem)
    if b"PRIVATE KEY-----" not in pem:
        raise IdentityError(f"{path} holds no private key; name the .key file here, not the .crt file")
    password = None
    if b"ENCRYPTED" in pem:
        if passphrase is None:
            raise IdentityError(
                f"{path} is protected by a passphrase, which a node cannot type; store it plain (mode 0600) with "
                f"'openssl pkcs8 -topk8 -nocrypt'"
            )
        password = passphrase()
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: the parser's own words could quote the key.
        if password is not None:
            raise IdentityError(f"{path} does not open with this passphrase, or is damaged; try again") from None
        raise IdentityError(
            f"{path} does not hold a private key that can be read; restore it from a backup or issue a new one"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"{path} does not hold a P-256 key; identity keys are P-256, so issue a new one")
    return key


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """Every certificate of the PEM file at `path` as DER, in the file's order, at least one. Raises IdentityError."""
    pem = _read(path, secret=False)
    _check_pem(path, pem)
    if b"PRIVATE KEY-----" in pem:
        raise IdentityError(f"{path} holds a private key; keep keys and certificates in files of their own")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise IdentityError(f"{path} does not hold certificates that can be read; fetch or issue them again") from error
    return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates)


def read_public(path: Path, limit: int = _MAX_BYTES) -> bytes:
    """The bytes of a file that is no secret, at most `limit`. Raises IdentityError."""
    return _read(path, secret=False, limit=limit)


def sync_directory(path: Path) -> None:
    """Wait until the names of the files in the directory `path` are on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> IdentityError:
    return IdentityError(f"{path} exists already and is not overwritten; use another place, or --force to replace it")


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the process's umask may have taken bits away
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _read(path: Path, *, secret: bool, limit: int = _MAX_BYTES) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            # Checked on the open file, so that the file checked is the file read.
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise IdentityError(f"{path} is not a file; name the file itself")
            if secret:
                _check_private(path, status)
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise IdentityError(f"{path} does not exist; check the path, or make it with 'cohortium pki issue'") from error
    except IsADirectoryError as error:
        raise IdentityError(f"{path} is a directory; name the file itself") from error
    except PermissionError as error:
        raise IdentityError(
            f"{path} cannot be read by this user (uid {os.geteuid()}); give it to that user with chown"
        ) from error
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise IdentityError(f"{path} is larger than {limit} bytes, so it is not what is read here; check the path")
    return data


def _check_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == 0 and mode == 0o440 and str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY"):
        return  # systemd gives its service access by an ACL, whose mask the mode shows as the group's bits (acl(5))
    if mode & 0o077:
        raise IdentityError(
            f"{path} holds a secret and others can use it (mode {mode:04o}); run: chmod 600 {shlex.quote(str(path))}"
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise IdentityError(
            f"{path} holds a secret and belongs to another user (uid {status.st_uid}); "
            f"run: chown {os.geteuid()} {shlex.quote(str(path))}"
        )


def _check_pem(path: Path, pem: bytes) -> None:
    begins, ends = pem.count(b"-----BEGIN "), len(_PEM_END.findall(pem))
    if not pem.strip(b"\0 \r\n"):
        raise IdentityError(f"{path} is empty, perhaps half-written; restore it from a backup or issue it again")
    if begins == 0:
        raise IdentityError(f"{path} is not a PEM file (no '-----BEGIN' line); check that it is the right file")
    if begins != ends:
        raise IdentityError(f"{path} is cut off, perhaps half-written; restore it from a backup or issue it again")
