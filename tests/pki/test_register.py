"""The register only grows, outlives a crash in the middle of a line, and says when it is damaged."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.errors import IdentityError
from pki.register import Book, Entry, Granted, Issued, Listed, Register, Revoked, Withdrawn
from tests.pki.forge import NOW

ALICE = Issued(
    at=NOW, serial="a1", identity="spiffe://demo/patient/alice", days=30, not_after=NOW + 9, key="k", certificate=b"\1\2"
)
BOB = Issued(
    at=NOW, serial="b2", identity="spiffe://demo/patient/bob", days=30, not_after=NOW, key="l", token="t1", certificate=b"\3"
)
EVERY: list[Entry] = [
    ALICE,
    Granted(at=NOW, token="t1", identity=BOB.identity, dns=("b.example",), ips=(), days=30, expires=NOW + 60),
    Granted(at=NOW, token="t2", identity=BOB.identity, dns=(), ips=("::1",), days=30, expires=NOW + 60),
    Granted(at=NOW, token="t3", identity=BOB.identity, dns=(), ips=(), days=30, expires=NOW + 60),
    BOB,
    Withdrawn(at=NOW, token="t2"),
    Revoked(at=NOW, serial="a1", reason="superseded"),
    Listed(at=NOW, number=1, this_update=NOW, next_update=NOW + 1),
]


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path / "register.jsonl")


def write(register: Register, *entries: Entry) -> None:
    with register.locked() as book:
        book.append(*entries)


def test_what_was_written_is_read(register: Register) -> None:
    for entry in EVERY:
        write(register, entry)
    records = register.read()
    assert records.issued == {"a1": ALICE, "b2": BOB}
    assert records.revoked == {"a1": EVERY[6]}
    assert list(records.granted) == ["t1", "t2", "t3"]
    assert records.used == {"t1": BOB}
    assert [entry.token for entry in records.open_tokens(NOW + 60)] == ["t3"]
    assert records.open_tokens(NOW + 61) == []
    assert records.lists == [EVERY[7]]
    assert records.newest(ALICE.identity) == ALICE
    assert records.newest("spiffe://demo/patient/carol") is None
    assert [json.loads(line)["kind"] for line in register.path.read_text().splitlines()[:2]] == ["issued", "token"]


def test_the_newest_is_the_one_issued_last(register: Register) -> None:
    again = Issued(at=NOW - 5, serial="c", identity=ALICE.identity, days=1, not_after=NOW, key="k", certificate=b"")
    write(register, ALICE, BOB, again)
    assert register.read().newest(ALICE.identity) == again


def test_an_empty_register_reads_as_one_that_is_not_there(register: Register) -> None:
    assert register.read().issued == {}
    assert not register.path.exists()
    with register.locked() as book:
        assert book.records.issued == {}
    assert register.read().issued == {}


@given(length=st.integers(1, 400))
def test_a_line_that_a_crash_cut_off_costs_itself_alone(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    register = Register(tmp_path_factory.mktemp("crash") / "register.jsonl")
    write(register, ALICE)
    whole = register.path.read_bytes()
    write(register, BOB)
    added = register.path.read_bytes()[len(whole) :]
    kept = added[: length % len(added)]
    register.path.write_bytes(whole + kept)
    got_it = kept == added[:-1]  # only the line end is missing
    expected = {"a1", "b2"} if got_it else {"a1"}
    assert set(register.read().issued) == expected
    assert register.read().torn == ([2] if kept and not got_it else [])
    write(register, EVERY[6])
    records = register.read()
    assert set(records.issued) == expected
    assert set(records.revoked) == {"a1"}
    assert register.path.read_bytes().startswith(whole + kept), "nothing is ever taken away"


def test_a_crash_that_left_zeros_and_a_crash_while_mending_are_survived(register: Register) -> None:
    write(register, ALICE)
    with register.path.open("ab") as file:
        file.write(bytes(100))
    assert register.read().torn == [2]
    with register.path.open("ab") as file:
        file.write(b"\n")  # the mender came no further
    assert register.read().torn == [2]
    write(register, BOB)
    write(register, EVERY[6])
    records = register.read()
    assert (set(records.issued), set(records.revoked), records.torn) == ({"a1", "b2"}, {"a1"}, [2])


@given(first=st.integers(1, 100), second=st.integers(0, 400), zeros=st.integers(0, 3))
def test_crash_after_crash_costs_nothing_that_was_handed_out(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int, zeros: int
) -> None:
    register = Register(tmp_path_factory.mktemp("crash") / "register.jsonl")
    write(register, ALICE)
    with register.path.open("ab") as file:
        file.write(b'{"kind":"revoked","at":1767225600,"serial":"a1","reason":"superseded"'[:first])
    cut = register.path.read_bytes()
    write(register, BOB)  # closes the cut line, and is cut off itself
    mended = register.path.read_bytes()[len(cut) :]
    register.path.write_bytes(cut + mended[: second % len(mended)] + bytes(zeros))
    assert "a1" in register.read().issued
    write(register, EVERY[7])
    records = register.read()
    assert records.lists == [EVERY[7]]
    assert "a1" in records.issued


def test_two_broken_lines_that_no_crash_leaves_are_said(register: Register) -> None:
    write(register, ALICE)
    with register.path.open("ab") as file:
        file.write(b'{"kind":"iss\n{"kind":"issued","at":')
    with pytest.raises(IdentityError, match="line 2, is damaged"):
        register.read()


def test_damage_in_the_middle_is_said_with_its_line(register: Register) -> None:
    write(register, ALICE, BOB, EVERY[6])
    lines = register.path.read_bytes().splitlines(keepends=True)
    register.path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    with pytest.raises(IdentityError, match=r"register\.jsonl, line 2, is damaged, and not by a crash; restore the file"):
        register.read()
    register.path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2][:20])
    with pytest.raises(IdentityError, match="line 2, is damaged"), register.locked():
        pass


@pytest.mark.parametrize("line", ['{"kind":"audit","at":1}', '{"kind":"withdrawn","at":1,"token":"t","by":"x"}', "[]"])
def test_a_line_of_a_newer_version_is_not_taken_for_a_crash(register: Register, line: str) -> None:
    write(register, ALICE)
    with register.path.open("a") as file:
        file.write(line + "\n")
    before = register.path.read_bytes()
    with pytest.raises(IdentityError, match="line 2, is not understood; a newer version may have written it"), register.locked():
        pass
    assert register.path.read_bytes() == before


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_said_and_nothing_counts(register: Register, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write(register, ALICE)

    def full(*_arguments: object) -> int:
        if call == "write":
            return 7  # as the kernel does when seven bytes were left
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with register.locked() as book:
        monkeypatch.setattr(os, call, full)
        with pytest.raises(IdentityError, match=r"cannot write .*register\.jsonl: No space left on device"):
            book.append(BOB)
        assert set(book.records.issued) == {"a1"}


def test_writers_wait_for_each_other_and_readers_for_them(register: Register) -> None:
    import fcntl

    def is_free(kind: int) -> bool:
        with register.path.open("rb") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with register.locked() as book:
        assert isinstance(book, Book)
        assert not is_free(fcntl.LOCK_EX)
        assert not is_free(fcntl.LOCK_SH)
    assert is_free(fcntl.LOCK_EX)
