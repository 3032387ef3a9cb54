"""The text that Prometheus reads, and the mistakes of whoever counts."""

from __future__ import annotations

import math

import pytest

from nodes.metrics import CONTENT_TYPE, Counter, Gauge, Registry


def test_metrics_are_rendered_in_the_exposition_format() -> None:
    registry = Registry()
    rounds = registry.counter("cohortium_rounds_total", "Rounds by outcome.", ("outcome", "code"))
    up = registry.gauge("cohortium_open_rounds", "Back\\slash and\nline.")
    registry.counter("cohortium_empty_total", "Nothing yet.")
    rounds.inc(outcome="released", code="none")
    rounds.inc(2, outcome="aborted", code="equivocation")
    rounds.inc(outcome="released", code="none")
    up.set(1.5)
    assert registry.render() == (
        "# HELP cohortium_empty_total Nothing yet.\n"
        "# TYPE cohortium_empty_total counter\n"
        "cohortium_empty_total 0\n"
        "# HELP cohortium_open_rounds Back\\\\slash and\\nline.\n"
        "# TYPE cohortium_open_rounds gauge\n"
        "cohortium_open_rounds 1.5\n"
        "# HELP cohortium_rounds_total Rounds by outcome.\n"
        "# TYPE cohortium_rounds_total counter\n"
        'cohortium_rounds_total{outcome="aborted",code="equivocation"} 2\n'
        'cohortium_rounds_total{outcome="released",code="none"} 2\n'
    )
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(("number", "text"), [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e20, "1e+20")])
def test_unusual_numbers_are_spelled_as_prometheus_does(number: float, text: str) -> None:
    gauge = Gauge("a", "b")
    gauge.set(number)
    assert list(gauge.lines())[-1] == f"a {text}"


def test_a_value_can_be_asked() -> None:
    counter = Counter("a_total", "b", ("reason",))
    assert counter.value(reason="signature") == 0
    counter.inc(reason="signature")
    assert counter.value(reason="signature") == 1


@pytest.mark.parametrize("value", ["", "Bob", "a b", 'a"b', "a\nb", "x" * 64, "-a"])
def test_a_label_value_that_is_no_slug_is_refused_unseen(value: str) -> None:
    with pytest.raises(ValueError, match=r"^metric a_total: a label's value is not a slug$"):
        Counter("a_total", "b", ("reason",)).inc(reason=value)


def test_other_labels_are_refused() -> None:
    counter = Counter("a_total", "b", ("reason",))
    with pytest.raises(ValueError, match="its labels are reason"):
        counter.inc()
    with pytest.raises(ValueError, match="its labels are none"):
        Gauge("a", "b").set(1, reason="x")


@pytest.mark.parametrize("amount", [-1, math.nan])
def test_a_counter_does_not_go_down(amount: float) -> None:
    with pytest.raises(ValueError, match="a counter does not go down"):
        Counter("a_total", "b").inc(amount)


@pytest.mark.parametrize(("name", "label"), [("a-b", "c"), ("1a", "c"), ("a", "c-d"), ("a", "__c"), ("a", "c:d")])
def test_a_name_that_prometheus_does_not_take(name: str, label: str) -> None:
    with pytest.raises(ValueError, match="is not one that Prometheus takes"):
        Counter(name, "b", (label,))


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = Registry()
    registry.counter("a_total", "b")
    with pytest.raises(ValueError, match="there is one of this name"):
        registry.gauge("a_total", "b")


def test_a_histogram_counts_up_to_each_bound() -> None:
    registry = Registry()
    seconds = registry.histogram("round_seconds", "How long.", (0.1, 1), ("phase",))
    for value in (0.05, 0.1, 0.5, 7):
        seconds.observe(value, phase="sharing")
    assert registry.render().splitlines() == [
        "# HELP round_seconds How long.",
        "# TYPE round_seconds histogram",
        'round_seconds_bucket{phase="sharing",le="0.1"} 2',
        'round_seconds_bucket{phase="sharing",le="1.0"} 3',
        'round_seconds_bucket{phase="sharing",le="+Inf"} 4',
        'round_seconds_sum{phase="sharing"} 7.65',
        'round_seconds_count{phase="sharing"} 4',
    ]


@pytest.mark.parametrize("bounds", [(), (2, 1), (1, 1), (1, math.inf)])
def test_a_histograms_bounds_ascend(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Registry().histogram("seconds", "", bounds)


def test_a_gauge_can_be_read_when_it_is_asked_for() -> None:
    numbers = iter((1, 2))
    registry = Registry()
    registry.gauge("depth", "", read=lambda: next(numbers))
    assert registry.render().splitlines()[-1] == "depth 1"
    assert registry.render().splitlines()[-1] == "depth 2"
