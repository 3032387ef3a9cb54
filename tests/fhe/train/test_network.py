"""ONNX networks on encrypted integers, by Concrete ML: `make test-train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier

from benchmarks.networks import write_network
from fhe.bundle import Bundle, make_bundle
from fhe.environment import Environment
from fhe.errors import InputError, Unavailable
from fhe.maker import run_maker
from fhe.onnx.job import MODULE, Conversion, read_report
from fhe.quantiser import Whole, read_quantiser
from tests.fhe.house import SIGN, TRUST

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]


def training() -> Environment:
    try:
        return Environment.find_training()
    except Unavailable as error:
        pytest.skip(str(error))


def iris(end: str = "Softmax") -> tuple[bytes, NDArray[Any], NDArray[Any]]:
    """A network on sizes in centimetres, from 0 to 8, all on one scale, with held-out rows every fourth."""
    rows, labels = load_iris(return_X_y=True)
    order = np.random.default_rng(4).permutation(len(rows))
    rows, labels = rows[order], labels[order]
    train = np.arange(len(rows)) % 4 != 3
    model = MLPClassifier((8,), learning_rate_init=0.02, random_state=2, max_iter=1000).fit(rows[train], labels[train])
    (first, second), (low, high) = model.coefs_, model.intercepts_
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["hidden"], name="hidden"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu"),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["scores"], name="scores"),
        helper.make_node(end, ["scores"], ["y"], name="last"),
    ]
    return write_network(nodes, {"w1": first, "b1": low, "w2": second, "b2": high}, (4,), 3), rows, labels


def job(directory: Path, network: bytes, rows: NDArray[Any], **changes: Any) -> Conversion:
    (directory / "net.onnx").write_bytes(network)
    np.save(directory / "rows.npy", rows)
    told: dict[str, Any] = {
        "id": "iris",
        "title": "iris",
        "model": str(directory / "net.onnx"),
        "calibration": str(directory / "rows.npy"),
        "created": "2026-01-01T00:00:00Z",
        "backend": "concrete",
        "ranges": {f"x{place}": (0.0, 8.0) for place in range(1, 5)},
    }
    return Conversion(**(told | changes))


def test_a_network_is_as_good_on_integers_and_its_softmax_is_the_clients(tmp_path: Path) -> None:
    network, rows, labels = iris()
    np.save(tmp_path / "truth.npy", labels)
    (tmp_path / "work").mkdir()
    what = job(tmp_path, network, rows, truth=str(tmp_path / "truth.npy"), labels=("a", "b", "c"))
    description, parts = run_maker(training(), MODULE, what, tmp_path / "work")
    report = read_report(tmp_path / "work")
    assert report.measure == "accuracy"
    assert report.simulated >= report.clear - 0.04
    assert report.clear > 0.9
    assert description.output.link == "softmax"
    bundle = Bundle.open(make_bundle(description, parts, SIGN), TRUST)
    quantiser = read_quantiser(bundle)
    assert isinstance(quantiser, Whole)
    assert quantiser.scale == pytest.approx(8 / 31)  # five bits of the declared range, whatever the rows


def test_an_operator_that_cannot_be_computed_is_refused_by_its_node(tmp_path: Path) -> None:
    network, rows, _ = iris("NonZero")
    model = onnx.load_model_from_string(network)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError, match=r"node 'last' \(NonZero\)"):
        run_maker(training(), MODULE, job(tmp_path, model.SerializeToString(), rows), tmp_path / "work")


def test_what_is_no_onnx_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(InputError, match="no ONNX model"):
        run_maker(training(), MODULE, job(tmp_path, b"garbage", np.zeros((100, 4))), tmp_path / "work")


def test_the_job_says_which_backend_it_is_for() -> None:
    given = {"id": "x", "title": "x", "model": "m", "calibration": "c", "created": ""}
    assert msgspec.convert(given, Conversion).backend == "ckks"
