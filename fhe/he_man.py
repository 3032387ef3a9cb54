"""HE-MAN's five steps (Nocker et al. 2023), file by file, on our bundles, keys and ciphertexts.

    keyparams    MODEL.onnx, calibration -> keyparams.json, MODEL_calibrated.onnx     the model's owner
    keygen       keyparams.json -> KEY, KEY.pub                                       whoever has the data
    encrypt      KEY, input.npy -> input.enc
    inference    MODEL_calibrated.onnx, KEY.pub, input.enc -> output.enc              the model's owner
    decrypt      KEY, output.enc -> output.npy

The calibrated model is the ONNX file with our bundle among its metadata, and keyparams.json holds the client's bundle. Both are
signed by a key that is thrown away: HE-MAN has no trust between its parties, and whoever hands the files over answers for them.
KEY is sealed under a storage key, and ends with the client's bundle, so that the steps need no file more than HE-MAN's do.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from fhe.bundle import Bundle, Description, make_bundle
from fhe.envelope import check_fits, make_header, open_payloads, seal_payloads, split_header, write_header
from fhe.environment import Environment
from fhe.errors import BundleError, InputError, Refused, Why
from fhe.files import PRIVATE, read_file, write_file
from fhe.job import run_job
from fhe.keys import Sealer
from fhe.maker import run_maker
from fhe.onnx.arrays import read_samples
from fhe.onnx.job import MODULE, Conversion, Report, read_report
from fhe.onnx.metadata import find_text, put_text
from fhe.pool import Pool, Worker
from fhe.quantiser import read_quantiser, to_predictions, to_values
from fhe.shelf import Limits, Shelf
from fhe.signature import make_signer

METADATA = "cohortium.bundle"
SUFFIX = "_calibrated"
_MAX = 1024 * 1024 * 1024
_ID = re.compile(r"[^a-z0-9]+")


class KeyParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `keyparams.json` says: HE-MAN's two fields, and the client's bundle in base64."""

    library: str
    parameters: dict[str, int | list[int]]
    client: str


def keyparams(
    environment: Environment, model: Path, calibration: Path, out: Path, *, degree: int = 2
) -> tuple[Report, Description]:
    """Calibrates the model, writes `out` and, beside the model, its calibrated form. Raises FheError."""
    source = read_file(model, _MAX)
    name = _ID.sub("-", model.stem.lower()).strip("-")[:63] or "model"
    job = Conversion(
        id=name,
        title=model.stem,
        model=str(model.absolute()),
        calibration=str(calibration.absolute()),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        degree=degree,
    )
    with TemporaryDirectory() as scratch:
        description, parts = run_maker(environment, MODULE, job, Path(scratch))
        report = read_report(Path(scratch))
    whole = make_bundle(description, parts, make_signer(ec.generate_private_key(ec.SECP256R1())))
    params = KeyParams(
        library="seal",
        parameters={"poly_modulus_degree": report.degree, "coeff_mod_bit_sizes": list(report.bits)},
        client=base64.b64encode(_open(whole).client()).decode(),
    )
    write_file(
        model.with_name(f"{model.stem}{SUFFIX}.onnx"), put_text(source, METADATA, base64.b64encode(whole).decode()), force=True
    )
    write_file(out, msgspec.json.encode(params), force=True)
    return report, description


async def keygen(environment: Environment, params: Path, out: Path, sealer: Sealer) -> None:
    """Writes the sealed secret to `out`, which must be new, and the evaluation key beside it. Raises FheError."""
    client = _client(params)
    async with _workplace(environment, client) as (bundle, worker, scratch):
        evaluation = scratch / "evaluation"
        secret = await worker.keygen(bundle, evaluation)
        key, identifier = evaluation.read_bytes(), secrets.token_hex(16)
    sealed = sealer.seal(secret, _label(bundle.hash, identifier))
    write_file(out, _head("secret", bundle, identifier, sealed) + sealed + client, mode=PRIVATE)
    write_file(out.with_name(f"{out.name}.pub"), _head("key", bundle, identifier, key) + key, force=True)


async def encrypt(environment: Environment, key: Path, values: Path, out: Path, sealer: Sealer) -> None:
    """Encrypts the samples in a file of numpy's. Raises FheError."""
    client, identifier, secret = _secret(key, sealer)
    async with _workplace(environment, client) as (bundle, worker, _):
        form = bundle.model.input
        samples = to_values(form, read_quantiser(bundle), read_samples(values, form.shape))
        payloads = await worker.encrypt(bundle, secret, samples)
        write_file(out, seal_payloads("input", bundle, identifier, payloads), force=True)


async def inference(environment: Environment, model: Path, key: Path, values: Path, out: Path) -> None:
    """Computes on the encrypted samples. Raises FheError."""
    text = find_text(read_file(model, _MAX), METADATA)
    if text is None:
        raise InputError(f"{model} is not calibrated; name the file that 'keyparams' made, which ends in {SUFFIX}.onnx")
    evaluation, data = read_file(key, _MAX), read_file(values, _MAX)
    with TemporaryDirectory() as name:
        bundle = _place(_decoded(text, model), Path(name))
        shelf = Shelf(Path(name) / "keys", Limits())
        with shelf.receive(bundle, hashlib.sha256(evaluation).hexdigest(), "", 0.0) as arrival:
            arrival.feed(evaluation)
            found = arrival.finish()
            async with Pool(environment, Path(name), size=1, memory=0) as pool:
                write_file(out, await run_job(pool, bundle, found, data), force=True)


async def decrypt(environment: Environment, key: Path, values: Path, out: Path, sealer: Sealer) -> None:
    """Writes the results as numpy does: of one sample alone, or one row a sample. Raises FheError."""
    client, identifier, secret = _secret(key, sealer)
    async with _workplace(environment, client) as (bundle, worker, _):
        header, payloads = open_payloads(read_file(values, _MAX), bundle, "output")
        if header.key != identifier:
            raise Refused(Why.MISMATCH, f"{values} is under the key {header.key[:12]}, and {key} is {identifier[:12]}")
        results = to_predictions(bundle.model, read_quantiser(bundle), await worker.decrypt(bundle, secret, payloads))
    target = out if out.suffix == ".npy" else out.with_name(f"{out.name}.npy")  # as numpy.save names it
    with TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "result.npy", results[0] if len(results) == 1 else results)
        write_file(target, (Path(scratch) / "result.npy").read_bytes(), mode=PRIVATE, force=True)


@contextlib.asynccontextmanager
async def _workplace(environment: Environment, client: bytes) -> AsyncIterator[tuple[Bundle, Worker, Path]]:
    with TemporaryDirectory() as name:
        scratch = Path(name)
        bundle = _place(client, scratch)
        async with Worker(environment, scratch) as worker:
            yield bundle, worker, scratch


def _place(data: bytes, scratch: Path) -> Bundle:
    """The bundle `data`, in a file as workers read it."""
    path = scratch / "model.bundle"
    path.write_bytes(data)
    return _open(path)


def _open(source: Path | bytes) -> Bundle:
    return Bundle.open(source, lambda _: None)


def _client(params: Path) -> bytes:
    try:
        found = msgspec.json.decode(read_file(params, _MAX), type=KeyParams)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(f"{params} is not what 'keyparams' writes: {error}") from error
    return _decoded(found.client, params)


def _decoded(text: str, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BundleError(f"{path} is damaged; make it again with 'keyparams'") from None


def _secret(path: Path, sealer: Sealer) -> tuple[bytes, str, bytes]:
    """The client's bundle, the id of the set of keys, and the secret. Raises FheError, and what the sealer raises."""
    data = read_file(path, _MAX)
    found = split_header(data)
    if found is None or found[0].kind != "secret" or len(data) <= found[1] + found[0].size:
        raise Refused(Why.DAMAGED, f"{path} is no secret key as 'keygen' writes it; name that file, not the one in .pub")
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path} holds a secret and others can read it; run: chmod 600 {path}")
    header, start = found
    sealed, client = data[start : start + header.size], data[start + header.size :]
    check_fits(header, _open(client), "secret")
    return client, header.key, sealer.unseal(sealed, _label(header.model, header.key))


def _label(model: str, identifier: str) -> str:
    return f"he-man/{model}/{identifier}"


def _head(kind: Literal["key", "secret"], bundle: Bundle, identifier: str, payload: bytes) -> bytes:
    return write_header(make_header(kind, bundle, identifier, [len(payload)], hashlib.sha256(payload).hexdigest()))
