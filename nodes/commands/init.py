"""`cohortium init`: an authority and every node's directory, from one command."""

from __future__ import annotations

import time
from pathlib import Path

import click

from nodes.commands.pki.options import path


@click.command()
@click.option("--consortium", "name", required=True, metavar="NAME", help="What it is called, for instance heart.example.")
@click.option("--hospital", required=True, metavar="H", help="NAME, NAME@HOST or NAME@HOST:PORT.")
@click.option("--patients", required=True, multiple=True, metavar="A,B,C", help="The same for each, at least three.")
@click.option("--relay", metavar="R", help="The same; patients then listen nowhere.")
@click.option("--domain", default="", metavar="DOMAIN", help="Where a HOST is not given it is NAME.DOMAIN.")
@click.option("--door", default=7010, show_default=True, type=int, metavar="PORT", help="Where other nodes enrol.")
@click.option("--out", type=path, metavar="DIR", help="Made anew (default: NAME).")
@click.option("--tar", is_flag=True, help="A tar file a node instead of a directory.")
@click.option("--enroll", is_flag=True, help="Make tokens: each node makes its own key. Else keys are made here.")
@click.option("--ttl", default="7d", show_default=True, metavar="TIME", help="How long tokens can be used: 90s, 10m, 2h or 7d.")
def init(
    name: str,
    hospital: str,
    patients: tuple[str, ...],
    relay: str | None,
    domain: str,
    door: int,
    out: Path | None,
    tar: bool,
    enroll: bool,
    ttl: str,
) -> None:
    """Make a consortium: an authority, and for each node a directory with all that its daemon needs.

    The relay holds the authority, or the hospital where there is no relay: it enrols nodes and renews their certificates.
    """
    from mpc.identity import Role
    from nodes.commands.pki.invite import seconds_of
    from nodes.enrolment.consortium import ROOT_DIRECTORY, Consortium, Member, found, parse_patients

    consortium = Consortium(
        name,
        Member.parse(name, Role.HOSPITAL, hospital, domain),
        parse_patients(name, patients, domain),
        None if relay is None else Member.parse(name, Role.RELAY, relay, domain),
        door,
    )
    place = out or Path(name)
    made = found(consortium, place, time.time(), enroll=seconds_of(ttl) if enroll else None, tar=tar)
    for file, member in zip(made[1:], consortium.members, strict=True):
        where = member.host if consortium.listens(member) else "its own machine"
        click.echo(f"{file}  for {where}, by a way that nobody else reads")
    click.echo(f"{place / ROOT_DIRECTORY}  for two storage devices in two safes; delete it here")
    if enroll:
        holder = consortium.holder.identity
        click.echo(f"start {holder.name} first; then, on each other machine: cohortium enroll --dir NAME")
