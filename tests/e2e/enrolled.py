"""Daemons in directories that `cohortium init` or `cohortium enroll` made, in place of those of `scripts.deployment`.

The two have one layout: DIR/NAME/ROLE.yaml, with the admin socket beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scripts.daemons import Daemons
from scripts.deployment import Deployment, Question
from tests.e2e.harness import Cohort

BOUND = 1_000_000


class Enrolled(Cohort):
    """A cohort whose files are there already, or come later."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.bound = directory, BOUND
        self.deployment = Deployment(directory, {}, Question(BOUND))
        self.daemons = Daemons(self.deployment)

    def config(self, name: str) -> Path:
        """A node's YAML file."""
        return self.deployment.config(name)

    def prepare(self, name: str, value: int | None = None) -> None:
        """What a test wants of a node: it tells all, asks for revocation lists all the time, and answers as often as asked."""

        def change(config: dict[str, Any]) -> None:
            config |= {"log": {"level": "debug"}, "revocation": {"every": 1}}
            if value is not None:
                config["sources"] = {"value": {"bounds": [0, BOUND], "literal": value}}
                config["policy"]["invitations_per_minute"] = 6000

        self.edit(name, change)

    def port(self, name: str) -> int:
        """Where a node listens."""
        return int(str(yaml.safe_load(self.config(name).read_text())["listen"]).rpartition(":")[2])
