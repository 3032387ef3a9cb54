"""Training with Concrete ML, in its own environment of 6 GB: `make test-train`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from fhe.bundle import Bundle, Description, make_bundle
from fhe.environment import Environment
from fhe.errors import InputError, Unavailable
from fhe.maker import run_maker
from fhe.quantiser import Whole, read_quantiser, to_values
from fhe.train.job import MODULE, SAMPLES, Job, Samples
from nodes.cli import cohortium
from pki.files import write_private_key
from tests.fhe.house import SIGN, TRUST, environment

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]


def training() -> Environment:
    try:
        return Environment.find_training()
    except Unavailable as error:
        pytest.skip(str(error))


def job(**changes: Any) -> Job:
    told: dict[str, Any] = {
        "id": "x",
        "title": "x",
        "data": "breast-cancer",
        "created": "2026-01-01T00:00:00Z",
        "samples": 20,
    }
    return Job(**(told | changes))


def trained(directory: Path, what: Job) -> tuple[Bundle, Samples]:
    description, parts = run_maker(training(), MODULE, what, directory)
    samples = msgspec.json.decode((directory / SAMPLES).read_bytes(), type=Samples)
    return Bundle.open(make_bundle(description, parts, SIGN), TRUST), samples


def metric(model: Description) -> tuple[float, float]:
    return model.metrics[0].clear, model.metrics[0].quantised


def test_logistic_regression_is_as_good_as_in_clear(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, job(recipe="logistic-regression"))
    clear, quantised = metric(bundle.model)
    assert clear == quantised == pytest.approx(0.986, abs=5e-4)
    assert bundle.model.linear


def test_boosted_trees_are_within_two_points_and_their_key_is_small(tmp_path: Path) -> None:
    bundle, samples = trained(tmp_path, job(recipe="xgboost"))
    clear, quantised = metric(bundle.model)
    assert quantised >= clear - 0.02
    assert bundle.model.sizes.key <= 25_000_000
    assert bundle.model.output.shape == (1,)  # ten votes are summed under encryption
    assert np.shape(samples.results) == (20, 1)


def test_a_random_forest_gives_each_labels_share(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, job(recipe="random-forest", trees=4, depth=2))
    clear, quantised = metric(bundle.model)
    assert quantised >= clear - 0.05
    assert bundle.model.output.shape == (2,)


def test_a_network_learns_three_kinds(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, job(recipe="mlp", data="iris"))
    clear, quantised = metric(bundle.model)
    assert quantised >= clear - 0.05
    assert bundle.model.output.labels == ("setosa", "versicolor", "virginica")
    assert bundle.model.output.link == "softmax"


def test_a_regression_explains_as_much_as_in_clear(tmp_path: Path) -> None:
    bundle, _ = trained(tmp_path, job(recipe="linear-regression", data="diabetes"))
    clear, quantised = metric(bundle.model)
    assert quantised == pytest.approx(clear, abs=0.01)


def test_a_bundle_tells_declared_ranges_and_not_the_ends_of_the_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = np.column_stack([rng.uniform(37.123, 81.456, 200), rng.uniform(0.111, 9.876, 200)])
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "dose", "ill"])
        writer.writerows([*row, "yes" if row[0] / 60 + row[1] / 5 > 2 else "no"] for row in rows.tolist())
    (tmp_path / "work").mkdir()
    what = job(recipe="xgboost", data=str(path), trees=2, depth=2, ranges={"age": (0, 120)})
    bundle, _ = trained(tmp_path / "work", what)
    assert [(one.name, one.low, one.high) for one in bundle.model.input.features] == [("age", 0, 120), ("dose", 0.3, 9.9)]
    quantiser = read_quantiser(bundle)
    assert isinstance(quantiser, Whole)
    assert quantiser.scale == pytest.approx(2 / 7)  # three bits from -1 to 1, whatever the data
    ends = np.asarray(to_values(bundle.model.input, quantiser, [[0, 0.3], [120, 9.9]]))
    assert ends.tolist() == [[0, 0], [7, 7]]


def test_the_owner_trains_and_a_client_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training()
    environment()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_private_key(tmp_path / "owner.key", ec.generate_private_key(ec.SECP256R1()), force=False)

    def run(*arguments: str | Path) -> str:
        result = CliRunner().invoke(cohortium, ["fhe", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.output

    model, keys = tmp_path / "m.bundle", tmp_path / "keys"
    common = ("train", "breast-cancer", "--recipe", "logistic-regression", "--id", "journey")
    assert "accuracy: 0.986" in run(*common, "--key", tmp_path / "owner.key", "-o", model)
    signer = next(line for line in run("inspect", model).splitlines() if "signed by" in line).split()[2]
    made = run("keygen", "-m", model, "-k", keys, "--signer", signer).split()[3]

    from sklearn.datasets import load_breast_cancer

    np.save(tmp_path / "rows.npy", load_breast_cancer().data[:3])
    run("encrypt", "-m", model, "-k", keys, "-i", tmp_path / "rows.npy", "-o", tmp_path / "in")
    key = keys / f"{made}.key"
    run("infer", "-m", model, "--key", key, "-i", tmp_path / "in", "-o", tmp_path / "out", "--signer", signer)
    told = run("decrypt", "-m", model, "-k", keys, "-i", tmp_path / "out").splitlines()
    assert told[0] == "answer,malignant,benign"
    assert [line.split(",")[0] for line in told[1:]] == ["malignant"] * 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe": "linear-regression", "data": "iris"}, "does not fit this data"),
        ({"recipe": "mlp", "data": "nowhere.csv"}, "cannot read nowhere.csv"),
        ({"recipe": "xgboost", "ranges": {"mean-radius": (0.0, 10.0)}}, "mean-radius"),
    ],
)
def test_a_job_that_cannot_be_done_says_why(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        trained(tmp_path, job(**changes))
