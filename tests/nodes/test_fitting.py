"""A fit of several rounds: it ends where pooled data end, goes on after a restart, and ends clearly where it cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
from msgspec.structs import replace

from mpc.release import Told, Withheld, release
from mpc.result import Result, make_result
from mpc.statistics.logistic_regression import LogisticRegressionFigures
from mpc.statistics.mean import MeanFigures
from mpc.statistics.newton import Fit
from mpc.study import UNRESTRICTED, Release, Statistic, Study, Variable
from nodes import fitting as fitting_module
from nodes.fitting import Fitting, is_fit
from nodes.hospital import HospitalDaemon
from nodes.records import RoundRecord
from tests.mpc.statistics.pool import question, totals, whole
from tests.nodes.house import Site, at_work, eventually, make_site, short_directory

Columns = dict[str, npt.NDArray[Any]]
ILL = Variable.category("ill", ("no", "yes"))


def made_up(records: int = 90) -> Columns:
    """Ages, and an illness that comes with them."""
    chance = np.random.default_rng(11)
    age = chance.integers(20, 90, records)
    ill = (chance.random(records) < 1 / (1 + np.exp(-(age - 55) / 12))).astype(np.int64)
    return {"age": age, "ill": ill}


def expected(data: Columns) -> list[float]:
    """Intercept and slope, by somebody else."""
    found = sm.Logit(data["ill"], sm.add_constant(data["age"].astype(float))).fit(disp=False, tol=1e-12)
    return [float(one) for one in found.params]


def study_of(release: Release = UNRESTRICTED) -> Study:
    asked = question(
        (ILL, whole("age", 18, 100)),
        Statistic.of("mean", "age"),
        Statistic.of("logistic-regression", "ill", "age"),
        members=10,
        records=90,
    )
    return replace(asked, release=release)


def played(study: Study, data: Columns) -> Fitting:
    """All rounds, with the arithmetic of rounds alone."""
    fitting, asked = Fitting.of(study), study
    while True:
        used = {variable.name for variable in asked.variables}
        values = totals(asked, {name: data[name] for name in used})
        fitting = fitting.after(study.members, make_result(asked, bytes(32), len(asked.members), values))
        stand = fitting.stand()
        if not isinstance(stand, Fit):
            return fitting
        asked = stand.study


def estimates(figures: Any) -> list[float | None]:
    return [one.estimate.value for one in figures.coefficients]


def test_a_fit_is_told_with_what_its_first_round_asked_besides() -> None:
    data = made_up()
    mean, fit = played(study_of(), data).told()
    assert isinstance(mean, MeanFigures)
    assert mean.mean.value == pytest.approx(data["age"].mean())
    assert isinstance(fit, LogisticRegressionFigures)
    assert (fit.converged, fit.n, fit.events) == (True, 90, int(data["ill"].sum()))
    assert fit.rounds > 3
    assert estimates(fit) == pytest.approx(expected(data), rel=1e-6)


def test_the_later_rounds_run_over_exactly_the_members_of_the_first() -> None:
    study, data = study_of(), made_up()
    values = totals(study, data)
    members = study.members[:7]
    stand = Fitting.of(study).after(members, make_result(study, bytes(32), 10, values)).stand()
    assert isinstance(stand, Fit)
    assert (stand.study.members, stand.study.minimum) == (members, 7)
    assert [statistic.kind for statistic in stand.study.statistics] == ["logistic-regression"]


def test_a_fit_that_does_not_converge_says_why() -> None:
    data = made_up()
    data["ill"] = (data["age"] > 55).astype(np.int64)
    _, fit = played(study_of(), data).told()
    assert isinstance(fit, LogisticRegressionFigures)
    assert not fit.converged
    assert estimates(fit) == [None, None]
    assert "the terms separate the outcomes" in fit.coefficients[0].estimate.reason


def test_release_rules_hold_for_the_fit() -> None:
    data = made_up()
    told = played(study_of(Release(0, 20)), data).told()[1]
    assert isinstance(told, LogisticRegressionFigures)
    assert (told.n, told.events % 20) == (100, 0)
    assert estimates(told) == pytest.approx(expected(data), rel=1e-6)
    assert isinstance(played(study_of(Release(91, 0)), data).told()[1], Withheld)


def test_a_step_that_a_later_round_must_not_tell_withholds_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = played(study_of(Release(5, 0)), made_up())
    last = fitting.results[-1]
    assert isinstance(fitting.told()[1], LogisticRegressionFigures)

    def strict(study: Study, result: Result) -> tuple[Told, ...]:
        refused = Withheld(statistic="logistic-regression", id="fit", variable="ill", reason="too few at these coefficients")
        return (refused,) if result is last else release(study, result)

    monkeypatch.setattr(fitting_module, "release", strict)
    assert fitting.told()[1] == strict(fitting.study, last)[0]


def test_what_is_no_fit() -> None:
    assert is_fit(study_of())
    assert not is_fit(replace(study_of(), statistics=(Statistic.of("mean", "age"),)))


# -- daemons

STUDY = """\
id: pressure
title: Illness and age
purpose: test
records: 100
variables:
  - {name: ill, type: category, categories: ["no", "yes"]}
  - {name: age, bounds: [18, 100]}
statistics:
  - {kind: logistic-regression, variable: ill, others: [age]}
cohort: {members: [alice, bob, charlie]}
"""
NAMES = ("alice", "bob", "charlie")


def write_records(site: Site, data: Columns) -> None:
    """Deals them out to the patients, each with a file of its own."""
    for at, name in enumerate(NAMES):
        ages, ills = data["age"][at::3], data["ill"][at::3]
        rows = [f"{age},{('no', 'yes')[ill]}" for age, ill in zip(ages, ills, strict=True)]
        (site.directory / f"{name}.csv").write_text("age,ill\n" + "\n".join(rows) + "\n")
        path = site.patients[name]
        head, _, rest = path.read_text().partition("sources:")
        policy = rest[rest.index("policy: {") :].replace("policy: {", "policy: {records: 100, ")
        path.write_text(
            f"{head}sources:\n"
            f"  age: {{bounds: [18, 100], csv: {{file: {name}.csv, column: age}}}}\n"
            f"  ill: {{categories: ['no', 'yes'], csv: {{file: {name}.csv, column: ill}}}}\n{policy}"
        )


@pytest.fixture
def site() -> Iterator[Site]:
    with short_directory() as directory:
        made = make_site(directory, dict.fromkeys(NAMES, 1), STUDY)
        write_records(made, made_up())
        yield made


def is_over(hospital: HospitalDaemon) -> bool:
    """Whether the newest round has ended and none follows."""
    *_, last = hospital.records.all()
    return last.ended and not last.followed_by


async def answer(hospital: HospitalDaemon, record: RoundRecord) -> Any:
    told = await hospital.answer(record)
    assert told is not None
    return told.statistics[0]


async def test_rounds_follow_one_another_until_the_fit_has_converged(site: Site) -> None:
    hospital, patients = site.daemons()
    async with at_work(hospital, *patients.values()):
        await hospital.open_round("pressure")
        await eventually(lambda: is_over(hospital))
        records = hospital.records.all()
        assert [record.fit for record in records] == list(range(1, len(records) + 1))
        assert [record.follows for record in records[1:]] == [record.round_id.hex() for record in records[:-1]]
        assert {record.members for record in records} == {NAMES}
        fit = await answer(hospital, records[-1])
        assert (fit.converged, fit.rounds) == (True, len(records))
        assert estimates(fit) == pytest.approx(expected(made_up()), rel=1e-6)


async def test_a_fit_goes_on_after_a_restart_of_the_hospital(site: Site) -> None:
    hospital, patients = site.daemons()
    charlie = patients.pop("charlie")
    async with at_work(*patients.values()):
        async with at_work(hospital):
            async with at_work(charlie):
                await hospital.open_round("pressure")
                await eventually(lambda: len(hospital.records.all()) > 1)
            started = len(hospital.records.all())
            await eventually(lambda: is_over(hospital) or hospital.records.all()[-1].waiting_for == ("charlie",))
            assert not is_over(hospital), "it was over before charlie had stopped"
        again, everybody = site.daemons()
        async with at_work(again, everybody["charlie"]):
            await eventually(lambda: is_over(again))
            last = again.records.all()[-1]
            assert len(again.records.all()) > started
            fit = await answer(again, last)
            assert (fit.converged, fit.rounds) == (True, last.fit)
            assert estimates(fit) == pytest.approx(expected(made_up()), rel=1e-6)


async def test_a_member_that_has_no_values_any_more_ends_the_fit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital, patients = site.daemons()
    charlie = patients["charlie"]
    read = charlie.driver._read_sources
    times: list[Study] = []

    def once(study: Study) -> Any:
        times.append(study)
        if len(times) == 2:
            Path(site.directory / "charlie.csv").unlink()
        return read(study)

    monkeypatch.setattr(charlie.driver, "_read_sources", once)
    async with at_work(hospital, *patients.values()):
        await hospital.open_round("pressure")
        await eventually(lambda: is_over(hospital))
        first, second = hospital.records.all()
        assert (first.outcome, second.outcome, second.code, second.missing) == (
            "released",
            "aborted",
            "unavailable",
            ("charlie",),
        )
        step = await answer(hospital, first)
        assert not step.converged
        assert "this is one step of several" in step.coefficients[0].estimate.reason
