"""Ten patients decide: real daemons with their own policies and sources, one honest round, and a hospital that asks too much.

    python scripts/demo_consent.py [--json] [--keep DIR]

The values come from a literal, files, a FHIR server and OMOP databases (PostgreSQL where it is installed). After the honest round
the hospital, which is the real daemon with tricks (cheating_hospital.py), tries every attack that docs/privacy.md names. For each
it says who refused, in the words of that patient's own ledger. Exit status: 0 when every attack was refused, 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from nodes.admin.client import AdminClient
from scripts.daemons import Daemons
from scripts.demo_sources import CODE, UNIT, VALUES, sources
from scripts.deployment import COHORTIUM, HOSPITAL, Deployment

VARIABLE = "systolic"
BOUNDS = (0, 300)
STUDY = "blood-pressure"
PURPOSE = "Quality report of the hypertension ward"
GHOSTS = ("ghost-1", "ghost-2")
"""Nodes that the hospital runs itself, with good certificates: members that are nobody."""
_SECONDS = 240.0

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "charlie": {"rounds_per_period": 3},
    "gustav": {"guard": "pairwise"},
    "hanna": {"ask": [STUDY]},
    "ivan": {"purposes": ["Research*"], "vouched": {"members": ["alice", "bob"]}},
    "jana": {"guard": "privacy-budget", "privacy_budget": {"epsilon": 1, "delta": 1e-6}},
}
"""Where they differ from the defaults."""
TAKE_PART = tuple(sorted(set(VALUES) - {"ivan", "jana"}))


@dataclass(frozen=True)
class Question:
    """The honest study: a mean."""

    id: str = STUDY

    def study(self, names: Sequence[str]) -> str:
        """See `scripts.deployment.Asked`."""
        return study(self.id, tuple(VALUES))

    def sources(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """See `scripts.deployment.Asked`."""
        return {VARIABLE: {"bounds": list(BOUNDS), **source}}

    def policy(self) -> dict[str, Any]:
        """See `scripts.deployment.Asked`."""
        return {}


def study(name: str, members: Sequence[str], **changes: Any) -> str:
    """A study's file."""
    variable = {"name": VARIABLE, "unit": UNIT, "bounds": list(BOUNDS), "code": f"LOINC {CODE}", **changes.pop("variable", {})}
    content: dict[str, Any] = {
        "id": name,
        "title": "Mean systolic blood pressure",
        "purpose": PURPOSE,
        "legal_basis": "Consent (Art. 6(1)(a) GDPR)",
        "variables": [variable],
        "statistics": [{"kind": "mean", "variable": VARIABLE}],
        "cohort": {"members": sorted(members), "minimum": 3},
        "deadline": 240,
    }
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    return yaml.safe_dump(content, sort_keys=False)


class Cheated(Deployment):
    """A deployment whose hospital can cheat."""

    def command(self, name: str) -> list[str]:
        """See `Deployment.command`."""
        if name != HOSPITAL:
            return super().command(name)
        return [sys.executable, str(Path(__file__).with_name("cheating_hospital.py")), "--config", str(self.hospital_config)]

    def write(self) -> None:
        """With each patient's own policy."""
        super().write()
        for name, changes in POLICIES.items():
            path = self.patient_config(name)
            content = yaml.safe_load(path.read_text())
            content["policy"] |= changes
            path.write_text(yaml.safe_dump(content, sort_keys=False))


@dataclass(frozen=True)
class Attack:
    """What was tried, and what became of it."""

    name: str
    refused: Mapping[str, str]
    """By patient: why, in the words of its own ledger."""
    held: bool
    """Nobody whom it was meant for gave anything."""


class Demonstration:
    """A deployment at work."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._number = 0

    # -- the hospital

    def open(self, text: str, **tricks: Any) -> str:
        """Opens a round of this study; returns its id."""
        name = yaml.safe_load(text)["id"]
        (self._deployment.directory / HOSPITAL / "studies" / f"{name}.yaml").write_text(text)
        if tricks:
            asyncio.run(self._post("/v1/tricks", tricks))
        return str(self._cohortium("round", "open", name, node=HOSPITAL)["round"])

    def end(self, round_id: str) -> dict[str, Any]:
        """How the round ended."""
        self._until(lambda: self.show(round_id)["outcome"] != "open", f"the end of {round_id}")
        return self.show(round_id)

    def show(self, round_id: str) -> dict[str, Any]:
        """The round, as the hospital has it."""
        return self._cohortium("round", "show", round_id, node=HOSPITAL)

    def cancel(self, round_id: str) -> None:
        """The hospital ends the round."""
        self._run("round", "cancel", round_id, "--config", str(self._deployment.hospital_config))

    def mean(self, round_id: str) -> float:
        """What the hospital learnt."""
        result = self._cohortium("results", "show", round_id, node=HOSPITAL)
        return float(result["statistics"][0]["mean"]["value"])

    # -- the patients

    def ledger(self, name: str, round_id: str) -> list[dict[str, Any]]:
        """What a patient's ledger says of a round, line by line; each with its `event`."""
        lines = map(json.loads, self._run("patient", "ledger", "--json", "--config", self._config(name)).splitlines())
        return [{**line["content"], "event": line["event"]} for line in lines if line["content"].get("round") == round_id]

    def decision(self, name: str, round_id: str) -> tuple[str, str]:
        """("declined", why), ("gave", "") or ("nothing", why) once the patient is done with the round."""
        lines = self._until(lambda: _settled(self.ledger(name, round_id)), f"{name}'s decision")
        events = {line["event"]: line for line in lines}
        if "declined" in events:
            return "declined", str(events["declined"]["reason"])
        if "submitted" in events:
            return "gave", ""
        return "nothing", str(events["ended"].get("detail", ""))

    def waits(self, name: str) -> None:
        """Until something waits in this patient's inbox."""
        self._until(
            lambda: json.loads(self._run("patient", "inbox", "--json", "--config", self._config(name))), f"{name}'s inbox"
        )

    def approve(self, name: str) -> None:
        """A person says yes, to this and the very same study again."""
        self._run("patient", "approve", STUDY, "--for", "12h", "--config", self._config(name))

    def refused(self, name: str, round_id: str, members: Sequence[str]) -> Attack:
        """The attack, once everybody is done with its round."""
        found = {member: self.decision(member, round_id) for member in members}
        reasons = {member: why for member, (decision, why) in found.items() if decision != "gave"}
        return Attack(name, reasons, all(decision != "gave" for decision, _ in found.values()))

    # -- how

    def _config(self, name: str) -> str:
        return str(self._deployment.config(name))

    async def _post(self, path: str, content: Mapping[str, Any]) -> None:
        async with AdminClient(self._deployment.socket(HOSPITAL)) as hospital:
            await hospital.post(path, dict(content))

    def _cohortium(self, *words: str, node: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._run(*words, "--json", "--config", self._config(node)).splitlines()[-1])
        return found

    @staticmethod
    def _run(*words: str) -> str:
        return subprocess.run([*COHORTIUM, *words], capture_output=True, text=True, check=True).stdout

    @staticmethod
    def _until(look: Any, what: str) -> Any:
        end = time.monotonic() + _SECONDS
        while not (found := look()):
            if time.monotonic() > end:
                raise SystemExit(f"demo_consent: waited {_SECONDS:.0f} s in vain for {what}")
            time.sleep(0.1)
        return found


def _settled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines, once the round is declined, given to, or ended."""
    return lines if {"declined", "submitted", "ended"} & {line["event"] for line in lines} else []


def honest(demo: Demonstration) -> tuple[str, dict[str, tuple[str, str]], float]:
    """The round that everybody may decide about: its id, the decisions, and the mean."""
    round_id = demo.open(study(STUDY, tuple(VALUES)))
    demo.waits("hanna")
    demo.approve("hanna")
    demo.end(round_id)
    return round_id, {name: demo.decision(name, round_id) for name in VALUES}, demo.mean(round_id)


def attacks(demo: Demonstration, first: str) -> Iterator[Attack]:
    """Each of them, after the honest round `first`."""
    less = tuple(name for name in TAKE_PART if name != "dora")
    bound = tuple(name for name in less if name != "hanna")

    round_id = demo.open(study(STUDY, tuple(VALUES)), without=["dora"])
    demo.end(round_id)
    yield demo.refused("two rosters that differ by one", round_id, less)

    round_id = demo.open(study("sodium-intake", less, title="Sodium intake"))
    demo.end(round_id)
    yield demo.refused("the study renamed to dodge the ledger", round_id, less)

    refused: dict[str, str] = {}
    held = True
    for number, chosen in enumerate((bound[:5], bound[1:6], (*bound[:3], *bound[4:6]), bound[2:]), start=1):
        round_id = demo.open(study(f"quarter-{number}", chosen))
        demo.end(round_id)
        found = demo.refused("", round_id, chosen)
        refused, held = {**refused, **found.refused}, held and found.held
    yield Attack("four rosters that together isolate one member", refused, held)

    refused, held = {}, True
    for number, (low, high) in enumerate(((0, 200), (0, 150), (120, 130)), start=1):
        round_id = demo.open(study(f"shrinking-{number}", TAKE_PART, variable={"bounds": [low, high]}))
        demo.end(round_id)
        found = demo.refused("", round_id, TAKE_PART)
        refused, held = {**refused, **found.refused}, held and found.held
    yield Attack("bounds that shrink from invitation to invitation", refused, held)

    replayed = {}
    for number, (name, scale) in enumerate(zip(bound[:3], (1, 1000, 1_000_000), strict=True), start=1):
        kind = {"type": "fixed", "scale": scale} if scale > 1 else {}
        round_id = demo.open(study(f"scale-{number}", TAKE_PART, variable=kind), hold=True)
        demo._until(lambda shown=round_id: demo.show(shown)["phase"] != "inviting", "the consents")
        demo.cancel(round_id)
        replayed[name] = round_id
    round_id = demo.open(study("scale-1", TAKE_PART), **{"from": replayed})
    demo.end(round_id)
    yield demo.refused("scales 1, 1000 and 1,000,000 for three patients", round_id, TAKE_PART)

    round_id = demo.open(study("again-1", TAKE_PART, title="Called aborted"), keep=True)
    demo._until(lambda: all(demo.decision(name, round_id)[0] == "gave" for name in TAKE_PART), "all partial sums")
    demo.cancel(round_id)
    demo.end(round_id)
    round_id = demo.open(study("again-2", less))
    demo.end(round_id)
    yield demo.refused("a round called aborted after all partial sums, and run again without one member", round_id, less)

    round_id = demo.open(study("floor", TAKE_PART, cohort={"minimum": len(TAKE_PART)}), without=["dora", "emil"])
    demo.end(round_id)
    yield demo.refused("a floor lowered between invitation and roster", round_id, [name for name in less if name != "emil"])

    invented = ("ivan", "bob", *GHOSTS)
    round_id = demo.open(study("invented", invented, purpose="Research on blood pressure"))
    demo.end(round_id)
    yield demo.refused("invented members where the policy vouches for real ones", round_id, ("ivan",))

    bins = [{"kind": "histogram", "variable": VARIABLE, "bins": 300}]
    round_id = demo.open(study("narrow", TAKE_PART, statistics=bins))
    demo.end(round_id)
    yield demo.refused("bins so narrow that one person is visible", round_id, TAKE_PART)

    round_id = demo.open(study(STUDY, tuple(VALUES)), **{"from": {"dora": first}})
    demo.end(round_id)
    yield demo.refused("a consent replayed", round_id, less)

    yield every_minute(demo)


def every_minute(demo: Demonstration) -> Attack:
    """bob's value changes; the same study over the same roster shows nothing of it, and charlie has had enough in the end."""
    before = None
    while True:
        round_id = demo.open(study(STUDY, tuple(VALUES)))
        demo.end(round_id)
        decision, why = demo.decision("charlie", round_id)
        if decision == "declined":
            return Attack("the same study every minute, to watch a value change", {"charlie": why}, True)
        now = demo.mean(round_id)
        if before is not None and now != before:
            return Attack("the same study every minute, to watch a value change", {}, False)
        before = now


@contextlib.contextmanager
def running(keep: Path | None) -> Iterator[tuple[Demonstration, dict[str, str]]]:
    """All daemons and what their sources need; and what each source is, in words."""
    with contextlib.ExitStack() as stack:
        place = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cohortium-")))
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        found, words = stack.enter_context(sources(place))
        everybody = {**found, **{name: {"literal": 0} for name in GHOSTS}}
        deployment = Cheated(place, everybody, Question())
        deployment.write()
        daemons = stack.enter_context(Daemons(deployment))
        daemons.wait_until_ready()
        yield Demonstration(deployment), words


def main() -> int:
    """Runs it all and says what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything in DIR, which must be new")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} is there already; name a new directory")
    told: list[Attack] = []
    with running(options.keep) as (demo, words):
        first, decisions, mean = honest(demo)
        if options.json:
            print(json.dumps({"decisions": decisions, "mean": mean, "sources": words}), flush=True)
        else:
            print(f"{STUDY}: mean {mean:g} {UNIT} over {sum(one == 'gave' for one, _ in decisions.values())} patients")
            for name, (decision, why) in decisions.items():
                print(f"  {name:<8} {words[name]:<42} {decision}{f': {why}' if why else ''}", flush=True)
        for attack in attacks(demo, first):
            told.append(attack)
            if options.json:
                print(json.dumps({"attack": attack.name, "refused": attack.refused, "held": attack.held}), flush=True)
                continue
            print(f"\n{'refused' if attack.held else 'NOT REFUSED'}: {attack.name}")
            by_reason: dict[str, list[str]] = {}
            for name, why in attack.refused.items():
                by_reason.setdefault(why, []).append(name)
            for why, names in by_reason.items():
                print(f"  {', '.join(names)}: {why}", flush=True)
    return 0 if all(attack.held for attack in told) else 1


if __name__ == "__main__":
    sys.exit(main())
