"""`cohortium pki init`: a new authority, with its root in the same place or in one that is locked away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpc.errors import UsageError
from nodes.commands.pki.options import DIRECTORY, new_passphrase, passphrase_of, path

if TYPE_CHECKING:
    from pki.authority import Authority


@click.command()
@click.argument("directory", type=path, required=False)
@click.option("--dir", "directory_option", type=path, metavar="DIR", help="Where the authority lives (default: ca).")
@click.option("--consortium", required=True, metavar="NAME", help="What its certificates are for.")
@click.option(
    "--root-dir", type=path, metavar="ROOT", help="Keep the root there, made if missing; DIR gets an authority below it."
)
@click.option("--protect", is_flag=True, help="Ask on the terminal for a passphrase for each new key.")
@click.option("--passphrase-file", type=path, metavar="FILE", help="Protect the key in DIR with the passphrase in FILE.")
@click.option("--root-passphrase-file", type=path, metavar="FILE", help="The same for the key in ROOT.")
@click.option("--force", is_flag=True, help="Replace an authority in DIR; all that it issued becomes worthless.")
def init(
    directory: Path | None,
    directory_option: Path | None,
    consortium: str,
    root_dir: Path | None,
    protect: bool,
    passphrase_file: Path | None,
    root_passphrase_file: Path | None,
    force: bool,
) -> None:
    """Make a new authority in DIRECTORY."""
    from pki.authority import Authority
    from pki.office import issuing_path, key_path, root_path
    from pki.show import fingerprint

    if directory is not None and directory_option is not None:
        raise UsageError("the directory is given twice; use DIRECTORY or --dir")
    if root_passphrase_file is not None and root_dir is None:
        raise UsageError("--root-passphrase-file goes with --root-dir; use --passphrase-file")
    place = directory or directory_option or DIRECTORY
    now = time.time()
    if root_dir is None:
        passphrase = new_passphrase(key_path(place), passphrase_file, protect)
        authority = Authority.create(place, consortium, now, force, passphrase=passphrase)
    else:
        if root_dir.resolve() == place.resolve():
            raise UsageError("--root-dir must be another directory than that of the authority below it")
        root = _root(root_dir, consortium, now, protect, root_passphrase_file)
        passphrase = new_passphrase(key_path(place), passphrase_file, protect)
        authority = Authority.create_below(root, place, now, force, passphrase=passphrase)
    click.echo(f"authority of {authority.consortium} in {authority.directory}")
    click.echo(f"  {root_path(place).name}  give a copy to every node  {fingerprint(authority.root.digest)}")
    click.echo(f"  {key_path(place).name}  keep it secret: whoever has it can be anybody")
    if root_dir is not None:
        click.echo(f"  {issuing_path(place).name}  goes with every certificate that is issued here")
        click.echo(f"root in {root_dir}: lock it away, it is needed only to replace or revoke this authority")


def _root(directory: Path, consortium: str, now: float, protect: bool, passphrase_file: Path | None) -> Authority:
    from pki.authority import Authority
    from pki.files import is_there
    from pki.office import key_path, root_path

    key = key_path(directory)
    if not is_there(root_path(directory)):
        return Authority.create(directory, consortium, now, passphrase=new_passphrase(key, passphrase_file, protect))
    root = Authority.load(directory, passphrase_of(key, passphrase_file, "--root-passphrase-file"))
    if root.consortium != consortium:
        raise UsageError(f"the root in {directory} is for {root.consortium}, not for {consortium}")
    return root
