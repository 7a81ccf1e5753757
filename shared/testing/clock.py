"""A clock that a test moves by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Stands still until it is advanced.

    Args:
        start: The first time of day, aware; kept in UTC.
    """

    def __init__(self, start: datetime = EPOCH) -> None:
        if start.tzinfo is None:
            msg = "a clock starts at an aware time; give it a tzinfo"
            raise ValueError(msg)
        self._start = start.astimezone(UTC)
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """The start plus all advances, in UTC."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed_s

    def advance(self, seconds: float) -> datetime:
        """Move on by ``seconds`` (not back) and return the new time of day."""
        if seconds < 0:
            msg = f"time does not go back: advance({seconds})"
            raise ValueError(msg)
        self._elapsed_s += seconds
        return self.now()
