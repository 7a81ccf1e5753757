"""Values as people read them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

MAX_SHOWN: Final = 200
_SPAN: Final = re.compile(r"(?P<number>[1-9][0-9]{0,4})(?P<unit>[mhdw])", re.ASCII)
_SPAN_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def printable(text: str, most: int = 10_000) -> str:
    """Without what could move a terminal's cursor: nodes say what they like."""
    shown = "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    return shown if len(shown) <= most else f"{shown[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def cell(value: Any) -> str:
    """A JSON value as a table's cell."""
    if value is None:
        return "-"
    if value is True:
        return "yes"
    if value is False:
        return "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(name))}={cell(of)}" for name, of in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "-"
    return moment(value) if isinstance(value, str) else str(value)


def moment(text: str) -> str:
    """A time as ``2026-11-22 20:50:01``, in UTC; any other text as it is, on one line."""
    if len(text) >= 20 and text[4:5] == "-" and text[10:11] == "T":
        try:
            return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        except ValueError:
            pass
    return printable(" ".join(text.split()), MAX_SHOWN)


def size(count: int) -> str:
    """Bytes as ``12.3 MiB``."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def tally(counts: Mapping[str, int], order: tuple[str, ...]) -> str:
    """Counts as ``committed 12, offered 3``, in a given order, those that are 0 left out."""
    known = [f"{name.replace('_', ' ')} {counts[name]}" for name in order if counts.get(name)]
    others = [f"{printable(name)} {count}" for name, count in sorted(counts.items()) if name not in order and count]
    return ", ".join([*known, *others]) or "-"


ATTEMPT_STATES: Final = (
    "committed",
    "offered",
    "downloading",
    "staged",
    "awaiting_reboot",
    "rebooting",
    "probation",
    "rolled_back",
    "presumed_lost",
    "failed",
    "recalled",
)


def settings_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``name=value`` pairs; numbers, true, false, null, and lists and objects in JSON are read as such.

    Raises:
        ValueError: A pair has no ``=`` or no name, or begins like a list or an object and is none.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{pair!r} is not NAME=VALUE")
        found[name] = _read(value)
    return found


def _read(value: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "null": None, "default": None}
    if value.lower() in words:
        return words[value.lower()]
    if value.startswith(("[", "{")):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as fault:
            raise ValueError(f"{value[:MAX_SHOWN]!r} begins like JSON and is none: {fault}") from fault
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def selector_of(pairs: tuple[str, ...]) -> dict[str, list[str]]:
    """``fact=value[,value...]`` pairs; a fact that is given again gets more values.

    Raises:
        ValueError: A pair has no ``=``, no fact or no value.
    """
    found: dict[str, list[str]] = {}
    for pair in pairs:
        fact, equals, values = pair.partition("=")
        split = [value for value in values.split(",") if value]
        if not equals or not fact or not split:
            raise ValueError(f"{pair!r} is not FACT=VALUE[,VALUE...]")
        found.setdefault(fact, []).extend(split)
    return found


def end_of_span(text: str, now: datetime | None = None) -> str:
    """When a span like ``12h`` or ``90d`` from now ends, as the API takes it.

    Raises:
        ValueError: It is no number of minutes, hours, days or weeks.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError("give a number and m, h, d or w, like 90d")
    span = timedelta(**{_SPAN_UNITS[found["unit"]]: int(found["number"])})
    return ((now or datetime.now(UTC)) + span).isoformat()
