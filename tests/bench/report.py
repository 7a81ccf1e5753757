"""What benches say: tables of medians with the raw figures beside them, and whether targets were reached."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

import msgspec


def say(line: str = "") -> None:
    """A line for people, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Target(msgspec.Struct, frozen=True):
    """What was to be reached, and what was seen. A bench says it and never fails for it."""

    what: str
    wanted: str
    seen: float
    reached: bool


class Result(msgspec.Struct):
    """One bench's outcome; ``raw`` has the figure of every round."""

    name: str
    title: str
    table: list[dict[str, Any]] = []
    raw: dict[str, list[dict[str, Any]]] = {}
    targets: list[Target] = []
    notes: list[str] = []
    seconds: float = 0.0

    def at_most(self, what: str, seen: float, limit: float) -> None:
        """A target with an upper bound."""
        self.targets.append(Target(what, f"<= {limit:g}", seen, seen <= limit))

    def at_least(self, what: str, seen: float, limit: float) -> None:
        """A target with a lower bound."""
        self.targets.append(Target(what, f">= {limit:g}", seen, seen >= limit))

    def print(self) -> None:
        """The whole of it, for people."""
        say(f"\n== {self.title} ({self.name}, {self.seconds:.0f} s)")
        _print_table(self.table)
        for name, rounds in self.raw.items():
            for figure in ("us", "per_s"):
                series = [_figure(one, figure) for one in rounds if _figure(one, figure) is not None]
                if series:
                    say(f"   raw {name}, {figure}: {' '.join(f'{value:.4g}' for value in series)}")
        for note in self.notes:
            say(f"   note: {note}")
        for target in self.targets:
            word = "reached" if target.reached else "MISSED"
            say(f"   target {target.what} {target.wanted}: {target.seen:.4g}, {word}")


def _figure(one: dict[str, Any], name: str) -> float | None:
    value = one.get(name)
    return value.get("service") if isinstance(value, dict) else value


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    say(
        "   "
        + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(columns, widths, strict=True)))
    )
    for row in cells:
        say(
            "   "
            + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def median(rounds: Sequence[dict[str, Any]], *path: str) -> float:
    """The median over rounds of a figure, by its path in a round."""
    values = []
    for one in rounds:
        value: Any = one
        for key in path:
            value = value.get(key) if value is not None else None
        if value is not None:
            values.append(float(value))
    return statistics.median(values) if values else float("nan")


def ratio(rounds: Sequence[dict[str, Any]], yardstick: Sequence[dict[str, Any]], *path: str) -> float:
    """The median of the ratios of neighbouring rounds: what disturbs the machine disturbs both alike."""
    pairs = zip(rounds, yardstick, strict=False)
    return statistics.median(median([one], *path) / median([other], *path) for one, other in pairs)
