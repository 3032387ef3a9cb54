"""`cohortium fhe keygen`, `encrypt`, `infer` and `decrypt`: one step each, with files between them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodes.commands.fhe.options import (
    authority_option,
    bundle_option,
    cache_directory,
    input_option,
    keys_option,
    open_bundle,
    open_pinned,
    output_option,
    path,
    secret_keys,
    signer_option,
    storage_key_option,
    with_client,
    worker_option,
)

if TYPE_CHECKING:
    from fhe.bundle import Bundle

_MAX_CIPHERTEXT = 2 * 1024**3


@click.command()
@bundle_option
@keys_option
@signer_option
@authority_option
@storage_key_option
@worker_option
def keygen(
    bundle: Path,
    keys: Path,
    signers: tuple[str, ...],
    authorities: tuple[Path, ...],
    storage_key: Path | None,
    worker: Path | None,
) -> None:
    """Make a set of keys for a model.

    The secret stays here, encrypted. The evaluation key, DIR/ID.key, goes to the service: it computes with it and opens nothing.
    """
    from nodes.models import as_user_errors

    with as_user_errors():
        opened = open_bundle(bundle, signers, authorities)
        made = with_client(opened, secret_keys(keys, storage_key, make=True), worker, lambda client: client.keygen())
    click.echo(f"set of keys {made.id} for {opened.model.id} {opened.hash[:12]}")
    click.echo(f"send {made.path} to the service ({made.path.stat().st_size / 1e6:.3g} MB)")


@click.command()
@bundle_option
@keys_option
@input_option
@output_option
@click.option("--key", metavar="ID", help="Of the set of keys (default: the newest of this model).")
@storage_key_option
@worker_option
def encrypt(
    bundle: Path,
    keys: Path,
    source: Path,
    target: Path,
    key: str | None,
    storage_key: Path | None,
    worker: Path | None,
) -> None:
    """Encrypt samples: the rows of a CSV file whose header names the features, or an array (.npy, .npz, .zip)."""
    from fhe.files import write_file
    from fhe.samples import read_samples
    from nodes.models import as_user_errors

    with as_user_errors():
        opened = open_pinned(bundle)
        samples = read_samples(source, opened.model.input)
        sealed = with_client(opened, secret_keys(keys, storage_key), worker, lambda client: client.encrypt(samples, key))
        write_file(target, sealed, force=True)
    click.echo(f"{target}: {len(samples)} encrypted for {opened.model.id} {opened.hash[:12]}, {len(sealed)} bytes")


@click.command()
@bundle_option
@click.option("--key", "key_file", required=True, metavar="FILE", type=path, help="The evaluation key, as keygen made it.")
@input_option
@output_option
@signer_option
@authority_option
@worker_option
def infer(
    bundle: Path,
    key_file: Path,
    source: Path,
    target: Path,
    signers: tuple[str, ...],
    authorities: tuple[Path, ...],
    worker: Path | None,
) -> None:
    """Compute on encrypted samples what a service would: nothing here can be read without the secret key."""
    from fhe.files import read_file, write_file
    from nodes.models import as_user_errors

    with as_user_errors():
        opened = open_bundle(bundle, signers, authorities)
        sealed = asyncio.run(_infer(opened, key_file, read_file(source, _MAX_CIPHERTEXT), worker))
        write_file(target, sealed, force=True)
    click.echo(f"{target}: {len(sealed)} bytes")


@click.command()
@bundle_option
@keys_option
@input_option
@click.option("-o", "--output", "target", metavar="FILE", type=path, help="A CSV file (default: print it).")
@storage_key_option
@worker_option
def decrypt(bundle: Path, keys: Path, source: Path, target: Path | None, storage_key: Path | None, worker: Path | None) -> None:
    """Decrypt results: one line a sample, in CSV."""
    from fhe.files import PRIVATE, read_file, write_file
    from fhe.samples import to_csv
    from nodes.models import as_user_errors

    with as_user_errors():
        opened = open_pinned(bundle)
        result = read_file(source, _MAX_CIPHERTEXT)
        predictions = with_client(opened, secret_keys(keys, storage_key), worker, lambda client: client.decrypt(result))
        text = to_csv(opened.model, predictions)
        if target is None:
            click.echo(text, nl=False)
        else:
            write_file(target, text.encode(), mode=PRIVATE, force=True)


async def _infer(bundle: Bundle, key_file: Path, data: bytes, python: Path | None) -> bytes:
    from tempfile import TemporaryDirectory

    from fhe.environment import Environment
    from fhe.job import run_job
    from fhe.pool import Pool
    from fhe.shelf import Limits, Shelf
    from nodes.commands.fhe.progress import counted

    environment = Environment.find(python, threads=os.cpu_count() or 1)
    with TemporaryDirectory(prefix="cohortium-fhe-") as scratch:
        key = Shelf(Path(scratch), Limits()).take(bundle, key_file)
        async with Pool(environment, cache_directory(), size=1, memory=0) as pool:
            with counted("computing") as progress:
                return await run_job(pool, bundle, key, data, progress=progress)
