"""The library of encrypted models, as the rest of the house sees it: whom it trusts, and what its errors are to a person."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fhe.bundle import Trust
from fhe.errors import FheError, SignerError, WorkerFailed
from fhe.signature import Signature
from mpc.errors import ConfigError, IdentityError, TemporaryError
from mpc.identity import Role
from pki.trust import TrustStore


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Raises the errors of `fhe` as the house's own, with its exit statuses: 77 for a signer, 75 for a worker, else 78."""
    try:
        yield
    except SignerError as error:
        raise IdentityError(str(error)) from error
    except WorkerFailed as error:
        raise TemporaryError(str(error)) from error
    except FheError as error:
        raise ConfigError(str(error)) from error


def trust_authorities(store: TrustStore) -> Trust:
    """Trusts whoever has a certificate for the role `model`, as it is now, and signed with the key in it."""

    def trust(signature: Signature) -> None:
        try:
            credential = store.verify(signature.certificates, time.time())
        except IdentityError as error:
            raise SignerError(f"the bundle's signer is not known: {error}") from error
        key = credential.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if signature.key != key:
            raise SignerError(f"the bundle is not signed with the key that {credential.identity} has a certificate for")
        if credential.identity.role is not Role.MODEL:
            raise SignerError(f"{credential.identity} signed the bundle, and only a {Role.MODEL} may offer models")

    return trust
