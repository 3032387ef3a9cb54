"""`cohortium fhe`: the journey of some samples, file by file, and what a person is told when a step cannot be done."""

from __future__ import annotations

import csv
import io
import json
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpc.errors import CohortiumError
from nodes.cli import cohortium
from tests.fhe.house import DATA, SIGNER, bundle, environment, samples

MODEL = DATA / "logistic.bundle"
ROWS = samples("logistic")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cohortium, ["fhe", *map(str, arguments)])


def refused(*arguments: str | Path) -> tuple[int, str]:
    """The exit status, and what is told."""
    result = run(*arguments)
    assert isinstance(result.exception, CohortiumError), result.output
    return result.exception.exit_status, str(result.exception)


@dataclass(frozen=True)
class Desk:
    """A directory with samples and a set of keys."""

    directory: Path
    id: str

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def table(self) -> Path:
        return self.directory / "samples.csv"


def write_table(path: Path, names: list[str], rows: list[list[float]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *map(list, rows)])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    environment()
    directory = tmp_path_factory.mktemp("desk")
    made = run("keygen", "-m", MODEL, "-k", directory / "keys", "--signer", SIGNER)
    assert made.exit_code == 0, made.output
    names = [feature.name for feature in bundle("logistic").model.input.features]
    # In another order, with a column more: a header says which is which.
    write_table(directory / "samples.csv", ["note", *names[::-1]], [[0, *row[::-1]] for row in ROWS["inputs"][:5]])
    return Desk(directory, made.output.split()[3])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_samples_become_predictions_in_four_steps(desk: Desk, tmp_path: Path) -> None:
    key = desk.keys / f"{desk.id}.key"
    steps = [
        run("encrypt", "-m", MODEL, "-k", desk.keys, "-i", desk.table, "-o", tmp_path / "input.enc"),
        run("infer", "-m", MODEL, "--key", key, "-i", tmp_path / "input.enc", "-o", tmp_path / "out.enc", "--signer", SIGNER),
        run("decrypt", "-m", MODEL, "-k", desk.keys, "-i", tmp_path / "out.enc"),
    ]
    assert [step.exit_code for step in steps] == [0, 0, 0], [step.output for step in steps]
    rows = list(csv.DictReader(io.StringIO(steps[-1].output)))
    assert list(rows[0]) == ["answer", "malignant", "benign"]
    assert [row["answer"] for row in rows] == [["malignant", "benign"][int(label)] for label in ROWS["labels"][:5]]
    assert all(float(row["malignant"]) + float(row["benign"]) == pytest.approx(1, abs=1e-5) for row in rows)


def test_the_storage_key_lies_beside_the_keys_and_what_is_decrypted_is_the_owners_alone(desk: Desk, tmp_path: Path) -> None:
    assert stat.S_IMODE((desk.directory / "keys.storage-key").stat().st_mode) == 0o600
    run("encrypt", "-m", MODEL, "-k", desk.keys, "-i", desk.table, "-o", tmp_path / "i")
    run(
        "infer",
        "-m",
        MODEL,
        "--key",
        desk.keys / f"{desk.id}.key",
        "-i",
        tmp_path / "i",
        "-o",
        tmp_path / "o",
        "--signer",
        SIGNER,
    )
    assert run("decrypt", "-m", MODEL, "-k", desk.keys, "-i", tmp_path / "o", "-o", tmp_path / "p.csv").exit_code == 0
    assert stat.S_IMODE((tmp_path / "p.csv").stat().st_mode) == 0o600


def test_the_keys_are_listed_and_erased(desk: Desk, tmp_path: Path) -> None:
    made = run("keygen", "-m", MODEL, "-k", tmp_path / "keys", "--signer", SIGNER).output.split()[3]
    assert run("keys", "list", "-k", tmp_path / "keys").output.startswith(f"{made}  20")
    assert run("keys", "erase", made, "-k", tmp_path / "keys").exit_code == 0
    assert run("keys", "list", "-k", tmp_path / "keys").output == ""
    status, told = refused("keys", "erase", made, "-k", tmp_path / "keys")
    assert (status, "no secret key" in told) == (78, True)


def test_a_bundle_is_shown_with_its_ranges_and_its_signer() -> None:
    told = run("inspect", MODEL).output
    for line in (
        f"hash       {bundle('logistic').hash}",
        SIGNER,
        "mean-radius: 6 to 29",
        "128 bits, errors below 2^-40",
        "benign",
    ):
        assert line in told
    assert "compare it" in told
    assert "compare it" not in run("inspect", MODEL, "--signer", SIGNER).output


def test_a_bundle_as_json_is_its_manifest() -> None:
    told = json.loads(run("inspect", MODEL, "--json").output)
    assert told["hash"] == bundle("logistic").hash
    assert told["model"]["output"]["labels"] == ["malignant", "benign"]


def test_whose_models_are_trusted_has_to_be_said() -> None:
    status, told = refused("keygen", "-m", MODEL, "-k", "nowhere")
    assert (status, "--signer" in told) == (2, True)


def test_another_signer_is_refused_with_the_one_that_signed() -> None:
    status, told = refused("keygen", "-m", MODEL, "-k", "nowhere", "--signer", "0" * 64)
    assert (status, SIGNER in told) == (77, True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda names, rows: (names[1:], [row[1:] for row in rows]), "mean-radius"),
        (lambda names, rows: (names, [[1000.0, *rows[0][1:]]]), "sample 1: feature 'mean-radius'"),
        (lambda names, rows: (names, [["high", *rows[0][1:]]]), "bad.csv:2"),
        (lambda names, rows: (names, []), "no samples"),
        (lambda names, rows: (names, [rows[0][:3]]), "bad.csv:2"),
    ],
)
def test_samples_that_do_not_fit_are_refused_by_place(desk: Desk, tmp_path: Path, change: object, why: str) -> None:
    assert callable(change)
    names = [feature.name for feature in bundle("logistic").model.input.features]
    write_table(tmp_path / "bad.csv", *change(names, ROWS["inputs"][:1]))
    status, told = refused("encrypt", "-m", MODEL, "-k", desk.keys, "-i", tmp_path / "bad.csv", "-o", tmp_path / "x")
    assert (status, why in told) == (78, True), told
    assert not (tmp_path / "x").exists()


def test_a_result_for_another_model_is_refused(desk: Desk, tmp_path: Path) -> None:
    run("encrypt", "-m", MODEL, "-k", desk.keys, "-i", desk.table, "-o", tmp_path / "input.enc")
    status, told = refused("decrypt", "-m", MODEL, "-k", desk.keys, "-i", tmp_path / "input.enc")
    assert (status, "encrypted result is asked for" in told) == (78, True), told


def test_without_a_workers_python_the_remedy_is_told(desk: Desk, tmp_path: Path) -> None:
    status, told = refused(
        "encrypt", "-m", MODEL, "-k", desk.keys, "-i", desk.table, "-o", tmp_path / "x", "--worker", tmp_path / "python"
    )
    assert (status, "make .venv-fhe" in told) == (78, True), told


def test_a_lost_storage_key_is_not_made_anew(desk: Desk, tmp_path: Path) -> None:
    status, told = refused(
        "encrypt", "-m", MODEL, "-k", desk.keys, "-i", desk.table, "-o", tmp_path / "x", "--storage-key", tmp_path / "lost"
    )
    assert (status, "does not exist" in told) == (77, True)
    assert not (tmp_path / "lost").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--range", "mean-radius"],
        ["--range", "mean-radius=low:high"],
        ["--unit", "cm"],
        ["--hidden", "many"],
        ["--hidden", "0"],
    ],
)
def test_a_training_option_that_makes_no_sense_is_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from pki.files import write_private_key

    write_private_key(tmp_path / "owner.key", ec.generate_private_key(ec.SECP256R1()), force=False)
    owner, target = str(tmp_path / "owner.key"), str(tmp_path / "x.bundle")
    common = ["train", "iris", "--recipe", "mlp", "--id", "x", "--key", owner, "-o", target]
    status, told = refused(*common, *arguments)
    assert (status, arguments[0] in told or arguments[1] in told) == (2, True), told
