"""A hospital that asks too much: the real daemon, with tricks. For demonstrations and tests of what patients refuse.

    python scripts/cheating_hospital.py --config hospital.yaml

It is honest until its admin socket hears POST /v1/tricks; the next round that is opened then plays them:

    {"without": [NAME, ...]}    leaves members out of the roster that it sends
    {"from": {NAME: ROUND}}     puts the Consent of another round in place of a member's own
    {"hold": true}              sends no roster: the Consents are all it wants
    {"keep": true}              has the partial sums of all, and says nothing
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import msgspec
from aiohttp import web

from mpc.entropy import SeededEntropy
from mpc.identity import Identity
from mpc.keys import Keyring, WrappingKey
from mpc.messages import Consent, Kind, Member, Roster
from mpc.rounds.events import Effect, Send
from mpc.rounds.hospital import HospitalRound
from mpc.rounds.roster import UnreleasedRoster
from mpc.study import Study
from mpc.wire import Struct, decode
from nodes.admin.api import json_response
from nodes.config import HospitalConfig, check_hospital
from nodes.hospital import HospitalDaemon
from nodes.run import run_daemon


class Tricks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"replayed": "from"}):
    """What the next round does."""

    without: tuple[str, ...] = ()
    replayed: Mapping[str, str] = msgspec.field(default_factory=dict)
    hold: bool = False
    keep: bool = False


class CheatingRound(HospitalRound):
    """A round that plays tricks. `noted` is where Consents are noted: by round, then by the member's name."""

    tricks = Tricks()
    noted: dict[str, dict[str, Member]]

    def _to_all(self, kind: Kind, content: Struct, until: float) -> list[Send]:
        if not isinstance(content, Roster):
            return super()._to_all(kind, content, until)
        names = {
            _key(member): participant.identity.name for participant, member in zip(self.members, content.members, strict=True)
        }
        self.noted[self.round_id.hex()] = {names[_key(member)]: member for member in content.members}
        if self.tricks.hold:
            return []
        members = tuple(
            self.noted[self.tricks.replayed[name]][name] if (name := names[_key(member)]) in self.tricks.replayed else member
            for member in content.members
            if names[_key(member)] not in self.tricks.without
        )
        return super()._to_all(kind, msgspec.structs.replace(content, members=members), until)

    def _release(self, now: float) -> list[Effect]:
        return [] if self.tricks.keep else super()._release(now)


def _key(member: Member) -> bytes:
    return decode(member.consent.body, Consent).nonce


class CheatingHospital(HospitalDaemon):
    """Keeps to the protocol but for its rounds."""

    def __init__(self, config: HospitalConfig) -> None:
        super().__init__(config)
        self._tricks = Tricks()
        self._noted: dict[str, dict[str, Member]] = {}
        self.admin.app.router.add_post("/v1/tricks", self._take_tricks)

    async def _take_tricks(self, request: web.Request) -> web.Response:
        self._tricks = msgspec.json.decode(await request.read(), type=Tricks)
        return await json_response({})

    def _machine(
        self,
        round_id: bytes,
        keyring: Keyring,
        seed: bytes,
        study: Study,
        sealed_for: Mapping[Identity, WrappingKey | None],
        unreleased: Sequence[UnreleasedRoster],
    ) -> HospitalRound:
        machine = CheatingRound(
            round_id,
            keyring,
            SeededEntropy(seed),
            credentials=self.credentials,
            me=self.credential,
            study=study,
            sealed_for=sealed_for,
            unreleased=unreleased,
        )
        machine.tricks, machine.noted = self._tricks, self._noted
        self._tricks = Tricks()
        return machine


@click.command()
@click.option("--config", required=True, type=click.Path(path_type=Path))
def main(config: Path) -> Any:
    """Run the daemon until it is told to stop."""
    run_daemon(config, lambda: check_hospital(config), CheatingHospital, check=False)


if __name__ == "__main__":
    main()
