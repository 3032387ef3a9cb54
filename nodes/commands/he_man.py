"""`cohortium he-man`: HE-MAN's five steps and options, so that its demonstrations run with the program's name changed."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpc.errors import UsageError
from nodes.commands.fhe.options import path, worker_option

if TYPE_CHECKING:
    from fhe.environment import Environment
    from nodes.store.sealing import StorageKey

_DEGREE = re.compile(r"deg([234])", re.ASCII)

model_option = click.option("-m", "--model-path", "model", required=True, metavar="FILE", type=path, help="The ONNX model.")
key_option = click.option("-k", "--key-path", "key", required=True, metavar="FILE", type=path, help="What keygen has made.")
storage_key_option = click.option(
    "--storage-key",
    metavar="FILE",
    type=path,
    help="What the secret key is encrypted under on the disk; made when it is missing (default: KEY.storage-key).",
)


@click.group(name="he-man")
def he_man() -> None:
    """HE-MAN's five steps: the model's owner calibrates and computes, whoever has the data encrypts and decrypts."""


@he_man.command()
@model_option
@click.option("-c", "--calibration-data-path", "calibration", required=True, metavar="FILE", type=path, help="Sample inputs.")
@click.option("-o", "--key-params-path", "target", required=True, metavar="FILE", type=path, help="For those who make keys.")
@click.option("--relu-mode", default="deg2", show_default=True, help="Polynomials for activations: deg2, deg3 or deg4.")
@worker_option
def keyparams(model: Path, calibration: Path, target: Path, relu_mode: str, worker: Path | None) -> None:
    """Choose the parameters for a model, and write its calibrated form beside it, as NAME_calibrated.onnx."""
    from fhe.he_man import keyparams as run
    from nodes.commands.fhe.convert import show
    from nodes.models import as_user_errors

    if (degree := _DEGREE.fullmatch(relu_mode)) is None:
        raise UsageError(f"--relu-mode {relu_mode}: deg2, deg3 and deg4 are supported")
    with as_user_errors():
        show(*run(_environment(worker), model, calibration, target, degree=int(degree[1])))


@he_man.command()
@click.option("-i", "--key-params-path", "params", required=True, metavar="FILE", type=path, help="What keyparams has written.")
@click.option("-o", "--secret-key-path", "target", required=True, metavar="FILE", type=path, help="The secret key, a new file.")
@storage_key_option
@worker_option
def keygen(params: Path, target: Path, storage_key: Path | None, worker: Path | None) -> None:
    """Make a secret key, which stays here, and beside it KEY.pub, for whoever computes."""
    from fhe.he_man import keygen as run

    _run(run(_environment(worker), params, target, _sealer(target, storage_key, make=True)))


@he_man.command()
@key_option
@click.option(
    "-i", "--plaintext-input-path", "source", required=True, metavar="FILE", type=path, help="Samples: .npy, .npz, .zip."
)
@click.option("-o", "--ciphertext-output-path", "target", required=True, metavar="FILE", type=path, help="Them encrypted.")
@storage_key_option
@worker_option
def encrypt(key: Path, source: Path, target: Path, storage_key: Path | None, worker: Path | None) -> None:
    """Encrypt samples."""
    from fhe.he_man import encrypt as run

    _run(run(_environment(worker), key, source, target, _sealer(key, storage_key)))


@he_man.command()
@model_option
@key_option
@click.option("-i", "--ciphertext-input-path", "source", required=True, metavar="FILE", type=path, help="Encrypted samples.")
@click.option("-o", "--ciphertext-output-path", "target", required=True, metavar="FILE", type=path, help="Encrypted results.")
@worker_option
def inference(model: Path, key: Path, source: Path, target: Path, worker: Path | None) -> None:
    """Compute the calibrated model on encrypted samples."""
    from fhe.he_man import inference as run

    _run(run(_environment(worker), model, key, source, target))


@he_man.command()
@key_option
@click.option("-i", "--ciphertext-input-path", "source", required=True, metavar="FILE", type=path, help="Encrypted results.")
@click.option("-o", "--plaintext-output-path", "target", required=True, metavar="FILE", type=path, help="An array, .npy.")
@storage_key_option
@worker_option
def decrypt(key: Path, source: Path, target: Path, storage_key: Path | None, worker: Path | None) -> None:
    """Decrypt results."""
    from fhe.he_man import decrypt as run

    _run(run(_environment(worker), key, source, target, _sealer(key, storage_key)))


def _environment(worker: Path | None) -> Environment:
    from fhe.environment import Environment
    from nodes.models import as_user_errors

    with as_user_errors():
        return Environment.find(worker)


def _sealer(key: Path, storage_key: Path | None, *, make: bool = False) -> StorageKey:
    from nodes.store.sealing import StorageKey, credentials_directory, make_storage_key
    from pki.files import is_there

    file = storage_key or key.with_name(f"{key.name}.storage-key")
    credentials = credentials_directory(os.environ)
    if make and credentials is None and not is_there(file):
        make_storage_key(file)
    return StorageKey.load(file, credentials)


def _run(work: Coroutine[Any, Any, None]) -> None:
    from nodes.models import as_user_errors

    with as_user_errors():
        asyncio.run(work)
