"""Hospital and patient configurations: the examples load, and each mistake is told with its line and a way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml

from mpc.errors import ConfigError
from mpc.identity import Identity
from nodes.config import (
    AuthorityAddress,
    EncryptionKeyRules,
    EnrolmentConfig,
    HospitalAddress,
    HospitalConfig,
    IdentityFiles,
    LogConfig,
    PatientConfig,
    Policy,
    RelayAddress,
    RelayConfig,
    RelayQuota,
    RevocationRules,
    Trust,
    check_hospital,
    check_patient,
    check_relay,
    identity_of,
)
from nodes.fields import address
from nodes.sources.base import Wanted
from nodes.sources.csv_file import CsvFile
from nodes.studies import load_studies
from nodes.transport.limits import Limits

CONFIG = Path(__file__).parents[2] / "config"
DIGEST = "ab" * 32

PATIENT = """\
consortium: demo.example
name: alice
identity: {key: a.key, certificate: a.pem, authorities: [ca.pem]}
listen: "127.0.0.1:7001"
admin: alice.sock
hospital: {name: general, url: "https://127.0.0.1:7000"}
sources:
  systolic: {bounds: [0, 300], literal: 128}
policy:
  vouched: {members: [bob, charlie]}
trust: {authorities: ["sha256:abababababababababababababababababababababababababababababababab"]}
"""

HOSPITAL = """\
consortium: demo.example
name: general
identity: {key: a.key, certificate: a.pem, authorities: [ca.pem]}
listen: "127.0.0.1:7000"
admin: general.sock
studies: studies
patients:
  alice: https://127.0.0.1:7001
  bob: https://127.0.0.1:7002
  charlie: https://127.0.0.1:7003
"""

STUDY = """\
id: pressure
title: T
purpose: P
variables: [{name: systolic, bounds: [0, 300]}]
statistics: [{kind: sum, variable: systolic}]
cohort:
  members: [alice, bob, charlie]
"""

Problems = Callable[[str], list[str]]


def _problems(path: Path, check: Callable[[Path], object], text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.fixture
def wrong_patient(tmp_path: Path) -> Problems:
    return lambda text: _problems(tmp_path / "alice.yaml", check_patient, text)


@pytest.fixture
def wrong_hospital(tmp_path: Path) -> Problems:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "pressure.yaml").write_text(STUDY)
    return lambda text: _problems(tmp_path / "general.yaml", check_hospital, text)


@pytest.mark.parametrize("name", ["basic", "advanced"])
def test_the_examples_load(name: str) -> None:
    hospital = check_hospital(CONFIG / "hospital" / f"{name}.yaml")
    patient = check_patient(CONFIG / "patient" / f"{name}.yaml")
    assert identity_of(hospital) == Identity.parse("spiffe://demo.example/hospital/general")
    assert identity_of(patient) == Identity.parse("spiffe://demo.example/patient/alice")


def test_the_advanced_examples_show_the_defaults() -> None:
    basic, advanced = (check_hospital(CONFIG / "hospital" / f"{name}.yaml") for name in ("basic", "advanced"))
    assert (advanced.limits, advanced.log) == (basic.limits, basic.log)
    basic_patient, patient = (check_patient(CONFIG / "patient" / f"{name}.yaml") for name in ("basic", "advanced"))
    assert (patient.limits, patient.log) == (basic_patient.limits, basic_patient.log)
    for key in ("floor", "statistics", "max_length", "max_members", "max_open_rounds", "invitations_per_minute"):
        assert getattr(patient.policy, key) == getattr(basic_patient.policy, key)
    for key in ("keep_days", "shutdown_timeout", "retries", "topology", "encryption_keys"):
        assert getattr(advanced, key, None) == getattr(basic, key, None), key
        assert getattr(patient, key, None) == getattr(basic_patient, key, None), key
    relay = check_relay(CONFIG / "relay" / "advanced.yaml")
    for config in (advanced, patient, relay):
        assert msgspec.structs.replace(config.revocation, file=None) == RevocationRules()
    assert advanced.enrolment is not None
    assert advanced.enrolment.list_days == EnrolmentConfig(listen="x:1", authority=Path()).list_days


@pytest.mark.parametrize(("role", "kind"), [("hospital", HospitalConfig), ("patient", PatientConfig), ("relay", RelayConfig)])
def test_the_advanced_examples_show_every_key(role: str, kind: type[msgspec.Struct]) -> None:
    text = (CONFIG / role / "advanced.yaml").read_text(encoding="utf-8")
    shown = yaml.safe_load(re.sub(r"^# (?=[a-z]+: [{h])", "", text, flags=re.MULTILINE))
    assert set(shown) == set(kind.__struct_fields__)
    inside = {
        "identity": IdentityFiles,
        "trust": Trust,
        "authority": AuthorityAddress,
        "revocation": RevocationRules,
        "log": LogConfig,
        **({} if role == "patient" else {"enrolment": EnrolmentConfig}),
        **({"quota": RelayQuota} if role == "relay" else {"encryption_keys": EncryptionKeyRules, "relay": RelayAddress}),
        **({"policy": Policy, "hospital": HospitalAddress} if role == "patient" else {}),
    }
    for key, struct in inside.items():
        assert set(shown[key]) == set(struct.__struct_fields__), key


def test_the_example_studies_load() -> None:
    studies = load_studies(CONFIG / "hospital" / "studies", "demo.example") | load_studies(CONFIG / "studies", "demo.example")
    assert [(name, planned.study.deadline) for name, planned in studies.items()] == [
        ("blood-pressure", 60),
        ("steps", 120),
        ("breast-cancer", 120),
    ]


def test_a_patient_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "alice.yaml"
    path.write_text(PATIENT)
    config = check_patient(path)
    assert isinstance(config, PatientConfig)
    assert config.identity.key == tmp_path / "a.key"
    assert config.identity.authorities == (tmp_path / "ca.pem",)
    assert config.url == "https://127.0.0.1:7001"
    assert (config.policy.studies, config.policy.floor, config.policy.max_length) == (("*",), 3, 2_000_000)
    assert (config.limits, config.log.level, config.log.format) == (Limits(), "info", "auto")
    source = config.sources["systolic"].source("systolic")
    assert source.reader.read([(source.reader, Wanted("systolic", source.declared))])[0] == [128]


def test_a_hospital_is_read_with_its_limits(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    path = tmp_path / "general.yaml"
    path.write_text(HOSPITAL + "limits: {idle_seconds: 5, connections: 9}\n")
    config = check_hospital(path)
    assert isinstance(config, HospitalConfig)
    assert config.limits == Limits(idle_seconds=5.0, connections=9)
    assert config.studies == tmp_path / "studies"


def test_a_patient_is_reached_at_its_endpoint_or_else_where_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "alice.yaml"
    path.write_text(PATIENT.replace("127.0.0.1:7001", "alice.example:7001"))
    assert check_patient(path).url == "https://alice.example:7001"
    path.write_text(PATIENT.replace("127.0.0.1:7001", "0.0.0.0:7001") + "endpoint: https://a.example:9\n")
    assert check_patient(path).url == "https://a.example:9"


def test_a_csv_source_is_relative_to_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "alice.yaml"
    path.write_text(PATIENT.replace("literal: 128", "csv: {file: data/a.csv, row: 2}"))
    assert check_patient(path).sources["systolic"].csv == CsvFile(file=tmp_path / "data/a.csv", row=2)


def test_vouched_digests_are_bytes(tmp_path: Path) -> None:
    path = tmp_path / "alice.yaml"
    path.write_text(PATIENT.replace("{members: [bob, charlie]}", f"{{authorities: ['sha256:{DIGEST}']}}"))
    assert check_patient(path).policy.vouched.digests() == {b"\xab" * 32}


@pytest.mark.parametrize(
    ("text", "expected"), [("127.0.0.1:7001", ("127.0.0.1", 7001)), ("[::1]:80", ("::1", 80)), ("a.b:9", ("a.b", 9))]
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


def test_the_repr_of_a_configuration_has_no_value(tmp_path: Path) -> None:
    path = tmp_path / "alice.yaml"
    path.write_text(PATIENT.replace("literal: 128}", "literal: 73519}\n  made: {bounds: [0, 9], synthetic: {seed: 86420}}"))
    config = check_patient(path)
    for text in (repr(config), str(config), repr(config.sources["systolic"].source("systolic"))):
        assert "73519" not in text
        assert "86420" not in text


COMMON = [
    ('listen: "', '# "', "1: listen: is missing; add it (text)"),
    (
        "demo.example",
        "Demo",
        "1: consortium: 'Demo' is not a consortium; use lower-case letters, digits, '.', '-' and '_'",
    ),
    ("authorities: [ca.pem]", "authorities: []", "3: identity.authorities: has 0 entries; give 1 or more"),
    ("key: a.key, ", "", "3: identity.key: is missing; add it (a path)"),
    (
        "admin: ",
        f"admin: {'x' * 120}",
        "5: admin: is longer than the 107 bytes that a Unix socket may have; shorten the",
    ),
    ("listen: ", "limits: {idle_seconds: 0}\nlisten: ", "4: limits.idle_seconds: must be positive; remove the key"),
    (
        "listen: ",
        "limits: {idle_second: 1}\nlisten: ",
        "4: limits.idle_second: is not a known key; did you mean 'idle_seconds'?",
    ),
    (
        "listen: ",
        "log: {level: loud}\nlisten: ",
        "4: log.level: must be one of debug, error, info, warning; choose one",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), COMMON)
def test_mistakes_that_both_can_make(
    wrong_patient: Problems, wrong_hospital: Problems, old: str, new: str, expected: str
) -> None:
    for wrong, text in ((wrong_patient, PATIENT), (wrong_hospital, HOSPITAL)):
        [problem] = wrong(text.replace(old, new, 1))
        assert problem.startswith(expected)


@pytest.mark.parametrize("listen", ["7001", "127.0.0.1", ":7001", "host:0", "host:65536", "host:x", "a b:1", "::1:70", "h:1/x"])
def test_a_listen_that_is_no_address(wrong_patient: Problems, listen: str) -> None:
    assert wrong_patient(PATIENT.replace("127.0.0.1:7001", listen)) == [
        f"4: listen: {listen!r} is not HOST:PORT; write for instance 127.0.0.1:7001 or '[::1]:7001'"
    ]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:1", "'http://a:1' is not an https URL; write https://HOST:PORT"),
        ("a:1", "'a:1' is not an https URL; write https://HOST:PORT"),
        ("https://a:1/inbox", "'https://a:1/inbox' has a path; write https://HOST:PORT and nothing after the port"),
        ("https://a:1/", "'https://a:1/' has a path"),
        ("https://a:1?q", "'https://a:1?q' has a path"),
        ("https://a:1#f", "'https://a:1#f' has a path"),
        ("https://a", "'https://a' needs a host and a port from 1 to 65535; write https://HOST:PORT"),
        ("https://a:0", "'https://a:0' needs a host and a port"),
        ("https://a:65536", "'https://a:65536' needs a host and a port"),
        ("https://:1", "'https://:1' needs a host and a port"),
        ("https://[::1:1", "is not a URL; write https://HOST:PORT"),
        (
            "https://me:hunter2@a:1",
            "a URL here has no user or password, certificates say who is who; write https://HOST",
        ),
    ],
)
def test_a_url_that_is_not_https_host_and_port(wrong_patient: Problems, url: str, expected: str) -> None:
    [problem] = wrong_patient(PATIENT.replace("https://127.0.0.1:7000", url))
    assert problem.startswith(f"6: hospital.url: {expected}")
    assert "hunter2" not in problem


PATIENT_MISTAKES = [
    (
        "name: alice",
        "name: Alice",
        "2: name: 'Alice' is not a name; use lower-case letters, digits, '.', '-' and '_', at most",
    ),
    ("vouched: {members: [bob, charlie]}", "floor: 3", "9: policy.vouched: is missing; add it (a mapping)"),
    (
        "{members: [bob, charlie]}",
        "{}",
        "10: policy.vouched: names nobody, so a hospital that issues certificates could invent the other members and "
        "learn this patient's value; list members that you know to be real, or authorities independent of the hospital",
    ),
    ("[bob, charlie]", "[bob, Eve]", "10: policy.vouched.members[1]: 'Eve' is not a name"),
    ("vouched: ", "floor: 2\n  vouched: ", "10: policy.floor: is too small; give 3 or more"),
    (
        "vouched: ",
        "floor: 4\n  vouched: ",
        "11: policy.vouched.members: vouches for 3 members with this patient but the floor is 4, so it never",
    ),
    (
        "{members: [bob, charlie]}",
        "{authorities: ['sha256:12']}",
        "10: policy.vouched.authorities[0]: is not a digest; write sha256: and the 64 hex digits that",
    ),
    ("vouched: ", "studies: []\n  vouched: ", "10: policy.studies: has 0 entries; give 1 or more"),
    ("vouched: ", "statistics: [mode]\n  vouched: ", "10: policy.statistics[0]: matches no statistic; there are sum, count,"),
    ("vouched: ", "records: 0\n  vouched: ", "10: policy.records: is too small; give 1 or more"),
    ("vouched: ", "max_members: 2\n  vouched: ", "10: policy.max_members: is too small; give 3 or more"),
    ("vouched: ", "max_open_rounds: 0\n  vouched: ", "10: policy.max_open_rounds: is too small; give 1 or more"),
    ("127.0.0.1:7001", "0.0.0.0:7001", "1: endpoint: is missing, and 'listen' names every address of this machine"),
    ("127.0.0.1:7001", "[::]:7001", "1: endpoint: is missing, and 'listen' names every address of this machine"),
    ("127.0.0.1:7001", "127.0.0.1:7000", "6: hospital.url: is this patient's own URL; write the hospital's"),
    ("sources:", "peers: {alice: 'https://a:1'}\nsources:", "7: peers.alice: is this patient itself; remove it"),
    (
        "sources:",
        "peers: {bob: 'https://127.0.0.1:7000'}\nsources:",
        "7: peers.bob: has the URL of the hospital; every node listens on its own",
    ),
    (
        "sources:",
        "peers: {bob: 'https://127.0.0.1:7001'}\nsources:",
        "7: peers.bob: has the URL of this patient; every node listens on its own",
    ),
    (
        "sources:",
        "peers: {bob: 'https://b:1', dan: 'https://B:1'}\nsources:",
        "7: peers.dan: has the same URL as bob; every node listens on its own",
    ),
    (", literal: 128", "", "8: sources.systolic: has no source; give exactly one of literal, csv, synthetic"),
    (
        "literal: 128",
        "literal: 128, synthetic: {seed: 1}",
        "8: sources.systolic: has literal and synthetic; give exactly one of literal, csv, synthetic",
    ),
    ("bounds: [0, 300], ", "", "8: sources.systolic: give bounds: [smallest, largest] of a number, or the categories of"),
    ("bounds: [0, 300]", "bounds: [0, 9], categories: [a, b]", "8: sources.systolic: give bounds: [smallest, largest] of"),
    ("bounds: [0, 300]", "categories: [a, a]", "8: sources.systolic.categories: names one twice; name each once"),
    (
        "[0, 300]",
        "[300, 0]",
        "8: sources.systolic.bounds: the first must be below the second; write [smallest, largest]",
    ),
    ("[0, 300]", "[0.1, 0.1]", "8: sources.systolic.bounds: the first must be below the second; write [smallest, largest]"),
    ("[0, 300]", "[0]", "8: sources.systolic.bounds: has 1 entries; give exactly 2"),
    ("literal: 128", "literl: 128", "8: sources.systolic.literl: is not a known key; did you mean 'literal'?"),
    (
        "literal: 128",
        "literal: 72.5",
        "8: sources.systolic.literal: is no whole number; write one, or bounds with a point ([0.0, 9.5]) when there are",
    ),
    ("literal: 128", "literal: .nan", "8: sources.systolic.literal: is not finite; give a number"),
    ("literal: 128", "literal: true", "8: sources.systolic.literal: must be a whole number or a number or text or a list, but"),
    ("literal: 128", "literal: many", "8: sources.systolic.literal: is text, and the source has bounds; write a number"),
    ("literal: 128", "literal: 1e3", "8: sources.systolic.literal: is text, and the source has bounds; write a number"),
    ("literal: 128", "literal: [1, null, 1.5]", "8: sources.systolic.literal[2]: is no whole number"),
    ("literal: 128", "literal: null", "8: sources.systolic: has no source; give exactly one of literal, csv, synthetic"),
    (
        "bounds: [0, 300], literal: 128",
        "categories: [low, high], literal: [low, 1]",
        "8: sources.systolic.literal[1]: is a number, and the source has categories; put quotes round it, or give bounds",
    ),
    ("literal: 128", "literal: []", "8: sources.systolic.literal: has 0 entries; give 1 or more"),
    ("literal: 128", "literal: [1, x]", "8: sources.systolic.literal[1]: is text, and the source has bounds; write a"),
    (
        "literal: 128",
        "literal: 9223372036854775808",
        "8: sources.systolic.literal: is too large; give 9223372036854775807",
    ),
    (
        "literal: 128",
        "csv: {file: a.csv}",
        "8: sources.systolic.csv: says neither column nor row; give one of them, or both",
    ),
    ("literal: 128", "csv: {file: a.csv, row: 0}", "8: sources.systolic.csv.row: is too small; give 1 or more"),
    ("literal: 128", "synthetic: {seed: -1}", "8: sources.systolic.synthetic.seed: is too small; give 0 or more"),
]


@pytest.mark.parametrize(("old", "new", "expected"), PATIENT_MISTAKES)
def test_mistakes_of_a_patient(wrong_patient: Problems, old: str, new: str, expected: str) -> None:
    assert old in PATIENT
    found = wrong_patient(PATIENT.replace(old, new, 1))
    assert any(problem.startswith(expected) for problem in found), found


HOSPITAL_MISTAKES = [
    (
        "charlie: https://127.0.0.1:7003",
        "charlie: https://127.0.0.1:7001",
        "10: patients.charlie: has the same URL as alice",
    ),
    ("  bob:", "  Bob:", "9: patients.Bob: 'Bob' is not a name"),
    ("  bob:", "  no:", "9: patients: a key must be text, but YAML reads true or false; put quotes round it"),
    ("  bob: https:", "  bob: http:", "9: patients.bob: 'http://127.0.0.1:7002' is not an https URL"),
]


@pytest.mark.parametrize(("old", "new", "expected"), HOSPITAL_MISTAKES)
def test_mistakes_of_a_hospital(wrong_hospital: Problems, old: str, new: str, expected: str) -> None:
    assert old in HOSPITAL
    found = wrong_hospital(HOSPITAL.replace(old, new, 1))
    assert any(problem.startswith(expected) for problem in found), found


def test_a_study_that_asks_a_patient_without_address(wrong_hospital: Problems, tmp_path: Path) -> None:
    assert wrong_hospital(HOSPITAL.replace("  bob:", "  dan:")) == [
        f"{tmp_path}/studies/pressure.yaml:7: bob has no address; add it under 'patients' in the hospital's configuration"
    ]


def test_problems_of_the_hospital_and_of_its_studies_come_together(wrong_hospital: Problems, tmp_path: Path) -> None:
    (tmp_path / "studies" / "other.yaml").write_text(STUDY.replace("title: T\n", ""))
    assert wrong_hospital(HOSPITAL.replace("127.0.0.1:7000", "x")) == [
        "4: listen: 'x' is not HOST:PORT; write for instance 127.0.0.1:7001 or '[::1]:7001'",
        f"{tmp_path}/studies/other.yaml:1: title: is missing; add it (text)",
    ]


def test_a_hospital_without_its_directory_of_studies(wrong_hospital: Problems, tmp_path: Path) -> None:
    assert wrong_hospital(HOSPITAL.replace("studies: studies", "studies: questions")) == [
        f"{tmp_path}/questions: cannot be listed (No such file or directory); make the directory of studies"
    ]
