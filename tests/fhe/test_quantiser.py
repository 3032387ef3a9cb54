"""Features in, predictions out: by numpy, in the declared ranges, with scikit-learn as the reference."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from fhe.bundle import Bundle, Feature, Input, Output
from fhe.errors import InputError
from fhe.quantiser import Real, Whole, check_samples, read_quantiser, to_predictions, to_units, to_values
from tests.fhe.house import DESCRIPTION, TRUST, bundle, make_up, samples

FORM = DESCRIPTION.input
IMAGE = Input(shape=(2, 2), features=(Feature(name="pixel", low=0, high=1),))
QUANTISER = Whole(domain="unit", scale=0.5, zero_point=1, low=-1, high=3, result_scale=(0.25,), result_zero_point=(4,))


def test_units_run_from_minus_one_to_one_over_the_declared_range() -> None:
    assert to_units(FORM, "unit", np.array([[0.0, 10.0], [50.0, 5.0], [100.0, 0.0]])).tolist() == [[-1, 1], [0, 0], [1, -1]]


def test_values_are_rounded_steps_within_their_bounds() -> None:
    assert to_values(FORM, QUANTISER, [[0, 0], [50, 5], [100, 10], [62, 8]]).tolist() == [[-1, -1], [1, 1], [3, 3], [1, 2]]


def test_one_sample_may_come_alone_and_an_image_flat() -> None:
    assert to_values(FORM, QUANTISER, [50, 5]).shape == (1, 2)
    assert check_samples(IMAGE, np.zeros((2, 2))).shape == (1, 2, 2)
    assert check_samples(IMAGE, np.zeros((3, 4))).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([[50, 5], [101, 5]], "sample 2: feature 'age' is not a number from 0 to 100 years"),
        ([[50, -0.1]], "sample 1: feature 'dose'"),
        ([[50, float("nan")]], "sample 1: feature 'dose'"),
        ([[float("inf"), 5]], "sample 1: feature 'age'"),
        ([[1, 2, 3]], "shape"),
        ([], "shape"),
        (7, "shape"),
        ([["x", 2]], "no number"),
        ([[1], [1, 2]], "no number"),
    ],
)
def test_what_is_not_in_the_declared_ranges_is_refused_by_its_feature(given: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        check_samples(FORM, given)  # type: ignore[arg-type]  # what people give


def test_a_refusal_does_not_tell_the_value() -> None:
    with pytest.raises(InputError) as caught:
        check_samples(FORM, [[73_192, 5]])
    assert "73192" not in str(caught.value).replace(",", "")


def test_a_pixel_out_of_its_range_is_told_by_its_place() -> None:
    with pytest.raises(InputError, match="number 4"):
        check_samples(IMAGE, [[0, 0, 0, 2]])


def test_results_go_back_by_scale_and_zero_point() -> None:
    model = msgspec.structs.replace(DESCRIPTION, output=Output(shape=(1,)))
    assert to_predictions(model, QUANTISER, np.array([[4], [8], [0]])).tolist() == [[0], [1], [-1]]


def test_each_result_may_have_its_own_scale() -> None:
    each = msgspec.structs.replace(QUANTISER, result_scale=(1.0, 2.0), result_zero_point=(0, 1))
    model = msgspec.structs.replace(DESCRIPTION, output=Output(shape=(2,)))
    assert to_predictions(model, each, np.array([[3, 3]])).tolist() == [[3, 4]]


def test_links_are_those_of_scipy_and_overflow_nowhere() -> None:
    from scipy.special import expit, softmax

    scores = np.array([[-800.0], [-1.5], [0.0], [2.0], [800.0]])
    both = to_predictions(DESCRIPTION, Real(), scores)
    np.testing.assert_allclose(both, np.hstack([1 - expit(scores), expit(scores)]), atol=1e-15)
    three = msgspec.structs.replace(DESCRIPTION, output=Output(shape=(3,), link="softmax"))
    rows = np.array([[1.0, 2.0, 900.0], [-900.0, 0.0, 0.5]])
    np.testing.assert_allclose(to_predictions(three, Real(), rows), softmax(rows, axis=-1), atol=1e-15)


@pytest.mark.parametrize("name", ["logistic", "diabetes"])
def test_linear_models_are_quantised_close_to_the_model_in_clear(name: str) -> None:
    found, rows = bundle(name), samples(name)
    clear = to_predictions(found.model, Real(), np.array(rows["clear"]))
    quantised = to_predictions(found.model, read_quantiser(found), np.array(rows["results"]))
    # Eight bits a feature: a step is 1/255 of each feature's range.
    spread = np.ptp(clear)
    assert np.abs(clear - quantised).max() < 0.03 * spread


def test_a_linear_model_is_learnt_from_a_few_results_which_is_why_services_limit_queries() -> None:
    found, rows = bundle("diabetes"), samples("diabetes")
    values = to_values(found.model.input, read_quantiser(found), rows["inputs"])
    design = np.hstack([values, np.ones((len(values), 1))])
    some = slice(found.model.input.size + 1)
    learnt = np.linalg.solve(design[some], np.array(rows["results"], dtype=float)[some])
    np.testing.assert_allclose(design @ learnt, rows["results"], rtol=1e-6)


@pytest.mark.parametrize("name", ["logistic", "xgboost", "stumps"])
def test_no_range_and_no_quantiser_tells_an_end_of_the_training_data(name: str) -> None:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer().data
    ends = {float(end) for column in data.T for end in (column.min(), column.max()) if end != 0}
    features = bundle(name).model.input.features
    assert len(features) == 30
    for feature, column in zip(features, data.T, strict=True):
        assert feature.low <= column.min()
        assert column.max() <= feature.high
        assert {feature.low, feature.high} & ends == set()
    quantiser = read_quantiser(bundle(name))
    assert isinstance(quantiser, Whole)
    # What the declared range alone says: so many steps from -1 to 1.
    assert quantiser.scale == pytest.approx(2 / (quantiser.high - quantiser.low))


def test_the_quantiser_is_readable_json() -> None:
    assert json.loads(bundle("stumps").part("quantiser.json"))["type"] == "integers"
    assert isinstance(read_quantiser(Bundle.open(make_up(), TRUST)), Whole)
