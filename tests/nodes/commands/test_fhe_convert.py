"""`cohortium fhe convert`, and what it makes: a bundle that the other commands use like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.networks import Network, cancer_logistic
from fhe.bundle import PROBE, Bundle
from fhe.signature import make_signer
from mpc.errors import CohortiumError, ConfigError
from nodes.commands.fhe import fhe
from tests.fhe.onnx.graphs import reference

KEY = ec.generate_private_key(ec.SECP256R1())
SIGNER = make_signer(KEY)(b"").fingerprint
WORKER = ("--worker", sys.executable)  # TenSEAL and onnx are among the tests' own tools


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(fhe, [*map(str, words)])
    if isinstance(result.exception, CohortiumError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def network() -> Network:
    return cancer_logistic()


@pytest.fixture(scope="module")
def directory(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The owner's key, the model, and the samples to calibrate with."""
    path = tmp_path_factory.mktemp("convert")
    (path / "owner.pem").write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (path / "owner.pem").chmod(0o600)
    (path / "cancer.onnx").write_bytes(network.data)
    np.save(path / "samples.npy", network.samples)
    np.save(path / "truth.npy", network.labels)
    return path


def _convert(directory: Path, target: Path, *more: str | Path) -> Result:
    given = ("-c", directory / "samples.npy", "--id", "cancer", "--key", directory / "owner.pem", "-o", target)
    return run("convert", directory / "cancer.onnx", *given, *more, *WORKER)


def test_a_converted_model_is_used_as_any_other(directory: Path, network: Network, tmp_path: Path) -> None:
    bundle = tmp_path / "cancer.bundle"
    told = _convert(
        directory, bundle, "--truth", directory / "truth.npy", "--labels", "malignant,benign", "--unit", "x1=mm"
    ).output
    assert "accuracy: 0.9577 in clear, 0.9577 simulated, on 71 samples held out; " in told
    assert "degree 4096, 1 levels" in told
    np.save(tmp_path / "ten.npy", network.samples[:10])
    model = ("-m", bundle)
    keys = run("keygen", *model, "-k", tmp_path / "keys", "--signer", SIGNER, *WORKER).output
    key = next(word for word in keys.split() if word.endswith(".key"))
    run("encrypt", *model, "-k", tmp_path / "keys", "-i", tmp_path / "ten.npy", "-o", tmp_path / "in", *WORKER)
    run("infer", *model, "--key", key, "-i", tmp_path / "in", "-o", tmp_path / "out", "--signer", SIGNER, *WORKER)
    run("decrypt", *model, "-k", tmp_path / "keys", "-i", tmp_path / "out", "-o", tmp_path / "result.csv", *WORKER)
    header, *lines = (tmp_path / "result.csv").read_text(encoding="utf-8").splitlines()
    assert header == "answer,malignant,benign"
    found = np.array([[float(number) for number in line.split(",")[1:]] for line in lines])
    wanted = reference(network.data, network.samples[:10])
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-3)
    assert [line.split(",")[0] for line in lines] == ["benign" if one > 0.5 else "malignant" for one in wanted[:, 0]]


def test_the_bundle_says_what_went_in_and_its_client_s_form_has_no_weights(directory: Path, tmp_path: Path) -> None:
    _convert(directory, tmp_path / "b", "--unit", "x2=kg", "--range", "x1=0:50")
    bundle = Bundle.open(tmp_path / "b", lambda _: None)
    first, second = bundle.model.input.features[:2]
    assert (first.name, first.low, first.high, second.unit) == ("x1", 0, 50, "kg")
    assert (bundle.model.backend, bundle.model.linear, bundle.model.output.link) == ("ckks", True, "sigmoid")
    assert bundle.model.versions.keys() == {"tenseal", "onnx"}
    client = Bundle.open(bundle.client(), lambda _: None)
    assert client.hash == bundle.hash
    assert [name for name in client.manifest.parts if client.has(name)] == ["layout.json", "quantiser.json"]
    assert bundle.has(PROBE)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--range", "x1=0:1"), "from 0 to 1"),
        (("--range", "y=0:1"), "no feature 'y'"),
        (("--names", "a,b"), "2 names"),
        (("--end", "nowhere"), "'nowhere'"),
        (("--truth", "samples.npy"), "class of each"),
    ],
)
def test_what_does_not_fit_the_model_is_told(directory: Path, tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    more = tuple(str(directory / word) if word.endswith(".npy") else word for word in more)
    with pytest.raises(ConfigError, match=says):
        _convert(directory, tmp_path / "b", *more)
    assert not (tmp_path / "b").exists()
