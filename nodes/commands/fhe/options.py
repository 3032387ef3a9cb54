"""What the commands for encrypted models share: options, and the objects that they name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mpc.errors import UsageError

if TYPE_CHECKING:
    from fhe.bundle import Bundle, Trust
    from fhe.client import Client
    from fhe.keys import SecretKeys
    from fhe.pool import Worker

T = TypeVar("T")

path = click.Path(path_type=Path)

bundle_option = click.option("-m", "--model", "bundle", required=True, metavar="BUNDLE", type=path, help="The model's file.")
keys_option = click.option("-k", "--keys", required=True, metavar="DIR", type=path, help="Where sets of keys are kept.")
input_option = click.option("-i", "--input", "source", required=True, metavar="FILE", type=path, help="What is read.")
output_option = click.option("-o", "--output", "target", required=True, metavar="FILE", type=path, help="What is written.")
storage_key_option = click.option(
    "--storage-key",
    metavar="FILE",
    type=path,
    help="What secret keys are encrypted under on the disk; made when it is missing (default: DIR.storage-key).",
)
worker_option = click.option(
    "--worker", metavar="PYTHON", type=path, help="Python of the worker's environment (default: .venv-fhe of the checkout)."
)
signer_option = click.option(
    "--signer", "signers", metavar="SHA256", multiple=True, help="Fingerprint of a model owner's key that is trusted."
)
authority_option = click.option(
    "--authority", "authorities", metavar="FILE", type=path, multiple=True, help="Authority whose model owners are trusted."
)


def open_bundle(path: Path, signers: tuple[str, ...], authorities: tuple[Path, ...]) -> Bundle:
    """The bundle, if it is signed by one of these. Raises UsageError when none is named; FheError."""
    from fhe.bundle import Bundle

    return Bundle.open(path, _trust(signers, authorities))


def open_pinned(path: Path) -> Bundle:
    """A bundle that is only used with keys that were made for its very hash, which is when its signer was judged."""
    from fhe.bundle import Bundle

    return Bundle.open(path, lambda _: None)


def secret_keys(directory: Path, storage_key: Path | None, *, make: bool = False) -> SecretKeys:
    """The sets in a directory, sealed under the storage key; `make` makes one that is missing. Raises IdentityError."""
    from fhe.keys import SecretKeys
    from nodes.store.sealing import StorageKey, credentials_directory, make_storage_key
    from pki.files import is_there, make_directory

    file = storage_key or directory.with_name(f"{directory.name}.storage-key")
    credentials = credentials_directory(os.environ)
    if make and credentials is None and not is_there(file):
        make_directory(file.parent)
        make_storage_key(file)
    return SecretKeys(directory, StorageKey.load(file, credentials))


@asynccontextmanager
async def _worker(python: Path | None) -> AsyncIterator[Worker]:
    from fhe.environment import Environment
    from fhe.pool import Worker

    async with Worker(Environment.find(python, threads=os.cpu_count() or 1), cache_directory()) as worker:
        yield worker


def with_client(bundle: Bundle, keys: SecretKeys, python: Path | None, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """What `work` gives of a client with a worker of its own."""

    async def run() -> T:
        from fhe.client import Client

        async with _worker(python) as worker:
            return await work(Client(bundle, keys, worker))

    return asyncio.run(run())


def pair(text: str) -> tuple[str, str]:
    """NAME and VALUE of an option NAME=VALUE. Raises UsageError."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise UsageError(f"{text}: write NAME=VALUE")
    return name, value


def bounds(text: str) -> tuple[float, float]:
    """LOW and HIGH of LOW:HIGH. Raises UsageError."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise UsageError(f"--range {text}: write NAME=LOW:HIGH, with numbers") from None


def cache_directory() -> Path:
    """Where compiled circuits are kept: a file that is lost is made again."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cohortium" / "fhe"


def _trust(signers: tuple[str, ...], authorities: tuple[Path, ...]) -> Trust:
    from fhe.signature import trust_fingerprints

    if authorities and not signers:
        from nodes.models import trust_authorities
        from pki.trust import TrustStore

        return trust_authorities(TrustStore.load(*authorities))
    if signers and not authorities:
        return trust_fingerprints(*signers)
    raise UsageError("say whose models are trusted: --signer SHA256 as the model's owner tells it, or --authority FILE")
