"""The models that a service offers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fhe.bundle import Bundle
from fhe.errors import STATUS, InputError, Refused
from fhe.registry import Registry
from fhe.signature import make_signer
from tests.fhe.house import DESCRIPTION, TRUST, make_up


def test_bundles_are_found_by_id_and_by_hash(tmp_path: Path) -> None:
    (tmp_path / "any-name.bundle").write_bytes(make_up())
    (tmp_path / "notes.txt").write_text("not a bundle")
    registry = Registry.load(tmp_path, TRUST)
    found = registry.get("made-up")
    assert found is not None
    assert registry.get(found.hash) is found
    assert registry.get("other") is None
    assert registry.problems == {}


def test_one_bad_bundle_keeps_no_other_away_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.bundle").write_bytes(b"garbage")
    stranger = make_signer(ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "b.bundle").write_bytes(Bundle.open(make_up(), TRUST).signed_again(stranger))
    (tmp_path / "c.bundle").write_bytes(make_up())
    registry = Registry.load(tmp_path, TRUST)
    assert list(registry.models) == ["made-up"]
    assert {path.name for path in registry.problems} == {"a.bundle", "b.bundle"}
    assert "not trusted" in registry.problems[tmp_path / "b.bundle"]


def test_two_models_with_one_id_are_not_both_offered(tmp_path: Path) -> None:
    (tmp_path / "a.bundle").write_bytes(make_up())
    (tmp_path / "b.bundle").write_bytes(make_up(msgspec.structs.replace(DESCRIPTION, title="Another")))
    registry = Registry.load(tmp_path, TRUST)
    assert len(registry.models) == 1
    assert "taken" in registry.problems[tmp_path / "b.bundle"]


def test_a_model_that_was_replaced_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a.bundle").write_bytes(make_up())
    old = Registry.load(tmp_path, TRUST).models["made-up"].hash
    (tmp_path / "a.bundle").write_bytes(make_up(msgspec.structs.replace(DESCRIPTION, title="Newer")))
    registry = Registry.load(tmp_path, TRUST)
    assert registry.current("made-up", registry.models["made-up"].hash).model.title == "Newer"
    with pytest.raises(Refused) as caught:
        registry.current("made-up", old)
    assert STATUS[caught.value.why] == 410
    with pytest.raises(Refused) as caught:
        registry.current("other", old)
    assert STATUS[caught.value.why] == 404


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="models"):
        Registry.load(tmp_path / "models", TRUST)
