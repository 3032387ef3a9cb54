"""Evaluation keys that arrive at a service: what is taken, what is refused with which status, and what is left behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from fhe.bundle import Bundle
from fhe.envelope import Header, write_header
from fhe.errors import STATUS, InputError, Refused
from fhe.shelf import Limits, Shelf
from tests.fhe.house import DESCRIPTION, TRUST, make_up

MODEL = Bundle.open(make_up(), TRUST)
OTHER = Bundle.open(make_up(msgspec.structs.replace(DESCRIPTION, id="other")), TRUST)
ID, ID2 = "a" * 32, "b" * 32
PAYLOAD = bytes(range(100))
NOW = 1_000_000.0


def sent(bundle: Bundle = MODEL, key: str = ID, payload: bytes = PAYLOAD) -> bytes:
    """What a client sends."""
    digest = hashlib.sha256(payload).hexdigest()
    header = Header(kind="key", backend="concrete", model=bundle.hash, key=key, sizes=(len(payload),), sha256=digest)
    return write_header(header) + payload


def deliver(shelf: Shelf, data: bytes, *, owner: str = "ann", name: str = "", now: float = NOW, piece: int = 7) -> None:
    sha256 = name or hashlib.sha256(data).hexdigest()
    with shelf.receive(MODEL, sha256, owner, now) as arrival:
        for at in range(0, len(data), piece):
            arrival.feed(data[at : at + piece])
        arrival.finish()
        arrival.keep()


def status(shelf: Shelf, data: bytes, **options: object) -> int:
    with pytest.raises(Refused) as caught:
        deliver(shelf, data, **options)  # type: ignore[arg-type]  # passed on
    return STATUS[caught.value.why]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, Limits(per_owner=250, total=350, age=100))


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_a_key_is_kept_without_its_header_and_found_by_its_owner(shelf: Shelf) -> None:
    deliver(shelf, sent())
    key = shelf.find(MODEL.hash, ID, "ann", NOW)
    assert key.path.read_bytes() == PAYLOAD
    assert (key.id, key.size) == (ID, len(PAYLOAD))


@pytest.mark.parametrize("piece", [1, 64, 100_000])
def test_it_may_arrive_in_any_pieces(shelf: Shelf, piece: int) -> None:
    deliver(shelf, sent(), piece=piece)
    assert shelf.find(MODEL.hash, ID, "ann", NOW).path.read_bytes() == PAYLOAD


def test_a_shelf_that_is_opened_again_has_its_keys(shelf: Shelf, tmp_path: Path) -> None:
    deliver(shelf, sent())
    again = Shelf(tmp_path, shelf.limits)
    assert again.kept() == shelf.kept()
    assert again.find(MODEL.hash, ID, "ann", NOW).size == len(PAYLOAD)


def test_nobody_elses_key_is_found(shelf: Shelf) -> None:
    deliver(shelf, sent())
    with pytest.raises(Refused) as caught:
        shelf.find(MODEL.hash, ID, "bob", NOW)
    assert STATUS[caught.value.why] == 404


def test_a_foreign_key_is_a_conflict_before_its_payload_is_taken(shelf: Shelf, tmp_path: Path) -> None:
    data = sent(OTHER)
    with shelf.receive(MODEL, hashlib.sha256(data).hexdigest(), "ann", NOW) as arrival:
        with pytest.raises(Refused) as caught:
            arrival.feed(data[: -len(PAYLOAD)])
        assert STATUS[caught.value.why] == 409
    assert files(tmp_path) == []


def test_a_truncated_a_lengthened_and_an_altered_key_are_unprocessable(shelf: Shelf, tmp_path: Path) -> None:
    data = sent()
    for wrong in (data[:-1], data[:20], b"", data + b"\0", data[:-1] + b"\0"):
        assert status(shelf, wrong) == 422
    assert status(shelf, b"not a key of any kind, but long enough to tell") == 422
    assert files(tmp_path) == []
    assert shelf.kept() == []


def test_a_key_that_is_not_the_one_that_its_name_says_is_unprocessable(shelf: Shelf) -> None:
    assert status(shelf, sent(), name="0" * 64) == 422


def test_a_key_larger_than_any_of_the_models_is_too_large(shelf: Shelf) -> None:
    assert status(shelf, sent(payload=bytes(DESCRIPTION.sizes.key + 1))) == 413


def test_an_owner_and_the_whole_service_have_their_quotas(shelf: Shelf) -> None:
    deliver(shelf, sent())
    deliver(shelf, sent(key=ID2))
    assert status(shelf, sent(key="c" * 32)) == 413  # 300 bytes of ann's 250
    deliver(shelf, sent(key="c" * 32), owner="bob")
    assert status(shelf, sent(key="d" * 32), owner="bob") == 413  # 400 bytes of the service's 350


def test_a_key_that_is_sent_again_replaces_itself(shelf: Shelf, tmp_path: Path) -> None:
    for _ in range(5):
        deliver(shelf, sent())
    assert len(shelf.kept()) == 1
    assert len(files(tmp_path)) == 2


def test_an_id_that_is_somebody_elses_is_a_conflict(shelf: Shelf) -> None:
    deliver(shelf, sent())
    assert status(shelf, sent(), owner="mallory") == 409
    assert shelf.find(MODEL.hash, ID, "ann", NOW).size == len(PAYLOAD)


def test_an_old_key_is_gone(shelf: Shelf, tmp_path: Path) -> None:
    deliver(shelf, sent())
    with pytest.raises(Refused) as caught:
        shelf.find(MODEL.hash, ID, "ann", NOW + 101)
    assert STATUS[caught.value.why] == 410
    assert [one.key for one in shelf.expire(NOW + 101, {MODEL.hash})] == [ID]
    assert files(tmp_path) == []


def test_keys_of_models_that_are_no_longer_offered_are_erased(shelf: Shelf) -> None:
    deliver(shelf, sent())
    assert shelf.expire(NOW, {MODEL.hash}) == []
    assert [one.key for one in shelf.expire(NOW, {OTHER.hash})] == [ID]


def test_an_erased_key_leaves_no_file(shelf: Shelf, tmp_path: Path) -> None:
    deliver(shelf, sent())
    shelf.erase(MODEL.hash, ID)
    assert files(tmp_path) == []
    shelf.erase(MODEL.hash, ID)


def test_an_arrival_that_breaks_off_leaves_no_file_and_no_key(shelf: Shelf, tmp_path: Path) -> None:
    with shelf.receive(MODEL, "0" * 64, "ann", NOW) as arrival:
        arrival.feed(sent()[:-10])
    assert files(tmp_path) == []


def test_what_a_service_left_half_done_is_cleared_away(shelf: Shelf, tmp_path: Path) -> None:
    deliver(shelf, sent())
    (tmp_path / ".0123.tmp").write_bytes(b"half")
    (tmp_path / f"{MODEL.hash}.{ID2}.json").write_bytes(b"")  # its payload was never named
    assert [one.key for one in Shelf(tmp_path, shelf.limits).kept()] == [ID]
    assert ".0123.tmp" not in files(tmp_path)


def test_a_key_is_not_kept_under_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", Limits())
    with pytest.raises(InputError, match="cannot read"):
        shelf.take(MODEL, tmp_path / "missing.key")
