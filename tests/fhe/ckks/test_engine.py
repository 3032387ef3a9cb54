"""The ckks backend with real keys and ciphertexts: results, and what is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.networks import Network, cancer_logistic, digits_relu, digits_square
from fhe.ckks.compile import Compiled, compile_chain
from fhe.ckks.engine import CkksEngine
from fhe.ckks.plan import Affine, Layout, Parameters, Plan
from fhe.errors import BundleError, InputError, Refused, Why
from fhe.onnx.chain import Chain, make_chain
from fhe.onnx.graph import read_graph
from tests.fhe.onnx.graphs import graph, reference

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class House:
    """A service and a client of one model, with the client's keys."""

    service: CkksEngine
    client: CkksEngine
    secret: bytes
    key: Path
    layout: Layout
    compiled: Compiled

    def predict(self, values: Array) -> Array:
        expanded = self.service.expand(self.key)
        results = [self.service.infer(expanded, payload) for payload in self.client.encrypt(self.secret, values)]
        return np.asarray(self.client.decrypt(self.secret, results))


def _house(chain: Chain, values: Array, centre: Array, radius: Array, directory: Path, degree: int = 2) -> House:
    compiled = compile_chain(chain, values, centre, radius, degree)
    layout = msgspec.structs.replace(compiled.layout, step=1e-9)
    client = CkksEngine(layout, None, chain.output_shape)
    key = directory / "key"
    secret = client.keygen(key)
    return House(CkksEngine(layout, compiled.plan, chain.output_shape), client, secret, key, layout, compiled)


def _of(network: Network, directory: Path) -> tuple[House, Array]:
    """And the network's own samples, from -1 to 1."""
    flat = network.samples.reshape(len(network.samples), -1)
    low, high = flat.min(axis=0), flat.max(axis=0) + 1e-9
    if len(network.samples.shape) > 2:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    values = (2 * flat - low - high) / (high - low)
    return _house(make_chain(read_graph(network.data)), values, (low + high) / 2, (high - low) / 2, directory), values


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Two numbers in, three out: 4096 slots and a key of half a megabyte, for all that is about bytes."""
    data = graph(
        "net (float[N,2] x) => (float[N,3] y) <float[2,3] w = {1,2,3,4,5,6}, float[3] b = {100,-200,300}> { y = Gemm (x, w, b) }"
    )
    values = np.random.default_rng(1).uniform(-1, 1, (50, 2))
    return _house(make_chain(read_graph(data)), values, np.zeros(1), np.ones(1), tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    ("make", "count", "most"), [(cancer_logistic, 20, 1e-3), (digits_relu, 3, 1e-4), (digits_square, 3, 1e-4)]
)
def test_an_encrypted_network_gives_what_the_clear_one_gives(
    make: Callable[[], Network], count: int, most: float, tmp_path: Path
) -> None:
    network = make()
    house, values = _of(network, tmp_path)
    results = house.predict(values[:count])
    np.testing.assert_allclose(results, house.compiled.simulate(values[:count]), atol=most)
    if make is not digits_relu:  # whose activation is a polynomial that only comes near
        clear = reference(network.data, network.samples[:count])
        scores = 1 / (1 + np.exp(-results)) if make is cancer_logistic else results
        np.testing.assert_allclose(scores, clear, atol=most)


@pytest.mark.parametrize(("operator", "degree"), [("Relu", 2), ("Tanh", 3), ("Relu", 4)])
def test_polynomials_of_each_degree_are_computed_as_simulated(operator: str, degree: int, tmp_path: Path) -> None:
    data = graph(
        "net (float[N,2] x) => (float[N,2] y) <float[2,3] w = {1,-2,3,-4,5,-6}, float[3,2] v = {1,2,3,4,5,6}>"
        f"{{ s = MatMul (x, w) \n t = {operator} (s) \n y = MatMul (t, v) }}"
    )
    values = np.random.default_rng(1).uniform(-1, 1, (100, 2))
    house = _house(make_chain(read_graph(data)), values, np.zeros(1), np.ones(1), tmp_path, degree)
    np.testing.assert_allclose(house.predict(values[:2]), house.compiled.simulate(values[:2]), atol=1e-4)


def test_a_large_bias_is_added_to_every_result(small: House) -> None:
    """TenSEAL's own `(encrypted + plain).mm()` is wrong; here the bias is part of the map."""
    values = np.array([[0.5, -0.25], [0.0, 0.0], [1.0, 1.0]])
    wanted = values @ [[1, 2, 3], [4, 5, 6]] + [100, -200, 300]
    np.testing.assert_allclose(small.predict(values), wanted, atol=0.02)


def test_what_is_decrypted_is_whole_multiples_of_the_step(small: House) -> None:
    layout = msgspec.structs.replace(small.layout, step=0.5)
    service, client = CkksEngine(layout, small.compiled.plan, (3,)), CkksEngine(layout, None, (3,))
    payloads = client.encrypt(small.secret, np.random.default_rng(3).uniform(-1, 1, (3, 2)))
    results = np.asarray(client.decrypt(small.secret, [service.infer(service.expand(small.key), one) for one in payloads]))
    assert (results * 2 == np.round(results * 2)).all()
    assert len(np.unique(results % 1)) == 2


def test_the_same_numbers_never_make_the_same_ciphertext(small: House) -> None:
    first, second = small.client.encrypt(small.secret, np.zeros((2, 2)))
    assert first != second


def test_two_sets_of_keys_differ(small: House, tmp_path: Path) -> None:
    other = small.client.keygen(tmp_path / "key")
    assert other != small.secret
    (payload,) = small.client.encrypt(other, np.zeros((1, 2)))
    result = small.service.infer(small.service.expand(tmp_path / "key"), payload)
    # Nothing in a SEAL ciphertext tells whose it is: that is what the header's key id is for.
    assert np.abs(np.asarray(small.client.decrypt(small.secret, [result])) - [[100, -200, 300]]).max() > 50


def test_the_evaluation_key_opens_nothing(small: House) -> None:
    """It holds public keys alone: no part of it is read as a secret key, and the secret's bytes are not in it."""
    data = small.key.read_bytes()
    with pytest.raises(Refused):
        small.client.decrypt(data, [])
    assert small.secret[16:64] not in data


@pytest.mark.parametrize("values", [np.zeros((1, 3)), np.array([[0.0, 1.5]]), np.array([[0.0, np.nan]])])
def test_numbers_outside_the_unit_range_are_not_encrypted(small: House, values: Array) -> None:
    with pytest.raises(InputError):
        small.client.encrypt(small.secret, values)


def test_the_end_of_a_range_may_be_a_rounding_beyond_one(small: House) -> None:
    assert len(small.client.encrypt(small.secret, np.array([[1 + 2**-50, -1 - 2**-50]]))) == 1


def test_a_client_has_no_plan_and_computes_nothing(small: House) -> None:
    with pytest.raises(BundleError):
        small.client.infer(small.client.expand(small.key), b"")


def test_a_plan_of_another_model_is_a_bundle_error(small: House) -> None:
    square = Affine(np.ones((4, 4)), np.ones((4, 1)))
    with pytest.raises(BundleError):
        CkksEngine(small.layout, Plan((square, square)), (3,))
    with pytest.raises(BundleError):
        CkksEngine(small.layout, small.compiled.plan, (4,))


def test_a_key_that_lacks_a_turn_is_refused_before_anything_is_computed(small: House, tmp_path: Path) -> None:
    CkksEngine(msgspec.structs.replace(small.layout, turns=small.layout.turns[1:]), None, (3,)).keygen(tmp_path / "key")
    with pytest.raises(Refused, match="lacks"):
        small.service.expand(tmp_path / "key")


def _altered(data: bytes, dice: random.Random) -> bytes:
    kind = dice.randrange(4)
    if kind == 0:
        return data[: dice.randrange(len(data))]
    if kind == 1:
        return data + bytes(dice.randrange(1, 9))
    out = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        out[dice.randrange(len(out) if kind == 2 else 120)] ^= 1 << dice.randrange(8)
    return bytes(out)


def test_altered_ciphertexts_and_keys_are_refused_or_computed_with_but_nothing_else(small: House, tmp_path: Path) -> None:
    """A flipped bit within a number gives another number: the digest in the header is for that. All else SEAL refuses."""
    dice = random.Random(8)
    expanded = small.service.expand(small.key)
    (payload,) = small.client.encrypt(small.secret, np.zeros((1, 2)))
    refused: list[Why] = []
    for _ in range(100):
        try:
            small.service.infer(expanded, _altered(payload, dice))
        except Refused as error:
            refused.append(error.why)
    for _ in range(30):
        (tmp_path / "key").write_bytes(_altered(small.key.read_bytes(), dice))
        try:
            small.service.expand(tmp_path / "key")
        except Refused as error:
            refused.append(error.why)
    assert len(refused) > 60
    assert set(refused) == {Why.DAMAGED}


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\x5e\xa1\x10\x04" + bytes(100), bytes(100_000)])
def test_what_is_no_ciphertext_and_no_key_is_refused(small: House, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Refused):
        small.service.infer(small.service.expand(small.key), data)
    with pytest.raises(Refused):
        small.client.decrypt(small.secret, [data])
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(Refused):
        small.service.expand(tmp_path / "key")


def test_a_result_is_not_taken_for_an_input_nor_an_input_for_a_result(small: House) -> None:
    (payload,) = small.client.encrypt(small.secret, np.zeros((1, 2)))
    expanded = small.service.expand(small.key)
    with pytest.raises(Refused):
        small.service.infer(expanded, small.service.infer(expanded, payload))
    with pytest.raises(Refused):
        small.client.decrypt(small.secret, [payload])


def test_keys_and_ciphertexts_of_other_parameters_are_refused(small: House, tmp_path: Path) -> None:
    parameters = Parameters(degree=4096, bits=(36, 30, 36), lift=4)
    other = CkksEngine(msgspec.structs.replace(small.layout, parameters=parameters), None, (3,))
    secret = other.keygen(tmp_path / "key")
    with pytest.raises(Refused):
        small.service.expand(tmp_path / "key")
    with pytest.raises(Refused):
        small.service.infer(small.service.expand(small.key), other.encrypt(secret, np.zeros((1, 2)))[0])
    with pytest.raises(Refused):
        small.client.encrypt(secret, np.zeros((1, 2)))


def test_secrets_pass_through_memory_alone(small: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEAL reads and writes files only: none of them has a name."""
    opened: list[str] = []
    create = os.memfd_create

    def watched(name: str, flags: int = 0) -> int:
        opened.append(name)
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", watched)
    before = _open_files()
    small.client.encrypt(small.secret, np.zeros((1, 2)))
    assert opened == ["cohortium"] * 2
    assert _open_files() == before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
