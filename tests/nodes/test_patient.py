"""The patient's daemon: its policy is its configuration's, its sources fail in private."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from mpc.disclosure import Bounds, Categories, Policy
from mpc.errors import DataError
from mpc.identity import Identity, Role
from mpc.rounds.events import ValuesRead, ValuesUnavailable
from nodes.config import PatientConfig, Vouched, check_patient, with_values
from nodes.patient import PatientDaemon
from nodes.sources import SourceConfig
from nodes.sources.base import Source, Wanted
from nodes.sources.literal import LiteralValues
from nodes.store.audit import AuditEvent, audit_line
from tests.mpc.nodes import CONSORTIUM, patient, study
from tests.nodes.house import Site, make_site, short_directory

ASKED = study("alice", "bob", "charlie")
SECRET = 725


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with short_directory() as directory:
        yield make_site(directory, {"alice": SECRET, "bob": 310, "charlie": 540})


@pytest.fixture
def config(site: Site) -> PatientConfig:
    return check_patient(site.patients["alice"])


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


def changed(config: PatientConfig, **policy: Any) -> PatientConfig:
    return msgspec.structs.replace(config, policy=msgspec.structs.replace(config.policy, **policy))


def test_the_policy_is_the_configurations(config: PatientConfig) -> None:
    digest = "ab" * 32
    daemon = PatientDaemon(
        changed(
            config,
            studies=("pressure-*", "weight"),
            floor=4,
            vouched=Vouched(members=("bob", "dora"), authorities=(f"sha256:{digest}",)),
            max_length=10,
            max_members=20,
            max_open_rounds=30,
            invitations_per_minute=40,
            statistics=("mean", "h*"),
            records=50,
        )
    )
    assert daemon.policy == Policy(
        hospital=Identity(CONSORTIUM, Role.HOSPITAL, "general"),
        sources={"value": Bounds(0, 1_000_000)},
        studies=("pressure-*", "weight"),
        floor=4,
        vouched_members=frozenset({patient("bob"), patient("dora")}),
        vouched_authorities=frozenset({bytes.fromhex(digest)}),
        max_length=10,
        max_members=20,
        max_open_rounds=30,
        invitations_per_minute=40,
        statistics=("mean", "h*"),
        records=50,
    )


def test_the_policy_knows_what_sources_declare(config: PatientConfig) -> None:
    sources = {
        "sex": SourceConfig(categories=("female", "male"), literal=LiteralValues("male")),
        "weight": SourceConfig(bounds=(0.5, 300), literal=LiteralValues(80)),
    }
    assert PatientDaemon(msgspec.structs.replace(config, sources=sources)).policy.sources == {
        "sex": Categories(frozenset({"female", "male"})),
        "weight": Bounds(Fraction(1, 2), Fraction(300), whole=False),
    }


def test_the_defaults_of_configuration_and_protocol_are_the_same(config: PatientConfig) -> None:
    policy = PatientDaemon(config).policy
    plain = Policy(policy.hospital, policy.sources, vouched_members=policy.vouched_members)
    assert policy == plain


def test_status_says_what_the_floor_rests_on(config: PatientConfig) -> None:
    status = PatientDaemon(config).status()
    assert (status["open_rounds"], status["assumption"]) == (0, "at least 3 members are real because this policy names them")
    by_authority = PatientDaemon(changed(config, vouched=Vouched(authorities=("sha256:" + "00" * 32,))))
    assert str(by_authority.status()["assumption"]).endswith("if the hospital runs one of them, it can invent members")


def test_addresses_are_the_configurations_before_the_announced_ones(config: PatientConfig) -> None:
    daemon = PatientDaemon(msgspec.structs.replace(config, peers={"bob": "https://10.0.0.2:7002"}))
    assert daemon.resolve(Identity(CONSORTIUM, Role.HOSPITAL, "general"), "https://evil:1") == config.hospital.url
    assert daemon.resolve(patient("bob"), "https://announced:1") == "https://10.0.0.2:7002"
    assert daemon.resolve(patient("charlie"), "https://announced:1") == "https://announced:1"


def test_values_are_read_from_the_sources(config: PatientConfig, logged: list[Any]) -> None:
    event = PatientDaemon(config).read_sources(ASKED)
    assert isinstance(event, ValuesRead)
    assert {name: values.tolist() for name, values in event.values.items()} == {"value": [SECRET]}
    assert str(SECRET) not in repr(event)
    assert logged == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1000001", "variable value: its literal: value 1 of 1 is above its bound 1000000"),
        ("-1", "is below its minimum 0"),
    ],
)
def test_a_value_outside_its_bounds_is_unavailable_and_not_logged(
    value: str, said: str, config: PatientConfig, logged: list[Any]
) -> None:
    daemon = PatientDaemon(with_values(config, [value]))
    assert daemon.read_sources(ASKED) == ValuesUnavailable()
    (entry,) = logged
    assert (entry["event"], entry["log_level"], entry["study"]) == ("source-failed", "warning", "pressure")
    assert said in entry["reason"]
    assert value not in entry["reason"].replace("1000000;", "")


def test_another_length_is_unavailable(config: PatientConfig, logged: list[Any]) -> None:
    asked = study("alice", "bob", "charlie", length=2)
    assert PatientDaemon(config).read_sources(asked) == ValuesUnavailable()
    assert "the study asks for 2 values" in logged[0]["reason"]
    assert str(SECRET) not in str(logged)


class Broken:
    """A reader that fails as somebody else's service might."""

    place = "somewhere"

    def __init__(self, error: Exception) -> None:
        self.error = error

    @classmethod
    def read(cls, asked: Sequence[tuple[Broken, Wanted]]) -> Any:
        raise asked[0][0].error


@pytest.mark.parametrize(
    "error",
    [ValueError(f"cannot parse {SECRET}"), OSError(5, "Input/output error"), MemoryError(), KeyError(SECRET), RecursionError()],
)
def test_any_error_of_a_source_is_unavailable_and_logged_by_its_place(
    error: Exception, config: PatientConfig, logged: list[Any]
) -> None:
    daemon = PatientDaemon(config)
    daemon.sources["value"] = Source("value", Bounds(0, 10), Broken(error))
    assert daemon.read_sources(ASKED) == ValuesUnavailable()
    (entry,) = logged
    assert (entry["event"], entry["log_level"], entry["reason"]) == ("source-failed", "error", type(error).__name__)
    assert "test_patient.py:" in entry["place"]
    assert str(SECRET) not in str(logged)


def test_a_data_error_names_the_rule(config: PatientConfig, logged: list[Any]) -> None:
    daemon = PatientDaemon(config)
    daemon.sources["value"] = Source("value", Bounds(0, 10), Broken(DataError("variable value: data.csv:3: is empty")))
    assert daemon.read_sources(ASKED) == ValuesUnavailable()
    assert logged[0]["reason"] == "variable value: data.csv:3: is empty"


def test_a_variable_without_a_source_is_unavailable(config: PatientConfig, logged: list[Any]) -> None:
    daemon = PatientDaemon(msgspec.structs.replace(config, sources={}))
    assert daemon.read_sources(ASKED) == ValuesUnavailable()
    assert logged[0]["event"] == "source-failed"


def test_a_source_is_read_anew_for_every_round(config: PatientConfig, tmp_path: Path) -> None:
    table = tmp_path / "values.csv"
    table.write_text("value\n1\n")
    file = tmp_path / "alice.yaml"
    site_text = Path(config.identity.key).with_name("alice.yaml").read_text()
    text = site_text.replace(f"literal: {SECRET}", f"csv: {{file: {table}, column: value}}")
    file.write_text(
        text.replace("alice.key", str(config.identity.key))
        .replace("alice.crt", str(config.identity.certificate))
        .replace("ca/ca.crt", str(config.identity.authorities[0]))
    )
    daemon = PatientDaemon(check_patient(file))

    def read() -> list[int]:
        event = daemon.read_sources(ASKED)
        assert isinstance(event, ValuesRead)
        values: list[int] = event.values["value"].tolist()
        return values

    assert read() == [1]
    table.write_text("value\n2\n")
    assert read() == [2]


def test_nothing_of_a_patient_prints_its_value(config: PatientConfig) -> None:
    daemon = PatientDaemon(config)
    for shown in (daemon, daemon.config, daemon.sources, daemon.policy, daemon.status()):
        assert str(SECRET) not in repr(shown)


async def test_invitations_before_a_restart_count_against_the_limit(config: PatientConfig) -> None:
    daemon, now = PatientDaemon(config), time.time()
    await daemon.open()
    said = ((90, AuditEvent.CONSENTED), (30, AuditEvent.DECLINED), (10, AuditEvent.CONSENTED), (5, AuditEvent.SUBMITTED))
    await daemon.store.record([audit_line(now - ago, event, "pulse") for ago, event in said])
    await daemon.recall()
    await daemon.store.close()
    assert daemon.ledger.invitations_since(now - 60) == 2
