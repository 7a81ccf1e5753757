"""Change windows, by the clocks of their place."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.windows import Blackout, CronWindow, Weekday, WeeklyWindow, Windows, opening
from shared.errors import InvalidInput

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = tuple(Weekday)


def berlin(*parts, fold=0):
    """A time by Berlin's clocks, in UTC."""
    return datetime(*parts, tzinfo=BERLIN, fold=fold).astimezone(UTC)


def weekly(start, length_s, *days, zone="Europe/Berlin", **more):
    """One weekly window."""
    return Windows(
        weekly=(WeeklyWindow(days=days or EVERY_DAY, start=start, length_s=length_s),), time_zone=zone, **more
    )


def test_without_windows_it_is_always_open():
    """Nothing ends it."""
    found = opening(Windows(), datetime(2026, 1, 1, tzinfo=UTC))
    assert (found.open, found.until, found.next_at, found.holds_until) == (True, None, None, None)


def test_a_window_past_midnight_belongs_to_the_day_it_begins():
    """Friday 22:00 for 8 hours: open on Saturday at 5, shut on Friday at 5."""
    windows = weekly("22:00", 8 * 3600, Weekday.FRIDAY)
    saturday = berlin(2026, 3, 7, 5)
    found = opening(windows, saturday)
    assert (found.open, found.until) == (True, berlin(2026, 3, 7, 6))
    shut = opening(windows, berlin(2026, 3, 6, 5))
    assert (shut.open, shut.next_at) == (False, berlin(2026, 3, 6, 22))
    assert "outside every change window" in shut.reason
    assert shut.holds_until == shut.next_at


def test_a_window_begins_and_ends_on_the_second():
    """Its beginning is in it, its end is not."""
    windows = weekly("22:00", 3600)
    assert opening(windows, berlin(2026, 3, 6, 22)).open
    assert not opening(windows, berlin(2026, 3, 6, 21, 59, 59)).open
    assert opening(windows, berlin(2026, 3, 6, 22, 59, 59)).open
    assert not opening(windows, berlin(2026, 3, 6, 23)).open


@pytest.mark.parametrize("kind", ["weekly", "cron"])
def test_a_window_in_the_hour_that_is_skipped_begins_after_it(kind):
    """29 March 2026 has no 02:30 in Berlin: the window begins at 03:00 (01:00 UTC) and lasts its two hours."""
    cron = Windows(cron=(CronWindow(cron="30 2 * * *", length_s=7200),), time_zone="Europe/Berlin")
    windows = weekly("02:30", 7200) if kind == "weekly" else cron
    begin = datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert not opening(windows, begin - timedelta(seconds=1)).open
    found = opening(windows, begin)
    assert (found.open, found.until) == (True, begin + timedelta(hours=2))
    assert opening(windows, datetime(2026, 3, 28, 12, tzinfo=UTC)).next_at == begin


@pytest.mark.parametrize("kind", ["weekly", "cron"])
def test_a_window_in_the_hour_that_comes_twice_begins_the_first_time_and_only_then(kind):
    """25 October 2026, 02:30 in Berlin comes at 00:30 and 01:30 UTC; half an hour of elapsed time from the first."""
    cron = Windows(cron=(CronWindow(cron="30 2 * * *", length_s=1800),), time_zone="Europe/Berlin")
    windows = weekly("02:30", 1800) if kind == "weekly" else cron
    begin = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert opening(windows, begin).until == begin + timedelta(minutes=30)
    assert not opening(windows, begin + timedelta(hours=1)).open
    assert opening(windows, begin + timedelta(hours=1)).next_at == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["weekly", "cron"])
def test_a_long_window_over_a_change_of_clocks_lasts_its_elapsed_time(kind):
    """Three hours are three hours, on the night with 25 hours as well, seen from inside the hour that comes twice."""
    cron = Windows(cron=(CronWindow(cron="0 1 * * *", length_s=3 * 3600),), time_zone="Europe/Berlin")
    windows = weekly("01:00", 3 * 3600) if kind == "weekly" else cron
    begin = datetime(2026, 10, 24, 23, tzinfo=UTC)
    for minutes in (0, 60, 90, 150, 179):
        assert opening(windows, begin + timedelta(minutes=minutes)).until == begin + timedelta(hours=3)
    assert not opening(windows, begin + timedelta(hours=3)).open


def test_a_leap_day_comes_every_fourth_year():
    """And a cron window on it is found across the years between."""
    windows = Windows(cron=(CronWindow(cron="0 3 29 2 *", length_s=3600),))
    assert opening(windows, datetime(2028, 2, 29, 3, 30, tzinfo=UTC)).open
    assert opening(windows, datetime(2026, 3, 1, tzinfo=UTC)).next_at == datetime(2028, 2, 29, 3, tzinfo=UTC)
    day = weekly("03:00", 3600, Weekday.TUESDAY, zone="UTC")
    assert opening(day, datetime(2028, 2, 29, 3, 30, tzinfo=UTC)).open


def test_windows_that_touch_are_one():
    """Saturday and Sunday, all day long."""
    windows = weekly("00:00", 86_400, Weekday.SATURDAY, Weekday.SUNDAY, zone="UTC")
    assert opening(windows, datetime(2026, 3, 7, 12, tzinfo=UTC)).until == datetime(2026, 3, 9, tzinfo=UTC)


def test_what_opens_every_minute_is_open():
    """However often its beginning comes."""
    found = opening(
        Windows(cron=(CronWindow(cron="* * * * *", length_s=7 * 86_400),)), datetime(2026, 3, 1, tzinfo=UTC)
    )
    assert found.open


def test_an_update_must_fit():
    """With 40 minutes to go and 45 expected, it waits for tomorrow; without the rule it does not."""
    windows = weekly("22:00", 3600, must_fit=True, zone="UTC")
    late = datetime(2026, 3, 6, 22, 20, tzinfo=UTC)
    found = opening(windows, late, 2700)
    assert (found.open, found.next_at) == (False, datetime(2026, 3, 7, 22, tzinfo=UTC))
    assert "no longer fits" in found.reason
    assert opening(windows, late - timedelta(minutes=6), 2700).until == datetime(2026, 3, 6, 22, 15, tzinfo=UTC)
    assert opening(weekly("22:00", 3600, zone="UTC"), late, 2700).open


def test_an_update_that_fits_no_window_is_told_so():
    """And no time is promised."""
    found = opening(weekly("22:00", 3600, must_fit=True), datetime(2026, 3, 6, tzinfo=UTC), 7200)
    assert (found.open, found.next_at) == (False, None)
    assert "no window is as long as an update takes, 7200 s" in found.reason


def test_a_blackout_shuts_whole_days_of_the_place():
    """From midnight to midnight by Berlin's clocks, inside a window too."""
    freeze = (Blackout(first=date(2026, 12, 20), last=date(2027, 1, 3), reason="change freeze"),)
    windows = Windows(blackouts=freeze, time_zone="Europe/Berlin")
    before = opening(windows, berlin(2026, 12, 19, 23, 59))
    assert (before.open, before.until) == (True, berlin(2026, 12, 20))
    shut = opening(windows, berlin(2026, 12, 31))
    assert (shut.open, shut.next_at) == (False, berlin(2027, 1, 4))
    assert "change freeze" in shut.reason
    assert opening(windows, berlin(2027, 1, 4)).open
    nightly = weekly("22:00", 14_400, blackouts=freeze)
    assert opening(nightly, berlin(2026, 12, 19, 23)).until == berlin(2026, 12, 20)
    assert opening(nightly, berlin(2026, 12, 21)).next_at == berlin(2027, 1, 4)
    friday = weekly("22:00", 14_400, Weekday.FRIDAY, blackouts=freeze)
    assert opening(friday, berlin(2026, 12, 19, 3)).next_at == berlin(2027, 1, 8, 22)


def test_a_window_that_a_blackout_cuts_goes_on_after_it():
    """What is left of it opens on its own."""
    windows = weekly("12:00", 86_400, zone="UTC", blackouts=(Blackout(first=date(2026, 3, 5), last=date(2026, 3, 5)),))
    found = opening(windows, datetime(2026, 3, 5, 13, tzinfo=UTC))
    assert found.next_at == datetime(2026, 3, 6, tzinfo=UTC)
    assert "blackout from 2026-03-05 to 2026-03-05: shut until" in found.reason


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"time_zone": "../etc/passwd"}, "no time zone"),
        ({"cron": [{"cron": "61 2 * * *", "length_s": 3600}]}, "not usable: Bad minute"),
        ({"cron": [{"cron": "0 0 31 2 *", "length_s": 3600}]}, "not usable|never comes"),
        ({"cron": [{"cron": "0 0 31 2 1,2#6", "length_s": 3600}]}, "not usable"),
        ({"cron": [{"cron": "0 30 2 * * *", "length_s": 3600}]}, "6 fields"),
        ({"blackouts": [{"first": "2026-03-02", "last": "2026-03-01"}]}, "must not end before it begins"),
        ({"blackouts": [{"first": "0001-01-01", "last": "9999-12-31"}]}, "this century"),
    ],
)
def test_what_cannot_be_judged_is_refused_when_the_policy_is_read(given_, words):
    """Not at night, when it would matter."""
    with pytest.raises(InvalidInput, match=words):
        msgspec.convert(given_, Windows)


def test_a_cron_expression_that_never_comes_is_refused():
    """The 30th of February in a year of its own."""
    with pytest.raises(InvalidInput):
        CronWindow(cron="0 0 30 2 *", length_s=3600)


windows_strategy = st.builds(
    Windows,
    weekly=st.lists(
        st.builds(
            WeeklyWindow,
            days=st.lists(st.sampled_from(EVERY_DAY), min_size=1, max_size=3).map(tuple),
            start=st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59)),
            length_s=st.floats(60, 7 * 86_400),
        ),
        max_size=3,
    ).map(tuple),
    cron=st.lists(
        st.builds(
            CronWindow,
            cron=st.sampled_from(["30 2 * * *", "0 */6 * * sun", "15 1 1 * *"]),
            length_s=st.floats(60, 86_400),
        ),
        max_size=1,
    ).map(tuple),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia"]),
    must_fit=st.booleans(),
)


@given(windows_strategy, st.integers(1_262_304_000, 1_893_456_000), st.floats(0, 7200))
@settings(max_examples=60, deadline=None)
def test_an_answer_holds_until_it_says(windows, since_epoch, expected_s):
    """Just before that time it is the same, at that time it is the other one."""
    now = datetime.fromtimestamp(since_epoch, UTC)
    found = opening(windows, now, expected_s)
    turn = found.holds_until
    if turn is None:
        return
    assert turn > now
    assert opening(windows, max(now, turn - timedelta(microseconds=1)), expected_s).open is found.open
    if not found.open:
        assert opening(windows, turn, expected_s).open
