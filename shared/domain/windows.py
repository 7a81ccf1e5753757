"""Change windows: when a group may be offered updates, by the clocks of its own place. Pure."""

from __future__ import annotations

import datetime as dt
import enum
import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Annotated, Final, TypeAlias

import msgspec
from cronsim import CronSim, CronSimError

from shared.errors import InvalidInput

WindowSeconds = Annotated[float, msgspec.Meta(ge=60, le=7 * 86_400)]
_CRON_FIELDS: Final = 5
_YEARS: Final = (2000, 2199)
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

    def __post_init__(self) -> None:
        """Refuse what is no cron expression, or one that never comes.

        Raises:
            InvalidInput: Either.
        """
        fields = len(self.cron.split())
        if fields != _CRON_FIELDS:
            raise InvalidInput(
                f"the cron expression {self.cron!r} has {fields} fields: it takes minute, hour, day, month, weekday",
                details={"field": "policy"},
            )
        try:
            comes = next(CronSim(self.cron, datetime(2000, 1, 1, tzinfo=dt.UTC)), None)
        except CronSimError as fault:
            raise InvalidInput(
                f"the cron expression {self.cron!r} is not usable: {fault}", details={"field": "policy"}
            ) from fault
        if comes is None:
            raise InvalidInput(f"the cron expression {self.cron!r} never comes", details={"field": "policy"})


class Blackout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Days on which nothing is offered, both included, in the windows' time zone."""

    first: dt.date
    last: dt.date
    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""

    def __post_init__(self) -> None:
        """Refuse a blackout that ends before it begins.

        Raises:
            InvalidInput: It does.
        """
        if self.last < self.first or not _YEARS[0] <= self.first.year <= self.last.year <= _YEARS[1]:
            raise InvalidInput(
                f"the blackout from {self.first} to {self.last} must not end before it begins, and lie in this century",
                details={"field": "policy"},
            )


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

    def __post_init__(self) -> None:
        """Refuse what could not be judged later.

        Raises:
            InvalidInput: The time zone is unknown.
        """
        _zone(self.time_zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Whether updates may be offered now; all times in UTC.

    Attributes:
        open: Whether they may.
        until: Where open, when that ends; None for never.
        next_at: Where shut, when it opens next; None for never.
        reason: Why, in words.
    """

    open: bool
    until: datetime | None
    next_at: datetime | None
    reason: str

    @property
    def holds_until(self) -> datetime | None:
        """Until when this answer stays as it is; None for ever."""
        return self.until if self.open else self.next_at


def opening(windows: Windows, now: datetime, expected_s: float = 0.0) -> Opening:
    """Whether updates may be offered at ``now``.

    A window that would begin in an hour that the clocks skip begins when they have skipped it; one that would begin in
    an hour that comes twice begins the first time. Its length is elapsed time.

    Args:
        windows: The policy's.
        now: The time, aware.
        expected_s: How long an update is expected to take; asked for where ``must_fit``.
    """
    now = now.astimezone(dt.UTC)
    fit = timedelta(seconds=expected_s) if windows.must_fit else timedelta()
    shut = _blackout_spans(windows)
    for begin, end in _usable(windows, now, shut, fit):
        if begin <= now < end:
            until = None if end >= _FOREVER - _AROUND else end
            said = "no window ends it" if until is None else f"until {_said(until)}"
            return Opening(open=True, until=until, next_at=None, reason=f"open, {said}")
    following = _next(windows, now, shut, fit)
    when = "and no window comes" if following is None else f"until {_said(following)}"
    blackout = _blackout_at(windows, now)
    if blackout is not None:
        why = f" ({blackout.reason})" if blackout.reason else ""
        reason = f"blackout from {blackout.first} to {blackout.last}{why}: shut {when}"
    elif any(begin <= now < end for begin, end in _usable(windows, now, shut, timedelta())):
        reason = f"an update takes {expected_s:g} s and no longer fits into the window: shut {when}"
    elif following is None and fit:
        reason = f"no window is as long as an update takes, {expected_s:g} s"
    else:
        reason = f"outside every change window: shut {when}"
    return Opening(open=False, until=None, next_at=following, reason=reason)


_Span: TypeAlias = tuple[datetime, datetime]

_NEVER: Final = datetime.min.replace(tzinfo=dt.UTC)
_FOREVER: Final = datetime.max.replace(tzinfo=dt.UTC)
_AROUND: Final = timedelta(days=8)
"""No window is longer than a week, and each weekly one comes within one."""
_MOST_STARTS: Final = 256
"""So many starts of a cron window are looked at; what opens more often than that is open all the time."""
_SHIFT: Final = timedelta(hours=3)
"""More than any change of clocks."""
_DAYS: Final = tuple(Weekday)


def _said(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


@lru_cache(maxsize=256)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise InvalidInput(
            f"{name!r} is no time zone: use a name of the IANA database, such as Europe/Berlin",
            details={"field": "policy"},
        ) from fault


def _instant(day: dt.date, time_of_day: dt.time, zone: zoneinfo.ZoneInfo) -> datetime:
    """When the clocks of a place show this for the first time, or have skipped it."""
    local = datetime.combine(day, time_of_day)
    while True:
        placed = local.replace(tzinfo=zone)
        instant = placed.astimezone(dt.UTC)
        if instant.astimezone(zone).replace(tzinfo=None) == local:
            return instant
        local += timedelta(minutes=1)


def _blackout_spans(windows: Windows) -> list[_Span]:
    zone = _zone(windows.time_zone)
    return [
        (_instant(blackout.first, dt.time(), zone), _instant(blackout.last + timedelta(days=1), dt.time(), zone))
        for blackout in windows.blackouts
    ]


def _blackout_at(windows: Windows, now: datetime) -> Blackout | None:
    today = now.astimezone(_zone(windows.time_zone)).date()
    return next((blackout for blackout in windows.blackouts if blackout.first <= today <= blackout.last), None)


def _weekly_spans(window: WeeklyWindow, at: datetime, zone: zoneinfo.ZoneInfo) -> Iterator[_Span]:
    start = dt.time.fromisoformat(window.start)
    today = at.astimezone(zone).date()
    for offset in range(-_AROUND.days, _AROUND.days + 1):
        day = today + timedelta(days=offset)
        if _DAYS[day.weekday()] in window.days:
            begin = _instant(day, start, zone)
            yield begin, begin + timedelta(seconds=window.length_s)


def _cron_spans(window: CronWindow, at: datetime, zone: zoneinfo.ZoneInfo) -> Iterator[_Span]:
    length = timedelta(seconds=window.length_s)
    # From a little later backwards to the last start that has come: the clocks may have been set back meanwhile.
    last = at
    for local in islice(CronSim(window.cron, (at + _SHIFT).astimezone(zone), reverse=True), _MOST_STARTS):
        last = local.astimezone(dt.UTC)
        yield last, last + length
        if last <= at:
            break
    for local in islice(CronSim(window.cron, last.astimezone(zone)), _MOST_STARTS):
        begin = local.astimezone(dt.UTC)
        yield begin, begin + length
        if begin > at + _AROUND:
            break


def _usable(windows: Windows, at: datetime, shut: Sequence[_Span], fit: timedelta) -> list[_Span]:
    """When offers may be made, around a time; in order, none touches another."""
    zone = _zone(windows.time_zone)
    spans = [span for weekly in windows.weekly for span in _weekly_spans(weekly, at, zone)]
    spans += [span for cron in windows.cron for span in _cron_spans(cron, at, zone)]
    if not windows.weekly and not windows.cron:
        spans = [(_NEVER, _FOREVER)]
    merged: list[_Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    for dark_begin, dark_end in shut:
        merged = [
            part
            for begin, end in merged
            for part in ((begin, min(end, dark_begin)), (max(begin, dark_end), end))
            if part[0] < part[1]
        ]
    return sorted((begin, end - fit) for begin, end in merged if begin < end - fit)


def _next(windows: Windows, now: datetime, shut: Sequence[_Span], fit: timedelta) -> datetime | None:
    # A blackout may be longer than the time around: then one looks again from where it ends.
    for at in (now, *sorted(end for _, end in shut if end > now)):
        following = [begin for begin, _ in _usable(windows, at, shut, fit) if begin > now]
        if following:
            return following[0]
    return None
