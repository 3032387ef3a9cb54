"""Studies at the admin socket of a hospital."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mpc.errors import StudyError
from nodes.admin.api import AdminApi
from nodes.admin.client import AdminClient
from nodes.admin.studies import add_study_routes
from nodes.metrics import Registry
from nodes.studies import Planned, load_studies
from tests.nodes.house import STUDY

PLAN: dict[str, object] = {"study": "pressure", "schedule": "every 7d", "next": 1_772_438_400.0}


class Hospital:
    """What the routes ask of a hospital."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def studies(self) -> dict[str, Planned]:
        return load_studies(self.directory, "demo")

    def study(self, study_id: str) -> Planned:
        found = self.studies().get(study_id)
        if found is None:
            raise StudyError(f"there is no study {study_id!r}")
        return found

    def schedule(self) -> list[dict[str, object]]:
        return [PLAN]


@pytest.fixture
async def client() -> AsyncIterator[AdminClient]:
    with tempfile.TemporaryDirectory(prefix="co") as directory:
        (Path(directory) / "pressure.yaml").write_text(STUDY + "schedule: {every: 7d}\n")
        admin = AdminApi(Path(directory) / "admin.sock", dict, Registry())
        add_study_routes(admin, Hospital(Path(directory)))
        await admin.start()
        try:
            async with AdminClient(Path(directory) / "admin.sock") as made:
                yield made
        finally:
            await admin.stop()


async def test_studies_are_listed(client: AdminClient) -> None:
    assert await client.get("/v1/studies") == [{"id": "pressure", "title": "Mean systolic pressure", "patients": 3}]


async def test_one_is_shown_in_words_and_as_its_file_has_it(client: AdminClient) -> None:
    found = await client.get("/v1/studies/pressure")
    assert found["id"] == "pressure"
    assert ["study", ["pressure: Mean systolic pressure"]] in found["words"]
    assert found["file"]["schedule"] == {"every": "7d", "once": None, "cron": None}
    assert found["file"]["statistics"][0]["kind"] == "sum"
    with pytest.raises(StudyError, match="there is no study 'weight'"):
        await client.get("/v1/studies/weight")


async def test_the_schedule_is_the_schedulers(client: AdminClient) -> None:
    assert await client.get("/v1/schedule") == [PLAN]
