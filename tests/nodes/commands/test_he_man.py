"""HE-MAN's five steps from the command line, with real keys, on a network of our own and on its own demonstration."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from benchmarks.networks import digits_square
from mpc.errors import CohortiumError, ConfigError, IdentityError, UsageError
from nodes.commands.he_man import he_man
from tests.fhe.onnx.graphs import reference

DEMONSTRATION = Path(__file__).parents[3].parent / "shared" / "data" / "he-man"


def run(*words: str | Path) -> Result:
    """One step. TenSEAL and onnx are among the tests' own tools, so that these make the worker's environment."""
    worker = ["--worker", sys.executable]
    result = CliRunner().invoke(he_man, [*map(str, words), *worker])
    if isinstance(result.exception, CohortiumError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@dataclass(frozen=True)
class House:
    """A calibrated model, keys for it, and one sample all the way through."""

    path: Path
    clear: np.ndarray[tuple[int], np.dtype[np.float64]]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    network, path = digits_square(), tmp_path_factory.mktemp("he-man")
    (path / "digits.onnx").write_bytes(network.data)
    np.savez(path / "samples.npz", network.samples[:200])
    np.save(path / "input.npy", network.samples[0])
    run("keyparams", "-m", path / "digits.onnx", "-c", path / "samples.npz", "-o", path / "keyparams.json")
    run("keygen", "-i", path / "keyparams.json", "-o", path / "key")
    run("encrypt", "-k", path / "key", "-i", path / "input.npy", "-o", path / "input.enc")
    _infer(path, "input.enc", "output.enc")
    return House(path, reference(network.data, network.samples[:1])[0])


def _infer(path: Path, source: str, target: str, key: str = "key.pub", model: str = "digits_calibrated.onnx") -> None:
    run("inference", "-m", path / model, "-k", path / key, "-i", path / source, "-o", path / target)


def test_five_lines_give_what_the_clear_network_gives(house: House) -> None:
    run("decrypt", "-k", house.path / "key", "-i", house.path / "output.enc", "-o", house.path / "output.npy")
    np.testing.assert_allclose(np.load(house.path / "output.npy"), house.clear, atol=1e-3)


def test_the_files_are_what_he_man_s_are_called_and_the_secret_ones_are_for_their_owner(house: House) -> None:
    names = {path.name for path in house.path.iterdir()}
    assert {"digits_calibrated.onnx", "keyparams.json", "key", "key.pub", "input.enc", "output.enc"} <= names
    for name in ("key", "key.storage-key"):
        assert stat.S_IMODE((house.path / name).stat().st_mode) == 0o600
    params = json.loads((house.path / "keyparams.json").read_bytes())
    assert (params["library"], params["parameters"]["poly_modulus_degree"]) == ("seal", 8192)
    # HE-MAN's calibrated model is an ONNX file for everybody else, and so is ours.
    onnx.checker.check_model(onnx.load(house.path / "digits_calibrated.onnx"))


def test_no_file_that_is_given_away_holds_the_secret_and_that_of_the_client_no_weights(house: House) -> None:
    secret = (house.path / "key").read_bytes()
    assert b"\x5e\xa1\x10\x04" not in secret  # SEAL's mark: what it wrote is sealed
    assert len((house.path / "keyparams.json").read_bytes()) < 50_000 < len((house.path / "digits_calibrated.onnx").read_bytes())


def test_several_samples_go_in_one_file(house: House) -> None:
    network = digits_square()
    np.save(house.path / "three.npy", network.samples[:3])
    run("encrypt", "-k", house.path / "key", "-i", house.path / "three.npy", "-o", house.path / "three.enc")
    _infer(house.path, "three.enc", "three.out")
    run("decrypt", "-k", house.path / "key", "-i", house.path / "three.out", "-o", house.path / "three")
    np.testing.assert_allclose(np.load(house.path / "three.npy"), reference(network.data, network.samples[:3]), atol=1e-3)


def test_another_secret_key_is_an_error_and_not_plausible_nonsense(house: House) -> None:
    run("keygen", "-i", house.path / "keyparams.json", "-o", house.path / "other")
    with pytest.raises(ConfigError, match="is under the key"):
        run("decrypt", "-k", house.path / "other", "-i", house.path / "output.enc", "-o", house.path / "no.npy")
    with pytest.raises(ConfigError, match="is under the key"):
        _infer(house.path, "input.enc", "no.enc", key="other.pub")
    assert not (house.path / "no.npy").exists()


def test_keys_of_another_calibration_are_refused(house: House, tmp_path: Path) -> None:
    shutil.copy(house.path / "digits.onnx", tmp_path / "digits.onnx")
    run("keyparams", "-m", tmp_path / "digits.onnx", "-c", house.path / "samples.npz", "-o", tmp_path / "keyparams.json")
    for name in ("input.enc", "key.pub"):
        shutil.copy(house.path / name, tmp_path / name)
    with pytest.raises(ConfigError, match="fit the very bundle"):
        _infer(tmp_path, "input.enc", "output.enc")


def test_what_is_given_in_the_wrong_place_is_told(house: House, tmp_path: Path) -> None:
    path, out = house.path, tmp_path / "out"
    with pytest.raises(ConfigError, match="not calibrated"):
        _infer(path, "input.enc", "no.enc", model="digits.onnx")
    with pytest.raises(ConfigError, match="encrypted result is asked for"):
        run("decrypt", "-k", path / "key", "-i", path / "input.enc", "-o", out)
    with pytest.raises(ConfigError, match="no secret key"):
        run("decrypt", "-k", path / "key.pub", "-i", path / "output.enc", "-o", out, "--storage-key", path / "key.storage-key")
    with pytest.raises(ConfigError, match="evaluation key is asked for"):
        _infer(path, "input.enc", "no.enc", key="output.enc")
    with pytest.raises(ConfigError, match="not what 'keyparams' writes"):
        run("keygen", "-i", path / "samples.npz", "-o", out)
    np.save(tmp_path / "wide.npy", np.zeros((32, 32)))
    with pytest.raises(ConfigError, match=r"shape \(32, 32\)"):
        run("encrypt", "-k", path / "key", "-i", tmp_path / "wide.npy", "-o", out)
    np.save(tmp_path / "dark.npy", np.full((8, 8), -3.0))
    with pytest.raises(ConfigError, match="range"):
        run("encrypt", "-k", path / "key", "-i", tmp_path / "dark.npy", "-o", out)
    with pytest.raises(UsageError, match="deg2"):
        run("keyparams", "-m", path / "digits.onnx", "-c", path / "samples.npz", "-o", out, "--relu-mode", "deg9")
    assert not out.exists()


def test_a_ciphertext_or_a_key_that_was_cut_or_altered_is_refused(house: House) -> None:
    for name in ("input.enc", "key.pub"):
        whole = (house.path / name).read_bytes()
        altered = bytearray(whole)
        altered[len(whole) // 2] ^= 1
        for place, data in enumerate((whole[:-1], whole + b"\0", bytes(altered), whole[:30])):
            (house.path / f"bad{place}").write_bytes(data)
            with pytest.raises(ConfigError):
                _infer(
                    house.path, *((f"bad{place}", "no.enc") if name == "input.enc" else ("input.enc", "no.enc", f"bad{place}"))
                )
    assert not (house.path / "no.enc").exists()


def test_a_secret_key_is_never_overwritten_nor_read_when_others_can(house: House) -> None:
    before = (house.path / "key").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        run("keygen", "-i", house.path / "keyparams.json", "-o", house.path / "key")
    assert (house.path / "key").read_bytes() == before
    shutil.copy(house.path / "key", house.path / "open")
    (house.path / "open").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        run(
            *("encrypt", "-k", house.path / "open", "-i", house.path / "input.npy", "-o", house.path / "no.enc"),
            *("--storage-key", house.path / "key.storage-key"),
        )


def test_without_its_storage_key_a_secret_key_opens_nothing(house: House) -> None:
    (house.path / "wrong").write_bytes(bytes(32))
    (house.path / "wrong").chmod(0o600)
    for storage_key in ("missing", "wrong"):
        with pytest.raises((IdentityError, CohortiumError)):
            run(
                *("decrypt", "-k", house.path / "key", "-i", house.path / "output.enc", "-o", house.path / "no.npy"),
                *("--storage-key", house.path / storage_key),
            )
    assert not (house.path / "no.npy").exists()


def test_a_network_that_cannot_be_computed_is_refused_by_its_node(tmp_path: Path) -> None:
    source = onnx.load_model_from_string(digits_square().data)
    source.graph.node[1].op_type = "Sin"
    del source.graph.node[1].input[1]
    (tmp_path / "m.onnx").write_bytes(source.SerializeToString())
    np.save(tmp_path / "c.npy", digits_square().samples[:100])
    with pytest.raises(ConfigError, match=r"node 'square' \(Sin\)"):
        run("keyparams", "-m", tmp_path / "m.onnx", "-c", tmp_path / "c.npy", "-o", tmp_path / "keyparams.json")
    assert not (tmp_path / "keyparams.json").exists()


@pytest.mark.skipif(not DEMONSTRATION.exists(), reason=f"HE-MAN's demonstration is not in {DEMONSTRATION}")
def test_he_man_s_own_demonstration_gives_the_clear_model_s_logits_within_a_hundredth(tmp_path: Path) -> None:
    shutil.copyfile(DEMONSTRATION / "mnist.onnx", tmp_path / "mnist.onnx")
    images = [np.load(path) for path in sorted(DEMONSTRATION.glob("test-data/*-0.npy"))]
    np.save(tmp_path / "input.npy", np.stack(images))
    run(
        "keyparams",
        "-m",
        tmp_path / "mnist.onnx",
        "-c",
        DEMONSTRATION / "calibration-data.zip",
        "-o",
        tmp_path / "keyparams.json",
    )
    run("keygen", "-i", tmp_path / "keyparams.json", "-o", tmp_path / "key")
    run("encrypt", "-k", tmp_path / "key", "-i", tmp_path / "input.npy", "-o", tmp_path / "input.enc")
    _infer(tmp_path, "input.enc", "output.enc", model="mnist_calibrated.onnx")
    run("decrypt", "-k", tmp_path / "key", "-i", tmp_path / "output.enc", "-o", tmp_path / "output.npy")
    model = onnx.load(tmp_path / "mnist.onnx").SerializeToString()
    clear = np.concatenate([reference(model, image.reshape(1, 1, 28, 28)) for image in images])
    found = np.load(tmp_path / "output.npy")
    assert len(images) == 10
    np.testing.assert_allclose(found, clear, atol=1e-2)
    assert (found.argmax(axis=1) == clear.argmax(axis=1)).all()
