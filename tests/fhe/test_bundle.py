"""What is a bundle, what is not, and what a client gets of it."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fhe.bundle import Audience, Bundle, Feature, Input, Security, make_bundle
from fhe.errors import BundleError, InputError, SignerError
from fhe.quantiser import read_quantiser
from fhe.signature import make_signer, trust_fingerprints
from tests.fhe.house import DATA, DESCRIPTION, KEY, QUANTISER, SIGN, SIGNER, TRUST, bundle, make_up

WEIGHTS = b"1 2 3"
WHOLE = make_up(weights_bin=(Audience.SERVER, WEIGHTS))
NAMES = ("logistic", "xgboost", "stumps", "iris", "diabetes")


def rewritten(data: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """The zip file with its members changed, by somebody without the owner's key."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return out.getvalue()


def with_manifest(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A bundle whose owner has signed a manifest of its own making."""

    def forge(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        change(manifest)
        members["manifest.json"] = json.dumps(manifest).encode()
        members["signature.json"] = msgspec.json.encode(SIGN(members["manifest.json"]))

    return rewritten(WHOLE, forge)


def test_the_hash_is_the_manifests_and_parts_come_back() -> None:
    opened = Bundle.open(WHOLE, TRUST)
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        assert opened.hash == hashlib.sha256(archive.read("manifest.json")).hexdigest()
    assert opened.part("weights.bin") == WEIGHTS
    assert opened.model == DESCRIPTION


def test_a_bundle_in_a_file_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "m.bundle").write_bytes(WHOLE)
    assert Bundle.open(tmp_path / "m.bundle", TRUST).hash == Bundle.open(WHOLE, TRUST).hash


def test_a_client_gets_the_same_model_without_what_is_the_services() -> None:
    whole = Bundle.open(WHOLE, TRUST)
    client = Bundle.open(whole.client(), TRUST)
    assert client.hash == whole.hash
    assert WEIGHTS not in whole.client()
    assert not client.has("weights.bin")
    assert client.part("quantiser.json") == QUANTISER
    with pytest.raises(BundleError, match="service's"):
        client.part("weights.bin")


@pytest.mark.parametrize("name", NAMES)
def test_no_committed_bundle_tells_its_client_the_circuit(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle(name).client())) as archive:
        assert sorted(archive.namelist()) == ["manifest.json", "program.json", "quantiser.json", "signature.json"]


@pytest.mark.parametrize("name", NAMES)
def test_committed_bundles_are_small_and_name_no_directory_of_a_machine(name: str) -> None:
    assert (DATA / f"{name}.bundle").stat().st_size < 16_000
    with zipfile.ZipFile(DATA / f"{name}.bundle") as archive:
        for member in archive.namelist():
            assert b".venv" not in archive.read(member), member


def test_an_altered_manifest_breaks_the_signature() -> None:
    def better(members: dict[str, bytes]) -> None:
        members["manifest.json"] = members["manifest.json"].replace(b'"made-up"', b'"made-us"')

    with pytest.raises(SignerError, match="altered"):
        Bundle.open(rewritten(WHOLE, better), TRUST)


def test_an_altered_part_is_not_read() -> None:
    def worse(members: dict[str, bytes]) -> None:
        members["weights.bin"] = b"3 2 1"

    opened = Bundle.open(rewritten(WHOLE, worse), TRUST)
    with pytest.raises(BundleError, match="not what its manifest says"):
        opened.part("weights.bin")


def test_only_a_trusted_signer_is_believed() -> None:
    other = make_signer(ec.generate_private_key(ec.SECP256R1()))
    again = Bundle.open(WHOLE, TRUST).signed_again(other)
    with pytest.raises(SignerError, match=other(b"").fingerprint):
        Bundle.open(again, TRUST)
    assert Bundle.open(again, trust_fingerprints(other(b"").fingerprint)).hash == Bundle.open(WHOLE, TRUST).hash


def test_a_signature_of_something_else_is_none() -> None:
    def swap(members: dict[str, bytes]) -> None:
        members["signature.json"] = msgspec.json.encode(SIGN(b"another manifest"))

    with pytest.raises(SignerError):
        Bundle.open(rewritten(WHOLE, swap), TRUST)


def test_a_curve_other_than_p256_is_refused() -> None:
    with pytest.raises(SignerError, match="P-256"):
        make_signer(ec.generate_private_key(ec.SECP384R1()))


@pytest.mark.parametrize(
    "data",
    [b"", b"not a zip", WHOLE[: len(WHOLE) // 2], pickle.dumps({"model": 1}), b"PK\x05\x06" + bytes(18)],
    ids=["empty", "text", "truncated", "pickle", "empty zip"],
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        Bundle.open(data, TRUST)


def test_every_prefix_of_a_bundle_is_refused() -> None:
    for end in range(0, len(WHOLE) - 1, 7):
        with pytest.raises(BundleError):
            Bundle.open(WHOLE[:end], TRUST)


def test_a_file_that_the_manifest_does_not_name_is_refused() -> None:
    with pytest.raises(BundleError, match="does not name"):
        Bundle.open(rewritten(WHOLE, lambda members: members.update({"../evil": b"x"})), TRUST)


def test_a_missing_part_of_the_clients_is_refused() -> None:
    with pytest.raises(BundleError, match="quantiser"):
        Bundle.open(rewritten(WHOLE, lambda members: members.pop("quantiser.json")), TRUST)


def test_a_part_larger_than_its_manifest_says_is_not_unpacked() -> None:
    bomb = rewritten(WHOLE, lambda members: members.update({"weights.bin": bytes(10_000_000)}))
    with pytest.raises(BundleError, match="larger than it may be"):
        Bundle.open(bomb, TRUST).part("weights.bin")


def test_a_bundle_that_was_replaced_after_it_was_trusted_is_refused(tmp_path: Path) -> None:
    trusted = Bundle.open(WHOLE, TRUST)
    (tmp_path / "m.bundle").write_bytes(make_up())
    with pytest.raises(BundleError, match="was"):
        Bundle.open_known(tmp_path / "m.bundle", trusted.hash)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda manifest: manifest.update(format=2), "format 2"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest["model"].update(id="Nice Model"), "an id has"),
        (lambda manifest: manifest["model"].update(backend="enigma"), "enigma"),
        (lambda manifest: manifest["model"]["security"].update(bits=80), "fewer than 128 bits"),
        (lambda manifest: manifest["model"]["security"].update(p_error_log2=-10), "errors above"),
        (lambda manifest: manifest["model"]["security"].update(p_error_log2=0), "errors above"),
        (lambda manifest: manifest["model"]["input"].update(shape=[3]), "features: one for each"),
        (lambda manifest: manifest["model"]["input"].update(shape=[2, 0]), "shape"),
        (lambda manifest: manifest["model"]["input"]["features"][0].update(low=200), "low is below high"),
        (lambda manifest: manifest["model"]["output"].update(labels=["a", "b", "c"]), "labels"),
        (lambda manifest: manifest["model"]["sizes"]["input"].update(least=11), "sizes"),
        (lambda manifest: manifest["parts"]["weights.bin"].update(size=2**40), "larger than"),
        (lambda manifest: manifest["parts"].update({"../up.bin": manifest["parts"]["weights.bin"]}), "no name of a part"),
        (lambda manifest: manifest["parts"].pop("quantiser.json"), "quantiser.json among them"),
    ],
)
def test_a_signed_manifest_that_makes_no_sense_is_refused_with_the_rule(change: Callable[[Any], object], why: str) -> None:
    with pytest.raises(BundleError, match=why):
        Bundle.open(with_manifest(change), TRUST)


def test_weak_parameters_are_not_even_signed() -> None:
    weak = msgspec.structs.replace(DESCRIPTION, security=Security(bits=128, p_error_log2=-20))
    with pytest.raises(InputError, match="errors above"):
        make_up(weak)


def test_a_range_without_an_end_is_not_signed() -> None:
    endless = Input(shape=(1,), features=(Feature(name="x", low=0, high=float("inf")),))
    with pytest.raises(InputError):
        make_up(msgspec.structs.replace(DESCRIPTION, input=endless))


@pytest.mark.parametrize(
    "quantiser",
    [
        pickle.dumps({"scale": 1}),
        b'{"py/object": "os.system"}',
        QUANTISER.replace(b"0.5", b"0.0"),
        QUANTISER.replace(b'"high": 2', b'"high": -3'),
        QUANTISER.replace(b"[0.25]", b"[1, 2, 3]"),
        QUANTISER.replace(b'"integers"', b'"pickle"'),
    ],
)
def test_a_quantiser_is_plain_json_that_makes_sense(quantiser: bytes) -> None:
    data = make_bundle(DESCRIPTION, {"quantiser.json": (Audience.CLIENT, quantiser)}, SIGN)
    with pytest.raises(BundleError):
        read_quantiser(Bundle.open(data, TRUST))


def test_making_a_bundle_twice_gives_the_same_model() -> None:
    once, twice = (Bundle.open(make_up(weights_bin=(Audience.SERVER, WEIGHTS)), TRUST) for _ in range(2))
    assert once.hash == twice.hash


def test_the_fingerprint_is_that_of_openssl() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert SIGN(b"x").fingerprint == hashlib.sha256(der).hexdigest()
    assert bundle("logistic").signature.fingerprint == SIGNER
