"""Change windows: when a group may be offered updates, by the clocks of its own place."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated

import msgspec

WindowSeconds = Annotated[float, msgspec.Meta(ge=60, le=7 * 86_400)]
TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]


class Weekday(enum.StrEnum):
    """Days as they are written in a policy."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


class WeeklyWindow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Opens at a time of day on some days of the week, for so many seconds; it may last past midnight."""

    days: Annotated[tuple[Weekday, ...], msgspec.Meta(min_length=1, max_length=7)]
    start: TimeOfDay
    length_s: WindowSeconds


class CronWindow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Opens whenever a cron expression (five fields) says so, for so many seconds."""

    cron: Annotated[str, msgspec.Meta(min_length=9, max_length=100)]
    length_s: WindowSeconds


class Blackout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Days on which nothing is offered, both included, in the windows' time zone."""

    first: dt.date
    last: dt.date
    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Windows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a group may be offered updates; without a window it always may, except on blackout days.

    Attributes:
        must_fit: Offer only while the expected time of an update still fits into the window.
    """

    weekly: Annotated[tuple[WeeklyWindow, ...], msgspec.Meta(max_length=32)] = ()
    cron: Annotated[tuple[CronWindow, ...], msgspec.Meta(max_length=32)] = ()
    blackouts: Annotated[tuple[Blackout, ...], msgspec.Meta(max_length=64)] = ()
    time_zone: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "UTC"
    must_fit: bool = False
