"""Clocks and identifiers, real and manual."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared import ids as ids_module
from shared.clock import Clock, SystemClock
from shared.ids import IdSource, SystemIds
from shared.testing.clock import ManualClock
from shared.testing.ids import SequentialIds


def test_the_system_clock_is_aware_and_in_utc():
    """Its time of day has an offset of zero and is the machine's."""
    clock: Clock = SystemClock()
    before = datetime.now(UTC)

    now = clock.now()

    assert now.utcoffset() == timedelta(0)
    assert before <= now <= datetime.now(UTC)
    assert clock.monotonic() <= clock.monotonic()


def test_a_manual_clock_moves_only_by_hand():
    """Both its time of day and its duration move by what they are told."""
    clock = ManualClock(datetime(2026, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))))

    assert clock.now() == clock.now() == datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert clock.now().tzinfo is UTC

    assert clock.advance(90.5) == datetime(2026, 5, 1, 12, 1, 30, 500_000, tzinfo=UTC)
    assert clock.monotonic() == 90.5


def test_a_manual_clock_refuses_what_no_clock_does():
    """It neither goes back nor starts without a zone."""
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(-1)
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001  # that is the fault


def test_uuid7_has_the_form_of_rfc_9562():
    """Version 7, the RFC's variant, and the time in milliseconds in front."""
    source: IdSource = SystemIds()
    before = time.time_ns() // 1_000_000

    value = source.uuid7()

    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before <= value.int >> 80 <= time.time_ns() // 1_000_000 + 1


def test_uuid7s_of_one_source_are_in_order(monkeypatch):
    """Also within a tick of the clock, and when the clock goes back."""
    source = SystemIds()
    times = iter([2_000_000_000, *[2_000_000_000] * 5000, 1_000_000_000, 1_999_999_999])
    monkeypatch.setattr(ids_module.time, "time_ns", lambda: next(times))

    made = [source.uuid7() for _ in range(5003)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(value.version == 7 and value.variant == uuid.RFC_4122 for value in made)


def test_tokens_are_32_hexadecimal_characters_and_differ():
    """128 random bits."""
    source = SystemIds()
    tokens = {source.token() for _ in range(100)}

    assert len(tokens) == 100
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)


def test_sequential_ids_are_the_same_in_every_run():
    """They count, are well-formed, and start where they are told."""
    source = SequentialIds()

    assert [source.uuid7(), source.uuid7()] == [
        uuid.UUID("01900000-0000-7000-8000-000000000001"),
        uuid.UUID("01900000-0000-7000-8000-000000000002"),
    ]
    assert source.token() == f"{1:032x}"
    assert SequentialIds(start=7).uuid7().version == 7
