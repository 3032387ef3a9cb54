"""Counters, gauges and histograms, and their text for Prometheus (exposition format 0.0.4). For the event loop's thread only.

Label values are fixed slugs, so that a metric has few series and never holds what somebody sent.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)


class _Metric:
    """A name, what it means, and one number for each combination of label values."""

    kind = ""

    def __init__(self, name: str, help: str, labels: tuple[str, ...] = ()) -> None:
        if _METRIC.fullmatch(name) is None or not all(_LABEL.fullmatch(label) for label in labels):
            raise ValueError(f"metric {name}: its name or a label's name is not one that Prometheus takes")
        self.name = name
        self.help = help
        self.labels = labels
        self._names = frozenset(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def _key(self, labels: dict[str, str]) -> tuple[str, ...]:
        if labels.keys() != self._names:
            raise ValueError(f"metric {self.name}: its labels are {', '.join(self.labels) or 'none'}")
        key = tuple([labels[label] for label in self.labels])
        if key not in self._values and not all(_SLUG.fullmatch(value) for value in key):
            raise ValueError(f"metric {self.name}: a label's value is not a slug")
        return key

    def value(self, **labels: str) -> float:
        """The current number; 0 before the first change."""
        return self._values.get(self._key(labels), 0)

    def lines(self) -> Iterator[str]:
        """The metric in the exposition format, without line ends."""
        yield f"# HELP {self.name} {_escape(self.help)}"
        yield f"# TYPE {self.name} {self.kind}"
        for key, value in sorted(self._values.items()):
            # Slugs have nothing in them that the format would want escaped.
            pairs = ",".join(f'{label}="{text}"' for label, text in zip(self.labels, key, strict=True))
            yield f"{self.name}{{{pairs}}} {_number(value)}" if pairs else f"{self.name} {_number(value)}"


class Counter(_Metric):
    """A number that only grows while the process lives. Its name should end in `_total`."""

    kind = "counter"

    def inc(self, amount: float = 1, **labels: str) -> None:
        """Adds `amount`. Raises ValueError for a negative one, other labels, or a label value that is no slug."""
        if not amount >= 0:
            raise ValueError(f"metric {self.name}: a counter does not go down")
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0) + amount


class Gauge(_Metric):
    """A number that goes up and down. With `read`, it is whatever that returns when it is asked for."""

    kind = "gauge"

    def __init__(self, name: str, help: str, labels: tuple[str, ...] = (), read: Callable[[], float] | None = None) -> None:
        super().__init__(name, help, labels)
        self._read = read

    def value(self, **labels: str) -> float:
        """The current number; 0 before the first change."""
        self._refresh()
        return super().value(**labels)

    def lines(self) -> Iterator[str]:
        """The metric in the exposition format, without line ends."""
        self._refresh()
        return super().lines()

    def _refresh(self) -> None:
        if self._read is not None:
            self._values[()] = self._read()

    def set(self, value: float, **labels: str) -> None:
        """Raises ValueError for other labels, or a label value that is no slug."""
        self._values[self._key(labels)] = value


class Histogram(_Metric):
    """How often an observation was at most each of `bounds`, which ascend; how many there were, and their sum."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float], labels: tuple[str, ...] = ()) -> None:
        super().__init__(name, help, labels)
        if "le" in labels or not bounds or list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
            raise ValueError(f"metric {name}: its bounds must ascend and be finite, and no label may be called 'le'")
        self._bounds = tuple(float(bound) for bound in bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}

    def observe(self, value: float, **labels: str) -> None:
        """Counts one observation. Raises ValueError for other labels, or a label value that is no slug."""
        key = self._key(labels)
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._values[key] = self._values.get(key, 0) + value

    def lines(self) -> Iterator[str]:
        """The metric in the exposition format, without line ends."""
        yield f"# HELP {self.name} {_escape(self.help)}"
        yield f"# TYPE {self.name} {self.kind}"
        for key, counts in sorted(self._counts.items()):
            pairs = [f'{label}="{text}"' for label, text in zip(self.labels, key, strict=True)]
            total = 0
            for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
                total += count
                le = f'le="{_number(bound)}"'
                yield f"{self.name}_bucket{{{','.join([*pairs, le])}}} {total}"
            suffix = f"{{{','.join(pairs)}}}" if pairs else ""
            yield f"{self.name}_sum{suffix} {_number(self._values[key])}"
            yield f"{self.name}_count{suffix} {total}"


class Registry:
    """The metrics of one daemon."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
        """A new counter. Raises ValueError when there is a metric of this name."""
        counter = Counter(name, help, labels)
        self._add(counter)
        return counter

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = (), read: Callable[[], float] | None = None) -> Gauge:
        """A new gauge; `read` gives its number where it has no labels. Raises ValueError when there is a metric of this name."""
        gauge = Gauge(name, help, labels, read)
        self._add(gauge)
        return gauge

    def histogram(self, name: str, help: str, bounds: Sequence[float], labels: tuple[str, ...] = ()) -> Histogram:
        """A new histogram. Raises ValueError when there is a metric of this name."""
        histogram = Histogram(name, help, bounds, labels)
        self._add(histogram)
        return histogram

    def _add(self, metric: _Metric) -> None:
        if metric.name in self._metrics:
            raise ValueError(f"metric {metric.name}: there is one of this name")
        self._metrics[metric.name] = metric

    def render(self) -> str:
        """All metrics, by name; to be served as CONTENT_TYPE."""
        return "".join(f"{line}\n" for name in sorted(self._metrics) for line in self._metrics[name].lines())


def _escape(help: str) -> str:
    return help.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
