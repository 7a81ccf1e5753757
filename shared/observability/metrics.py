"""Metrics as plain numbers: adding to one costs about a dict look-up; whoever exports reads them now and then.

They are made once, at import, and fed from the event loop's thread::

    POLLS = counter("uneventful_polls", "Polls answered, by outcome.", ("outcome",))
    POLLS.add(1, ("no_update",))

Label values come from bounded sets. Should one not be bounded after all, the series beyond the limit are counted
together under ``overflow``, so that a hostile label costs no memory.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

MAX_SERIES: Final = 1000
OVERFLOW: Final = "overflow"

# Seconds, from what a lookup in memory takes to what a person waits.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

LabelValues: TypeAlias = tuple[str, ...]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*[a-z0-9]")


class Counter:
    """A number that only grows, one per tuple of label values."""

    __slots__ = ("_overflow", "description", "labels", "name", "values")

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self.values: dict[LabelValues, float] = {} if labels else {(): 0}
        self._overflow = (OVERFLOW,) * len(self.labels)

    def add(self, amount: float = 1, labels: LabelValues = ()) -> None:
        """Count ``amount`` more, under the values of the labels in their order."""
        values = self.values
        try:
            values[labels] += amount
        except KeyError:
            self._first(amount, labels)

    def value(self, labels: LabelValues = ()) -> float:
        """What is counted so far; 0 where nothing was."""
        return self.values.get(labels, 0)

    def read(self) -> list[tuple[LabelValues, float]]:
        """A copy of all series; may be called from any thread."""
        return list(self.values.items())

    def _first(self, amount: float, labels: LabelValues) -> None:
        _check(self.name, self.labels, labels)
        if len(self.values) >= MAX_SERIES:
            labels = self._overflow
        self.values[labels] = self.values.get(labels, 0) + amount


class Gauge:
    """A number that goes up and down, set when it changes or looked up when it is read."""

    __slots__ = ("_watched", "description", "labels", "name", "values")

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self.values: dict[LabelValues, float] = {}
        self._watched: Callable[[], float | Mapping[LabelValues, float]] | None = None

    def set(self, value: float, labels: LabelValues = ()) -> None:
        """Set the number of one series."""
        if labels not in self.values:
            _check(self.name, self.labels, labels)
            if len(self.values) >= MAX_SERIES:
                labels = (OVERFLOW,) * len(self.labels)
        self.values[labels] = value

    def remove(self, labels: LabelValues = ()) -> None:
        """Forget a series whose subject is gone."""
        self.values.pop(labels, None)

    def watch(self, look: Callable[[], float | Mapping[LabelValues, float]]) -> None:
        """Ask ``look`` whenever the gauge is read; it must be quick and callable from any thread."""
        self._watched = look

    def value(self, labels: LabelValues = ()) -> float:
        """The number of one series; 0 where it was never set."""
        return dict(self.read()).get(labels, 0)

    def read(self) -> list[tuple[LabelValues, float]]:
        """A copy of all series; may be called from any thread."""
        series = dict(self.values)
        if self._watched is not None:
            seen = self._watched()
            series.update(seen if isinstance(seen, Mapping) else {(): seen})
        return list(series.items())


class Histogram:
    """How often values fell into each bucket; bucket i counts values up to ``buckets[i]``, the last one all above."""

    __slots__ = ("_overflow", "buckets", "description", "labels", "name", "series")

    def __init__(
        self, name: str, description: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
    ) -> None:
        if not buckets or list(buckets) != sorted(set(buckets)):
            msg = f"the buckets of {name} must rise"
            raise ValueError(msg)
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self.buckets = tuple(buckets)
        # Per series: one count per bucket, one for what is above all of them, and last the sum of the values.
        self.series: dict[LabelValues, list[float]] = {}
        self._overflow = (OVERFLOW,) * len(self.labels)

    def observe(self, value: float, labels: LabelValues = ()) -> None:
        """Count one value (seconds, unless the name says otherwise)."""
        cells = self.series.get(labels)
        if cells is None:
            cells = self._first(labels)
        cells[bisect_left(self.buckets, value)] += 1
        cells[-1] += value

    def count(self, labels: LabelValues = ()) -> int:
        """How many values were observed."""
        cells = self.series.get(labels)
        return 0 if cells is None else int(sum(cells[:-1]))

    def read(self) -> list[tuple[LabelValues, list[float], float]]:
        """A copy of all series as (label values, counts per bucket and above, sum); may be called from any thread."""
        return [(labels, cells[:-1], cells[-1]) for labels, cells in list(self.series.items())]

    def _first(self, labels: LabelValues) -> list[float]:
        _check(self.name, self.labels, labels)
        if len(self.series) >= MAX_SERIES:
            labels = self._overflow
        return self.series.setdefault(labels, [0.0] * (len(self.buckets) + 2))


Metric: TypeAlias = Counter | Gauge | Histogram
_M = TypeVar("_M", Counter, Gauge, Histogram)


def _check(name: str, labels: tuple[str, ...], values: LabelValues) -> None:
    if len(labels) != len(values):
        msg = f"{name} has the labels {labels}, so {values} does not fit"
        raise ValueError(msg)


class Metrics:
    """All metrics of a process, by name."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._listeners: list[Callable[[Metric], None]] = []

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Counter:
        """Make a counter, or return the one of that name; Prometheus shows it with ``_total`` at its end."""
        return self._register(Counter(name, description, labels))

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
        """Make a gauge, or return the one of that name."""
        return self._register(Gauge(name, description, labels))

    def histogram(
        self, name: str, description: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        """Make a histogram, or return the one of that name."""
        return self._register(Histogram(name, description, labels, buckets=buckets))

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def all(self) -> list[Metric]:
        """All metrics, in the order in which they were made."""
        return list(self._metrics.values())

    def listen(self, listener: Callable[[Metric], None]) -> None:
        """Call ``listener`` with every metric there is, and with every one to come."""
        for metric in self.all():
            listener(metric)
        self._listeners.append(listener)

    def _register(self, metric: _M) -> _M:
        known = self._metrics.get(metric.name)
        if known is None:
            if _NAME.fullmatch(metric.name) is None:
                msg = f"{metric.name!r} is no metric's name; use lower-case letters, digits and _"
                raise ValueError(msg)
            self._metrics[metric.name] = metric
            for listener in self._listeners:
                listener(metric)
            return metric
        if type(known) is not type(metric) or known.labels != metric.labels:
            msg = f"{metric.name} is a {type(known).__name__} with the labels {known.labels} already"
            raise ValueError(msg)
        return known


METRICS: Final = Metrics()

counter = METRICS.counter
gauge = METRICS.gauge
histogram = METRICS.histogram
