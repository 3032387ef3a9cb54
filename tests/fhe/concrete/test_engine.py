"""Circuits on encrypted integers: exactly the quantised model, under nobody else's keys, on bytes that may be anything."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fhe.bundle import Bundle
from fhe.envelope import open_payloads, seal_payloads
from fhe.errors import BundleError, Refused, Unavailable, Why
from fhe.job import run_job
from fhe.pool import Key, Pool, Worker
from fhe.shelf import Limits, Shelf
from fhe.signature import trust_fingerprints
from tests.fhe.house import SIGNER, TRUST, Keyed, bundle, environment, make_keys, samples, secret_keys
from tests.fhe.rebuilt import rebuilt

CHECK = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fhe.bundle import Bundle
from fhe.concrete.library import compile_circuit
from fhe.concrete.options import CIRCUIT, read_options
bundle = Bundle.open_known(Path(sys.argv[2]), sys.argv[3])
with tempfile.TemporaryDirectory() as scratch:
    made = compile_circuit(bundle.part(CIRCUIT).decode(), read_options(bundle), bundle.model.security, Path(scratch))
    print(made.get_program_compilation_feedback().p_error)
"""


async def through(keyed: Keyed, directory: Path, count: int) -> None:
    """`count` held-out rows, encrypted, computed, decrypted: the integers of the quantised model."""
    rows = samples(keyed.bundle.model.id)
    key = Shelf(directory / "shelf", Limits()).take(keyed.bundle, keyed.made.path)
    async with Worker(environment(), keyed.cache) as private, Pool(environment(2), keyed.cache, size=1, memory=0) as pool:
        client = keyed.client(private)
        result = await run_job(pool, keyed.bundle, key, await client.encrypt(rows["inputs"][:count]))
        assert (await client.decrypt_raw(result)).tolist() == rows["results"][:count]


async def test_logistic_regression_is_exact_on_every_sample(logistic: Keyed, tmp_path: Path) -> None:
    await through(logistic, tmp_path, 30)


async def test_trees_are_exact(stumps: Keyed, tmp_path: Path) -> None:
    await through(stumps, tmp_path, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("xgboost", 2), ("iris", 1), ("diabetes", 10)])
async def test_larger_models_are_exact(name: str, count: int, tmp_path: Path) -> None:
    keyed = await asyncio.to_thread(make_keys, name, tmp_path)
    await through(keyed, tmp_path, count)


async def test_predictions_are_probabilities_close_to_the_model_in_clear(logistic: Keyed, tmp_path: Path) -> None:
    from scipy.special import expit

    rows = samples("logistic")
    key = Shelf(tmp_path / "shelf", Limits()).take(logistic.bundle, logistic.made.path)
    async with Worker(environment(), logistic.cache) as private, Pool(environment(), logistic.cache, size=1, memory=0) as pool:
        client = logistic.client(private)
        result = await run_job(pool, logistic.bundle, key, await client.encrypt(rows["inputs"][:10]))
        predictions = await client.decrypt(result)
    clear = expit(np.array(rows["clear"][:10]))
    np.testing.assert_allclose(predictions.sum(axis=1), 1)
    np.testing.assert_allclose(predictions[:, 1:], clear, atol=0.06)


async def test_no_two_sets_of_keys_and_no_two_ciphertexts_are_alike(logistic: Keyed, tmp_path: Path) -> None:
    row = samples("logistic")["inputs"][:1]
    async with Worker(environment(), logistic.cache) as private:
        client = logistic.client(private)
        other = await client.keygen()
        assert logistic.keys.secret(logistic.bundle, other.id) != logistic.keys.secret(logistic.bundle, logistic.made.id)
        once, twice = [await client.encrypt(row, logistic.made.id) for _ in range(2)]
        _, (first,) = open_payloads(once, logistic.bundle, "input")
        _, (second,) = open_payloads(twice, logistic.bundle, "input")
        assert first != second
    logistic.keys.erase(other.id)


async def test_a_wrong_secret_is_an_error_where_the_library_alone_gives_nonsense(logistic: Keyed, tmp_path: Path) -> None:
    rows = samples("logistic")
    key = Shelf(tmp_path / "shelf", Limits()).take(logistic.bundle, logistic.made.path)
    strangers = secret_keys(tmp_path / "others")
    async with Worker(environment(), logistic.cache) as private, Pool(environment(), logistic.cache, size=1, memory=0) as pool:
        client = logistic.client(private)
        result = await run_job(pool, logistic.bundle, key, await client.encrypt(rows["inputs"][:1]))
        stranger = Keyed(logistic.bundle, strangers, logistic.made, logistic.cache).client(private)
        made = await stranger.keygen()
        with pytest.raises(Refused) as caught:
            await stranger.decrypt(result)
        assert caught.value.why is Why.NO_KEY
        # What the guard is for: the library decrypts under any key, and says nothing.
        _, payloads = open_payloads(result, logistic.bundle, "output")
        nonsense = await private.decrypt(logistic.bundle, strangers.secret(logistic.bundle, made.id), payloads)
        assert nonsense.shape == (1, 1)
        assert nonsense.tolist() != rows["results"][:1]


async def test_a_client_learns_one_sum_and_not_every_trees_vote() -> None:
    assert bundle("xgboost").model.output.shape == (1,)
    assert bundle("stumps").model.output.shape == (1,)


@pytest.mark.parametrize("name", ["logistic", "stumps"])
def test_look_ups_err_less_often_than_declared(name: str) -> None:
    found = bundle(name)
    command = [str(environment().python), "-W", "ignore", "-c", CHECK, str(Path.cwd()), str(found.source), found.hash]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert float(told.stdout.split()[-1]) <= 2.0**-40


def spoilt(key: Key, directory: Path, data: bytes) -> Key:
    """A key with the right header and the right digests, and other bytes: what somebody sends who means harm."""
    path = directory / "spoilt"
    path.write_bytes(data)
    return Key(key.id, path, len(data))


@pytest.mark.slow
async def test_a_spoilt_key_dies_in_a_process_of_its_own_and_the_service_lives_on(stumps: Keyed, tmp_path: Path) -> None:
    key = Shelf(tmp_path / "shelf", Limits()).take(stumps.bundle, stumps.made.path)
    whole = key.path.read_bytes()
    probe = stumps.bundle.part("probe.bin")
    async with Worker(environment(), stumps.cache) as private, Pool(environment(), stumps.cache, size=1, memory=10**9) as pool:
        client = stumps.client(private)
        data = await client.encrypt(samples("stumps")["inputs"][:1])
        await run_job(pool, stumps.bundle, key, data)
        serving = [worker.pid for worker in pool.workers]
        linear = bundle("logistic").part("probe.bin")  # bytes of the library's own, and no key at all
        for wrong in (whole[: len(whole) // 2], linear, whole[:64] + bytes(64) + whole[128:]):
            with pytest.raises(Refused) as caught:
                await pool.probe(stumps.bundle, spoilt(key, tmp_path, wrong), probe)
            assert caught.value.why is Why.DAMAGED
        await pool.probe(stumps.bundle, key, probe)  # and a right one passes
        assert [worker.pid for worker in pool.workers] == serving
        await run_job(pool, stumps.bundle, key, data)


async def test_a_spoilt_ciphertext_of_the_right_length_harms_nobody_else(stumps: Keyed, tmp_path: Path) -> None:
    key = Shelf(tmp_path / "shelf", Limits()).take(stumps.bundle, stumps.made.path)
    rows = samples("stumps")
    async with Worker(environment(), stumps.cache) as private, Pool(environment(), stumps.cache, size=1, memory=10**9) as pool:
        client = stumps.client(private)
        good = await client.encrypt(rows["inputs"][:1])
        length = stumps.bundle.model.sizes.input.most
        for payload in (bytes(length), b"\xff" * length):
            bad = seal_payloads("input", stumps.bundle, key.id, [payload])
            with pytest.raises(Exception) as caught:  # noqa: PT011 - refused by the library, or the worker died of it
                await run_job(pool, stumps.bundle, key, bad)
            assert type(caught.value).__name__ in {"Refused", "WorkerFailed"}
        result = await run_job(pool, stumps.bundle, key, good)
        assert (await client.decrypt_raw(result)).tolist() == rows["results"][:1]


async def test_without_a_linker_the_native_form_is_used(stumps: Keyed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = environment()
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is no ld
    key = Shelf(tmp_path / "shelf", Limits()).take(stumps.bundle, stumps.made.path)
    rows = samples("stumps")
    async with Worker(place, stumps.cache) as private, Pool(place, tmp_path / "empty", size=1, memory=0) as pool:
        client = stumps.client(private)
        result = await run_job(pool, stumps.bundle, key, await client.encrypt(rows["inputs"][:1]))
        assert (await client.decrypt_raw(result)).tolist() == rows["results"][:1]


async def test_without_a_linker_and_without_a_native_form_the_linker_is_named(
    stumps: Keyed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = environment()
    foreign = rebuilt(stumps.bundle, tmp_path, TRUST, options=lambda text: text.replace(b"Linux-x86_64", b"Plan9-sparc"))
    key = Shelf(tmp_path / "shelf", Limits()).take(stumps.bundle, stumps.made.path)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with Pool(place, tmp_path / "empty", size=1, memory=0) as pool:
        with pytest.raises(Unavailable, match="linker ld"):
            await pool.infer(foreign, key, stumps.bundle.part("probe.bin"))


async def test_a_bundle_of_another_version_is_not_run(stumps: Keyed, tmp_path: Path) -> None:
    older = rebuilt(stumps.bundle, tmp_path, TRUST, versions={"concrete-python": "2.9.0"})
    async with Worker(environment(), tmp_path / "cache") as private:
        with pytest.raises(BundleError, match=r"2\.9\.0.*2\.10\.0"):
            await private.open(older)


async def test_a_circuit_that_compiles_to_other_parameters_than_its_clients_have_is_not_run(
    stumps: Keyed, tmp_path: Path
) -> None:
    key = Shelf(tmp_path / "shelf", Limits()).take(stumps.bundle, stumps.made.path)
    other = rebuilt(stumps.bundle, tmp_path, TRUST, circuit=bundle("logistic").part("circuit.mlir"))
    async with Pool(environment(), tmp_path / "cache", size=1, memory=0) as pool:
        with pytest.raises(BundleError, match="other parameters"):
            await pool.infer(other, key, stumps.bundle.part("probe.bin"))


async def test_a_bundle_that_changed_under_its_name_is_not_opened(stumps: Keyed, tmp_path: Path) -> None:
    path = tmp_path / "model.bundle"
    assert isinstance(stumps.bundle.source, Path)
    path.write_bytes(stumps.bundle.source.read_bytes())
    opened = Bundle.open(path, trust_fingerprints(SIGNER))
    source = bundle("logistic").source
    assert isinstance(source, Path)
    path.write_bytes(source.read_bytes())
    async with Worker(environment(), tmp_path / "cache") as private:
        with pytest.raises(BundleError, match="ask for the new one"):
            await private.open(opened)
