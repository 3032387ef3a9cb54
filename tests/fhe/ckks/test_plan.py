"""Plans and layouts: what they compute, and which files are none."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest

from fhe.ckks.engine import read_layout
from fhe.ckks.plan import Affine, Layout, Parameters, Plan, Power, choose
from fhe.errors import BundleError

LAYOUT = Layout(
    parameters=Parameters(degree=4096, bits=(38, 31, 38), lift=2),
    size=3,
    gather=(0, 1, 2, -1),
    results=(0,),
    reach=2.0,
    step=0.5,
    turns=(1, 2),
)


@pytest.mark.parametrize("rows", [1, 2, 8, 32])
@pytest.mark.parametrize("columns", [1, 4, 16])
@pytest.mark.parametrize("block", [1, 4])
def test_the_diagonals_and_turns_of_a_map_give_the_product_with_its_matrix(rows: int, columns: int, block: int) -> None:
    dice = np.random.default_rng(rows * columns)
    step = Affine(dice.normal(size=(rows, columns)), dice.normal(size=(rows, block)))
    vector = dice.normal(size=(columns, block))
    slots = np.tile(vector.reshape(-1), 128 // vector.size)
    # By turns alone, as under encryption: np.roll to the left is SEAL's rotation.
    total = sum(
        np.tile(step.diagonal(d), 128 // len(step.diagonal(d))) * np.roll(slots, -d * block) for d in range(step.diagonals)
    )
    apart = rows
    while apart < columns:
        total = total + np.roll(total, -apart * block)
        apart *= 2
    wanted = step.matrix @ vector
    np.testing.assert_allclose(np.asarray(total)[: rows * block], wanted.reshape(-1), atol=1e-9)
    np.testing.assert_allclose(
        Plan((step,)).simulate(slots[None])[0][: rows * block], (wanted + step.bias).reshape(-1), atol=1e-9
    )


@pytest.mark.parametrize(
    ("levels", "degree", "bits"),
    [(1, 4096, (38, 31, 38)), (3, 8192, (47, 40, 40, 40, 47)), (5, 8192, (36, 29, 29, 29, 29, 29, 36)), (6, 16384, None)],
)
def test_the_parameters_are_the_smallest_of_the_standard_for_128_bits(
    levels: int, degree: int, bits: tuple[int, ...] | None
) -> None:
    chosen = choose(levels, 1024, 2)
    assert chosen is not None
    assert chosen.degree == degree
    assert bits is None or chosen.bits == bits
    # Homomorphic Encryption Standard (2018), table 1, ternary secrets, 128 bits.
    assert sum(chosen.bits) <= {4096: 109, 8192: 218, 16384: 438}[degree]


def test_a_wide_vector_takes_a_larger_degree_and_what_is_too_deep_has_no_parameters() -> None:
    wide = choose(1, 8192, 2)
    assert wide is not None
    assert wide.degree == 16384
    assert choose(30, 1, 2) is None


def test_what_is_decrypted_is_rounded_before_it_is_given_out() -> None:
    assert LAYOUT.collect(np.array([[0.3741, 9.0], [-0.4, 9.0]])).tolist() == [[0.5], [-1.0]]


def test_a_plan_comes_back_from_its_file_as_it_was() -> None:
    dice = np.random.default_rng(1)
    plan = Plan(
        (
            Affine(dice.normal(size=(4, 8)), dice.normal(size=(4, 2))),
            Power(3, dice.normal(size=(3, 4)), 2),
            Affine(dice.normal(size=(2, 8)), dice.normal(size=(2, 1))),
        )
    )
    again = Plan.load(plan.dump())
    slots = dice.normal(size=(3, 64))
    np.testing.assert_array_equal(again.simulate(slots), plan.simulate(slots))
    assert (again.levels, again.turns, again.period) == (plan.levels, plan.turns, 16)


def _npz(*arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez(out, *(np.asarray(array) for array in arrays), allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        Plan((Affine(np.ones((2, 2)), np.ones((2, 1))),)).dump()[:-30],
        _npz(np.ones((2, 2)), np.array([{}], dtype=object)),
        _npz(np.ones((2, 3)), np.ones((2, 1))),
        _npz(np.ones((2, 2)), np.ones((4, 1))),
        _npz(np.ones((2, 2))),
        _npz(np.ones((2, 2)), np.array([9, 1])),
        _npz(np.ones((1, 2)), np.array([2, 1])),
    ],
)
def test_a_file_that_is_no_plan_is_a_bundle_error_and_nothing_is_unpickled(data: bytes) -> None:
    with pytest.raises(BundleError):
        Plan.load(data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": Parameters(degree=4096, bits=(40, 35, 40), lift=2)},
        {"parameters": Parameters(degree=1000, bits=(38, 31, 38), lift=2)},
        {"parameters": Parameters(degree=8192, bits=(70, 31, 38), lift=2)},
        {"parameters": Parameters(degree=8192, bits=(38, 31, 38), lift=20)},
        {"gather": (0, 1, 3, -1)},
        {"gather": (0, 1, 2)},
        {"gather": ()},
        {"results": (5000,)},
        {"results": ()},
        {"reach": 0.0},
        {"step": -1.0},
        {"turns": (0,)},
    ],
)
def test_a_layout_of_numbers_that_make_no_sense_is_refused(wrong: dict[str, object]) -> None:
    assert read_layout(msgspec.json.encode(LAYOUT)) == LAYOUT
    with pytest.raises(BundleError):
        read_layout(msgspec.json.encode(msgspec.structs.replace(LAYOUT, **wrong)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b'{"parameters": 1}'])
def test_bytes_that_are_no_layout_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        read_layout(data)
