"""A logistic regression at the hospital: rounds that follow one another until the fit has come to rest, or will not.

Every round is a round like any other, and opens by itself when the one before is released. It carries the fit so far with what it
asks, so that a restart does not end it. All rounds run over exactly the members of the first: between totals of two rosters lies
what the members in one of them alone have added. So a member that drops out ends the fit, and a person may begin another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from mpc.release import Told, Withheld, release
from mpc.result import Result
from mpc.statistics.logistic_regression import LogisticRegression, LogisticRegressionFigures
from mpc.statistics.newton import Fit
from mpc.study import Study
from mpc.wire import Struct


class Fitting(Struct, frozen=True):
    """A fit under way."""

    study: Study
    """As a person asked."""
    members: tuple[str, ...]
    """Identity URIs of those that the first round ran over."""
    results: tuple[Result, ...]
    """Of each round, first to last."""

    @classmethod
    def of(cls, study: Study) -> Fitting:
        """Before the first round."""
        return cls(study, (), ())

    def after(self, members: Sequence[str], result: Result) -> Fitting:
        """With one more round."""
        return Fitting(self.study, self.members or tuple(members), (*self.results, result))

    def stand(self) -> Fit | LogisticRegressionFigures:
        """The next round, or what came of all. The same every time: nothing of it is kept but the results."""
        return self._replayed()[1]

    def told(self) -> tuple[Told, ...]:
        """What may be told once the fit is over: what the first round gave, which asked for everything, but for its one step.

        A step that the rules withhold, of whichever round, withholds the fit.
        """
        asked, fitted = self._replayed()
        found = list(release(self.study, self.results[0]))
        if isinstance(fitted, LogisticRegressionFigures):
            (at,) = [place for place, one in enumerate(self.study.statistics) if one.kind == LogisticRegression.kind]
            later = [release(study, result)[0] for study, result in zip(asked[1:], self.results[1:], strict=True)]
            hidden = [step for step in (found[at], *later) if isinstance(step, Withheld)]
            if hidden:
                found[at] = hidden[0]
            elif isinstance(step := found[at], LogisticRegressionFigures):
                # How many records and events there are is told as the rules have it, and is the same in every round.
                found[at] = msgspec.structs.replace(
                    fitted, n=step.n, left_out=step.left_out, events=step.events, notes=step.notes
                )
        return tuple(found)

    def _replayed(self) -> tuple[list[Study], Fit | LogisticRegressionFigures]:
        """What each round asked that has been run, and what follows them."""
        fit, asked = Fit.start(self.study), list[Study]()
        for result in self.results:
            asked.append(fit.study)
            following = fit.advance([statistic.array() for statistic in result.statistics], result.members)
            if isinstance(following, LogisticRegressionFigures):
                return asked, following
            again = msgspec.structs.replace(following.study, members=self.members, minimum=len(self.members))
            fit = replace(following, study=again)
        return asked, fit


def is_fit(study: Study) -> bool:
    """Whether a round of the study is the first of a fit."""
    return any(statistic.kind == LogisticRegression.kind for statistic in study.statistics)
