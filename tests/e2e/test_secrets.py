"""Everything that running daemons write or tell, searched for what must never be there."""

from __future__ import annotations

import base64
import json
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from mpc.envelope import open_sealed, parse
from mpc.messages import Kind, Share
from mpc.wire import decode
from scripts.deployment import HOSPITAL, STUDY
from tests.e2e.conftest import PATIENTS, SUM_OF_FOUR, VALUES
from tests.e2e.harness import Cohort, cohortium, total
from tests.e2e.played import MAX_MESSAGE, Played

NODES = (HOSPITAL, *PATIENTS)


def _forms_of_bytes(secret: bytes) -> set[str]:
    """How bytes might be printed; base64 without its last group, which depends on what follows."""
    return {secret.hex(), secret.hex().upper(), base64.b64encode(secret).decode()[:-4], repr(secret)[2:-1]}


def _forms_of_number(value: int) -> set[str]:
    forms = {str(value), f"{value:_}", f"{value:,}"}
    for layout in ("<Q", ">Q"):
        forms |= {struct.pack(layout, value).hex(), base64.b64encode(struct.pack(layout, value)).decode()}
    return forms


def _forms_of_key(pem: bytes) -> set[str]:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    lines = set(pem.decode().split("\n")[1:-2])
    return {str(number), *_forms_of_bytes(number.to_bytes(32, "big")), *_forms_of_bytes(der), *lines}


def _kept(cohort: Cohort, name: str) -> bytes:
    """Every file in the state directory of a node, the database's own log among them."""
    return b"\n".join(path.read_bytes() for path in sorted((cohort.directory / name / "state").rglob("*")) if path.is_file())


def _told(cohort: Cohort, name: str) -> str:
    """All that a daemon says of itself; nothing of it is a result."""
    admin = cohort.admin(name)
    texts = [json.dumps(cohort.log(name), ensure_ascii=False), admin.text("/metrics"), admin.text("/v1/status")]
    if name == HOSPITAL:
        texts += [admin.text("/v1/rounds"), admin.text("/v1/studies")]
        texts += [cohortium(*words, "--config", cohort.config(name)).stdout for words in (["status"], ["round", "list"])]
    return "\n".join(texts)


def test_no_value_seed_or_key_is_in_anything_that_daemons_write_or_tell(cohort: Cohort, mallory: Played) -> None:
    drawn: list[bytes] = []
    round_id = mallory.hold_ready(STUDY)
    machine = mallory.patient_round(round_id)
    assert machine.round_key is not None
    # What mallory drew and what the others drew for her: seeds of this round, as she alone knows them.
    drawn += [seed.reveal() for seed in machine._sent.values()]
    for raw in mallory.received(round_id, Kind.SHARE).values():
        opened = open_sealed(parse(raw, MAX_MESSAGE), machine.keyring.encryption.private_key, machine.round_key)
        drawn.append(decode(opened, Share).seed)
    assert len(set(drawn)) == 2 * len(PATIENTS)
    drawn.append(machine.round_key._private.private_bytes_raw())
    mallory.release(Kind.READY)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR
    for name in PATIENTS:
        cohort.wait_for_log(name, "round-ended", round=round_id, outcome="released")

    secrets = {form for value in (*VALUES.values(), SUM_OF_FOUR) for form in _forms_of_number(value)}
    secrets |= {form for seed in drawn for form in _forms_of_bytes(seed)}
    for name in (*NODES, "mallory"):
        secrets |= _forms_of_key((cohort.directory / name / f"{name}.key").read_bytes())
    for name in NODES:
        told = _told(cohort, name)
        assert round_id in told, "the search reads what it should"
        assert '"debug"' in told
        # Not `secret in told`: a failing assertion would print it.
        leaked = sum(secret in told for secret in secrets)
        assert leaked == 0, f"{leaked} secrets are in what {name} writes or tells"


def test_no_value_seed_or_key_is_in_a_state_directory_while_a_round_is_open_or_after_it(cohort: Cohort, mallory: Played) -> None:
    round_id = mallory.hold_ready(STUDY)
    machine = mallory.patient_round(round_id)
    assert machine.round_key is not None
    secrets = [seed.reveal() for seed in machine._sent.values()]
    for raw in mallory.received(round_id, Kind.SHARE).values():
        opened = open_sealed(parse(raw, MAX_MESSAGE), machine.keyring.encryption.private_key, machine.round_key)
        secrets.append(decode(opened, Share).seed)
    assert len(secrets) == 2 * len(PATIENTS)
    secrets.append(machine.round_key._private.private_bytes_raw())
    for value in (*VALUES.values(), SUM_OF_FOUR):
        secrets += [struct.pack(layout, value) for layout in ("<Q", ">Q")] + [str(value).encode()]
    encryption = machine.keyring.encryption.private_key.private_numbers()
    secrets += [number.to_bytes(192, "big") for number in (encryption.p, encryption.q)]

    def search(what: str) -> None:
        for name in (*NODES, "mallory"):
            kept = _kept(cohort, name)
            assert bytes.fromhex(round_id) in kept, "the search reads what it should"
            leaked = sum(secret in kept for secret in secrets)
            assert leaked == 0, f"{leaked} secrets are in the state of {name} {what}"

    search("while the round is open")
    mallory.release(Kind.READY)
    assert total(cohort.result(round_id)) == SUM_OF_FOUR
    search("after it")


def test_the_result_is_told_by_the_hospital_alone_and_only_where_it_is_asked_for(cohort: Cohort, mallory: Played) -> None:
    final = cohort.run(STUDY)
    assert total(final) == SUM_OF_FOUR
    shown = cohort.hospital.text(f"/v1/rounds/{final['round']}")
    assert str(SUM_OF_FOUR) in shown
    assert not any(str(value) in shown for value in VALUES.values())
    for name in PATIENTS:
        with cohort.admin(name).ask("GET", f"/v1/rounds/{final['round']}") as answer:
            assert answer.status == 404


def test_a_finished_round_tells_the_same_in_the_log_of_every_debug_line(cohort: Cohort) -> None:
    round_id = cohort.run("three")["round"]
    cohort.wait_for_log("alice", "round-ended", round=round_id)
    letters = {"message-taken", "message-sent"}
    events = [entry["event"] for entry in cohort.log("alice") if entry.get("round") == round_id]
    steps = [event for event in events if event not in letters]
    assert letters < set(events)
    assert steps[0] == "invitation-decided"
    assert steps[-1] == "round-ended"
    assert steps.count("submitted") == 1
