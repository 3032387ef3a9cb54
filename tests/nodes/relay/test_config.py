"""What configurations say about relays, and what they are told about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mpc.errors import ConfigError
from mpc.identity import Identity, Role
from nodes.config import RelayQuota, check_hospital, check_patient, check_relay, identity_of

CONFIG = Path(__file__).parents[3] / "config"
RELAY = (CONFIG / "relay" / "basic.yaml").read_text(encoding="utf-8")
HOSPITAL = (CONFIG / "hospital" / "basic.yaml").read_text(encoding="utf-8")
PATIENT = (CONFIG / "patient" / "basic.yaml").read_text(encoding="utf-8")
NAMED = "relay: {name: post, url: https://relay.example:7100}\n"
BEHIND = PATIENT.replace('listen: "127.0.0.1:7001"\n', "topology: relay\n").replace("  url: https://127.0.0.1:7000\n", "") + NAMED

Problems = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., object]:
    def load(check: Callable[[Path], object], text: str) -> object:
        (tmp_path / "node" / "studies").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "node" / "node.yaml"
        path.write_text(text, encoding="utf-8")
        return check(path)

    return load


@pytest.fixture
def problem(load: Callable[..., object]) -> Problems:
    def problem(check: Callable[[Path], object], text: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(check, text)
        return str(caught.value).partition("node.yaml:")[2]

    return problem


def test_the_examples_load() -> None:
    basic, advanced = (check_relay(CONFIG / "relay" / f"{name}.yaml") for name in ("basic", "advanced"))

    assert identity_of(basic) == Identity("demo.example", Role.RELAY, "post")
    assert (basic.store, basic.state) == (None, CONFIG / "relay" / "state")
    assert {owner.uri for owner in advanced.mailboxes} == {
        "spiffe://demo.example/hospital/general",
        "spiffe://demo.example/patient/alice",
    }


def test_the_advanced_example_shows_the_defaults() -> None:
    advanced, defaults = check_relay(CONFIG / "relay" / "advanced.yaml"), check_relay(CONFIG / "relay" / "basic.yaml")

    assert advanced.quota == RelayQuota()
    for key in ("max_age_hours", "keep_days", "shutdown_timeout", "log", "limits"):
        assert getattr(advanced, key) == getattr(defaults, key), key


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("recipients: [alice]\n", "recipients"),
        ("recipients: [model/oracle]\n", "recipients"),
        ("quota: {sender_messages: 0}\n", "quota.sender_messages"),
        ("quota: {senders: 5}\n", "quota.senders"),
        ("store: mysql://x\n", "store"),
        ("max_age_hours: 0\n", "max_age_hours"),
        ("patients: {}\n", "patients"),
    ],
)
def test_a_relays_mistakes_are_named(problem: Problems, extra: str, expected: str) -> None:
    assert f" {expected}" in problem(check_relay, RELAY + extra)


def test_a_patient_behind_a_relay_needs_no_address(load: Callable[..., object]) -> None:
    config = load(check_patient, BEHIND)
    assert config.url == config.hospital_url == "relay://post@relay.example:7100"  # type: ignore[attr-defined]
    assert config.listen is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BEHIND.replace(NAMED, ""), "relay: is missing"),
        (BEHIND + 'listen: "127.0.0.1:7001"\n', "listen: has no use"),
        (BEHIND + "endpoint: https://alice.example:7001\n", "endpoint: has no use"),
        (BEHIND + "peers: {bob: https://bob.example:7001}\n", "peers: has no use"),
        (BEHIND + "proxy: https://proxy.example:3128\n", "proxy: 'https://proxy.example:3128' is not a proxy"),
        (BEHIND + "proxy: http://proxy.example\n", "proxy"),
        (PATIENT + "proxy: http://proxy.example:3128\n", "proxy: has no use without topology: relay"),
        (PATIENT.replace("  url: https://127.0.0.1:7000\n", ""), "hospital.url: is missing"),
        (BEHIND.replace("https://relay.example:7100", "https://relay.example"), "relay.url"),
        (BEHIND.replace("topology: relay", "topology: star"), "topology"),
    ],
)
def test_a_patients_mistakes_are_named(problem: Problems, text: str, expected: str) -> None:
    assert f" {expected}" in problem(check_patient, text)


def test_a_password_of_a_proxy_is_not_repeated(problem: Problems) -> None:
    text = problem(check_patient, BEHIND + "proxy: http://user:hunter2@proxy.example:3128\n")
    assert "no user or password" in text
    assert "hunter2" not in text


def test_a_hospital_says_who_is_behind_the_relay(load: Callable[..., object], problem: Problems) -> None:
    text = HOSPITAL.replace("https://127.0.0.1:7001", "relay").replace("https://127.0.0.1:7002", "relay")
    config = load(check_hospital, text + NAMED)

    assert config.endpoint("alice", "") == config.endpoint("bob", "") == "relay://post@relay.example:7100"  # type: ignore[attr-defined]
    assert config.endpoint("charlie", "") == "https://127.0.0.1:7003"  # type: ignore[attr-defined]
    assert [config.behind_relay(name) for name in ("alice", "charlie", "dora")] == [True, False, False]  # type: ignore[attr-defined]
    assert " patients.alice: is behind a relay, but none is named" in problem(check_hospital, text)
