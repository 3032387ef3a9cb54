"""FHIR R4 Observations: from files, and from a real server with pages, errors and slow answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc.disclosure import Categories
from nodes.sources.fhir import FhirObservations
from nodes.sources.fhir_model import NotFhirError, Observation, Reference, observation
from nodes.sources.fhir_server import wait_of
from nodes.sources.secret import Secret
from scripts.ports import free_ports
from tests.nodes.sources.ask import GONE, SMALL, TENTHS, Readers, ask, read, refused
from tests.nodes.sources.conftest import Fhir, Write
from tests.nodes.sources.fhir_server import outcome

SYSTOLIC, DIASTOLIC, PANEL, WEIGHT, SMOKER = "8480-6", "8462-4", "85354-9", "29463-7", "72166-2"
SECRET = 73519


def code(loinc: str) -> dict[str, Any]:
    return {"coding": [{"system": "http://example/local", "code": "x"}, {"system": "http://loinc.org", "code": loinc}]}


def quantity(value: float, unit: str = "mm[Hg]", **more: Any) -> dict[str, Any]:
    return {"valueQuantity": {"value": value, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": unit, **more}}


def seen(who: str, when: str, loinc: str = SYSTOLIC, **value: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"{who}-{when}",
        "status": "final",
        "code": code(loinc),
        "subject": {"reference": f"Patient/{who}"},
        "effectiveDateTime": when,
        **value,
    }


def panel(who: str, when: str, systolic: float, diastolic: float) -> dict[str, Any]:
    parts = [{"code": code(SYSTOLIC), **quantity(systolic)}, {"code": code(DIASTOLIC), **quantity(diastolic)}]
    return seen(who, when, PANEL, component=parts)


def bundle(*resources: dict[str, Any]) -> str:
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]})


def ndjson(*resources: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in resources)


READINGS = (
    {"resourceType": "Patient", "id": "a"},
    seen("a", "2026-01-05T08:00:00Z", **quantity(120)),
    seen("a", "2026-01-05T09:30:00+02:00", **quantity(131)),  # before the one above
    seen("b", "2026-02", **quantity(140.0)),
    seen("b", "2025-12-31", **quantity(99)),
    seen("b", "2026-03-01", **quantity(7)) | {"status": "entered-in-error"},
    seen("b", "2026-03-01", dataAbsentReason={"text": "not done"}),
    seen("b", "2026-03-01", WEIGHT, **quantity(80.5, "kg")),
    seen("c", "2024", WEIGHT, **quantity(60, "kg")),
)


@pytest.fixture(params=["bundle", "ndjson", "server"])
def place(request: pytest.FixtureRequest, write: Write) -> dict[str, Any]:
    """Where the readings are, as a source has it."""
    if request.param == "bundle":
        return {"file": write("a.json", bundle(*READINGS))}
    if request.param == "ndjson":
        return {"file": write("a.ndjson", ndjson(*READINGS) + "\n")}
    fhir: Fhir = request.getfixturevalue("fhir")
    return {"url": fhir.serve(*READINGS, page=2)}


def test_the_latest_observation_of_each_subject_is_its_record(place: dict[str, Any]) -> None:
    assert read(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]")) == [120, 140]
    assert read(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]", take="earliest")) == [131, 99]
    assert read(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]", since="2026-01-06")) == [140]


def test_observations_of_several_codes_are_joined_by_subject(place: dict[str, Any]) -> None:
    readers: Readers = {
        "systolic": (FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]"), SMALL),
        "weight": (FhirObservations(**place, code=WEIGHT, unit="kg"), TENTHS),
    }
    assert ask(readers, missing="omit") == {"systolic": [120, 140, GONE], "weight": [GONE, 805, 600]}


def test_a_person_has_one_record_and_several_values_where_the_study_asks_for_them(place: dict[str, Any]) -> None:
    assert read(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]", subject="Patient/b"), records=1) == [140]
    assert read(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]", subject="Patient/b"), records=1, length=2) == [99, 140]
    assert read(FhirObservations(**place, code=WEIGHT, unit="kg", subject="Patient/a"), TENTHS, records=1, missing="omit") == [
        GONE
    ]
    assert "there are more" in refused(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]"), records=1)
    text = refused(FhirObservations(**place, code=SYSTOLIC, unit="mm[Hg]"), length=3)
    assert text.endswith("somebody has 2 values, and a record of the study has 3; leave the study")


def test_a_value_may_be_a_component_of_a_panel(write: Write, fhir: Fhir) -> None:
    resources = (panel("a", "2026-01-01", 120, 80), panel("a", "2026-01-02", 131, 85), panel("b", "2026-01-01", 99, 60))
    url = fhir.serve(*resources)
    for place in ({"file": write("a.json", bundle(*resources))}, {"url": url}):
        readers: Readers = {
            name: (FhirObservations(**place, code=loinc, panel=PANEL, unit="mm[Hg]"), SMALL)
            for name, loinc in (("systolic", SYSTOLIC), ("diastolic", DIASTOLIC))
        }
        assert ask(readers) == {"systolic": [131, 99], "diastolic": [85, 60]}
    assert [asked["query"]["code"] for asked in fhir.asked(url)] == [f"http://loinc.org|{PANEL}"], "one question for both"


@pytest.mark.parametrize(
    ("value", "unit", "rule"),
    [
        (quantity(SECRET, "kPa"), "mm[Hg]", "has not the UCUM unit mm[Hg]"),
        (quantity(SECRET, "mm[hg]"), "mm[Hg]", "has not the UCUM unit mm[Hg]"),
        (quantity(SECRET, system="http://example"), "mm[Hg]", "has not the UCUM unit mm[Hg]"),
        ({"valueQuantity": {"value": SECRET, "unit": "mm[Hg]"}}, "mm[Hg]", "has not the UCUM unit mm[Hg]"),
        ({"valueInteger": SECRET}, "mm[Hg]", "has not the UCUM unit mm[Hg]"),
        (quantity(SECRET), None, "has a unit, and 'unit' says that none has"),
        (quantity(SECRET, comparator=">"), "mm[Hg]", "is a limit and no value (comparator)"),
        (quantity(73.519), "mm[Hg]", "is not a whole number"),
        ({"valueString": str(SECRET)}, "mm[Hg]", "has words where a number should be"),
        ({"valueCodeableConcept": code(SMOKER)}, "mm[Hg]", "has words where a number should be"),
        (quantity(1) | {"subject": {}}, "mm[Hg]", "does not say of whom it is"),
        (quantity(1) | {"effectiveDateTime": None}, "mm[Hg]", ""),
        (quantity(1) | {"effectiveDateTime": ""}, "mm[Hg]", "does not say of when it is"),
    ],
)
def test_an_observation_that_does_not_serve_is_not_repeated(
    write: Write, value: dict[str, Any], unit: str | None, rule: str
) -> None:
    path = write("a.json", bundle(seen("a", "2026-01-01") | value))
    text = refused(FhirObservations(file=path, code=SYSTOLIC, unit=unit))
    if rule:
        assert text == f"LOINC 8480-6 of {path}: an Observation {rule}; correct the source, or leave the study"
    else:
        assert text == f"{path}: something is no Observation as R4 has it; see who exported it"
    assert "735" not in text


def test_numbers_without_a_unit_are_read_where_none_is_expected(write: Write) -> None:
    path = write("a.json", bundle(seen("a", "2026", valueInteger=7), seen("b", "2026", valueQuantity={"value": 8})))
    assert read(FhirObservations(file=path, code=SYSTOLIC)) == [7, 8]


def test_coded_values_are_categories(write: Write) -> None:
    smoker = Categories(frozenset({"266919005", "current", "never"}))
    concept = {"coding": [{"system": "http://snomed.info/sct", "code": "266919005"}], "text": "never"}
    path = write(
        "a.ndjson",
        ndjson(
            seen("a", "2026", SMOKER, valueCodeableConcept=concept),
            seen("b", "2026", SMOKER, valueCodeableConcept={"text": " current "}),
            seen("c", "2026", SMOKER, valueString="never"),
        ),
    )
    source = FhirObservations(file=path, code=SMOKER)
    assert read(source, smoker) == [0, 1, 2]  # in the order of the study's categories
    assert "record 3 of 3 is none of the declared categories" in refused(source, Categories(frozenset({"266919005", "current"})))


def test_a_month_and_a_year_are_their_first_moments_and_zones_count() -> None:
    def moment(text: str) -> str:
        return Observation(effective_date_time=text).moment

    assert moment("2026") == moment("2026-01") == moment("2026-01-01") == moment("2026-01-01T00:00:00Z")
    assert moment("2026-01-01T01:00:00+01:00") == "2026-01-01T00:00:00.000000+00:00"
    assert moment("2026-02") == "2026-02-01T00:00:00.000000+00:00"
    assert moment("2026-01-01T00:00:00.5Z") > moment("2026-01-01T00:00:00Z")
    for text in ("2026-13", "26", "yesterday", "2026-01-01T99:00:00Z", "2026-1-1", "2026-01-01T"):
        with pytest.raises(NotFhirError, match=r"^an Observation has a date that is none$"):
            moment(text)


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("Patient/a-1", "a-1"),
        ("https://fhir.example/r4/Patient/a-1", "a-1"),
        ("Patient/a-1/_history/2", "a-1"),
        ("urn:uuid:0", "urn:uuid:0"),
        ("Group/a-1", "Group/a-1"),
    ],
)
def test_a_subject_is_known_by_its_id(reference: str, key: str) -> None:
    assert Reference(reference=reference).key == key


@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_what_is_no_resource_is_refused_without_repeating_it(raw: bytes) -> None:
    try:
        assert observation(raw) is None
    except NotFhirError as error:
        assert str(error) in ("is not JSON", "something is no Resource as R4 has it")  # noqa: PT017 (both are possible)


def test_what_is_no_export_is_told_by_its_line(write: Write) -> None:
    good = json.dumps(seen("a", "2026", **quantity(SECRET)))
    for name, content, expected in (
        ("a.ndjson", f"{good}\n{good[:-30]}\n", ":2: is not JSON; see who exported it"),
        (
            "b.ndjson",
            f'{good}\n\n{{"resourceType": "Observation", "code": 73519}}\n',
            ":3: something is no Observation as R4 has it",
        ),
        ("c.json", good, ": is no Bundle; see who exported it"),
        ("d.json", "", ": is not JSON; see who exported it"),
        ("e.json", b"\xff\xfe", ": is not JSON; see who exported it"),
        ("f.json", '{"a":' * 100_000, ": is not JSON; see who exported it"),
    ):
        path = write(name, content)
        text = refused(FhirObservations(file=path, code=SYSTOLIC, unit="mm[Hg]"))
        assert text.startswith(f"{path}{expected}")
        assert str(SECRET) not in text


# -- a server


def of(url: str, **how: Any) -> FhirObservations:
    return FhirObservations(**{"url": url, "code": SYSTOLIC, "unit": "mm[Hg]", **how})


MANY = [seen(f"p{number:03}", "2026-01-01", **quantity(number)) for number in range(95)]


def test_a_search_is_followed_page_by_page_to_its_end(fhir: Fhir) -> None:
    url = fhir.serve(*MANY, page=10)
    assert read(of(url)) == list(range(95))
    asked = fhir.asked(url)
    assert len(asked) == 10
    assert asked[0]["path"].endswith("/Observation")
    assert asked[0]["query"] == {"code": "http://loinc.org|8480-6", "_count": "500"}
    assert {one["authorization"] for one in asked} == {""}


def test_the_server_is_asked_for_no_more_than_what_is_meant(fhir: Fhir) -> None:
    url = fhir.serve(*MANY)
    assert read(of(url + "/", subject="Patient/p007", since="2026-01-01"), records=1) == [7]
    assert fhir.asked(url)[0]["query"] == {
        "code": "http://loinc.org|8480-6",
        "subject": "Patient/p007",
        "date": "ge2026-01-01",
        "_count": "500",
    }


def test_what_a_server_sends_beyond_the_question_is_left_out(fhir: Fhir) -> None:
    included = {"resource": seen("z", "2026-02-01", **quantity(9)), "search": {"mode": "include"}}
    warning = {"resource": outcome("informational", "warning"), "search": {"mode": "outcome"}}
    assert read(of(fhir.serve(*MANY[:2], more=[included, warning, {}]))) == [0, 1]


def test_a_bearer_token_is_shown_and_never_printed(fhir: Fhir, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cr3t\n")
    (tmp_path / "token").chmod(0o600)
    url = fhir.serve(*MANY[:3], token="s3cr3t", page=2)
    source = of(url, token=Secret(file=tmp_path / "token"))
    assert read(source) == [0, 1, 2]
    assert [asked["authorization"] for asked in fhir.asked(url)] == ["Bearer s3cr3t"] * 2
    assert "s3cr3t" not in f"{source!r}"
    assert refused(of(url)) == f"{url}: does not accept the token; give one that is good under 'token' (401, login)"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(fhir: Fhir, status: int) -> None:
    busy = [{"status": status, "headers": {"Retry-After": "0"}}, {"status": status, "headers": {"Retry-After": "0"}}]
    url = fhir.serve(*MANY[:3], first=busy)
    assert read(of(url)) == [0, 1, 2]
    assert len(fhir.asked(url)) == 3


def test_a_busy_server_that_does_not_say_when_is_asked_again_by_and_by(fhir: Fhir) -> None:
    url = fhir.serve(*MANY[:3], first=[{"status": 503}])
    assert read(of(url)) == [0, 1, 2]
    assert refused(of(fhir.serve(first=[{"status": 503}] * 3), timeout=2)).endswith(
        "is busy for longer than 2 s; try again later, or raise its 'timeout'"
    )


def test_a_server_that_stays_busy_is_not_waited_for_beyond_the_time_limit(fhir: Fhir) -> None:
    url = fhir.serve(first=[{"status": 503, "headers": {"Retry-After": "3600"}}])
    began = time.monotonic()
    assert refused(of(url)) == f"{url}: is busy for longer than 30 s; try again later, or raise its 'timeout'"
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Sat, 31 Jan 2026 12:00:09 GMT", 9.0),
        ("Sat, 31 Jan 2026 11:59:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, expected: float | None) -> None:
    assert wait_of(header, 1_769_860_800.0) == expected


def test_a_slow_server_is_left_at_the_time_limit(fhir: Fhir) -> None:
    url = fhir.serve(*MANY[:3], delay=3)
    assert refused(of(url, timeout=1)) == f"{url}: takes longer than 1 s; ask for less, or raise its 'timeout'"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, outcome("invalid"), "answers with an error (400, invalid); see its log"),
        (403, outcome("forbidden"), "does not let this token read Observations; ask whoever runs it (403, forbidden)"),
        (404, "no such page: 73519", "knows no Observations there; check the base URL (404)"),
        (500, outcome("Patient 4711"), "answers with an error (500, unknown); see its log"),
        (302, "", "sends this node elsewhere (302), where it does not go; write the URL that it means"),
        (204, "", "answers with an error (204); see its log"),
    ],
)
def test_an_error_of_the_server_is_told_by_its_codes_alone(fhir: Fhir, status: int, body: Any, expected: str) -> None:
    elsewhere = {"Location": f"http://127.0.0.1:{fhir.port}/elsewhere/Observation"} if status == 302 else {}
    url = fhir.serve(first=[{"status": status, "body": body, "headers": elsewhere}])
    text = refused(of(url))
    assert text == f"{url}: {expected}"
    assert not {"4711", "73519"} & set(text.split())


def test_an_error_among_the_results_of_a_search_is_none_of_them(fhir: Fhir) -> None:
    url = fhir.serve(*MANY[:2], more=[{"resource": outcome("too-costly"), "search": {"mode": "outcome"}}])
    assert refused(of(url)) == f"{url}: answers with an error (too-costly); see its log"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"body": "<html>73519</html>"}, "its answer: is not JSON; see whether that is a FHIR R4 server"),
        ({"body": {"resourceType": "Patient"}}, "its answer: is no Bundle; see whether that is a FHIR R4 server"),
        (
            {"body": {"resourceType": "Bundle", "entry": [{"resource": seen("a", "2026") | {"status": 73519}}]}},
            "its answer: something is no Observation as R4 has it; see whether that is a FHIR R4 server",
        ),
        ({"break": True}, "breaks off in the middle of an answer; see its log"),
        ({"link": "http://[", "page": 1}, "its answer: has a link that is none; see whether that is a FHIR R4 server"),
    ],
)
def test_an_answer_that_is_none_is_refused_without_repeating_it(fhir: Fhir, how: dict[str, Any], expected: str) -> None:
    url = fhir.serve(*MANY[:3], **how)
    assert refused(of(url)) == f"{url}: {expected}"


@pytest.mark.parametrize(
    "link", ["http://127.0.0.1:1/x", "http://localhost:{port}/x", "//evil.example/x", "https://127.0.0.1:{port}/x"]
)
def test_a_further_page_on_another_server_is_not_asked_for(fhir: Fhir, link: str) -> None:
    url = fhir.serve(*MANY[:3], page=1, link=link.replace("{port}", str(fhir.port)))
    assert refused(of(url)) == f"{url}: links to a page on another server, which is not asked; see its settings"


def test_an_observation_on_two_pages_is_one(fhir: Fhir) -> None:
    first, second = seen("a", "2026-01-01", **quantity(1)), seen("a", "2026-01-02", **quantity(2))
    assert read(of(fhir.serve(first, second, second, page=1)), length=2) == [1, 2]


def test_pages_in_a_circle_are_left(fhir: Fhir) -> None:
    url = fhir.serve(*MANY[:3], page=1, link="Observation?code=http://loinc.org|8480-6&_offset=1")
    assert refused(of(url)) == f"{url}: links its pages in a circle; see its log"


def test_a_server_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/r4"
    assert refused(of(url)) == f"{url}: nothing answers there; check the URL, and that it is up"


def test_a_servers_certificate_must_be_signed_by_who_is_trusted(secure_fhir: Fhir, tmp_path: Path) -> None:
    url = secure_fhir.serve(*MANY[:3], page=1)
    assert read(of(url, authority=secure_fhir.certificate)) == [0, 1, 2]
    assert refused(of(url)) == (f"{url}: its certificate is not accepted; check the URL, or name who signed it under 'authority'")
    other = url.replace("127.0.0.1", "localhost")
    assert "its certificate is not accepted" in refused(of(other, authority=secure_fhir.certificate))
    missing, text = tmp_path / "none.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    for path in (missing, text):
        assert refused(of(url, authority=path)).startswith(f"{path}: no certificates can be read from it")
