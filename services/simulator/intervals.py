"""When update_engine checks again: the rules of its ``update_check_scheduler.cc``, in seconds, without a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

INITIAL_S: Final = 7 * 60
REGULAR_S: Final = 45 * 60
LONGEST_S: Final = 4 * 60 * 60
REGULAR_FUZZ_S: Final = 10 * 60
CHECK_RETRY_S: Final = 10
CHECK_RETRIES: Final = 3
"""A check that got no HTTP answer is sent again so often; an event never is."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A time to wait: uniform in ``seconds`` ± ``fuzz_s`` / 2, both ends included."""

    seconds: int
    fuzz_s: int

    def draw(self, rng: random.Random) -> int:
        """The seconds to wait this time (update_engine's ``FuzzInt``)."""
        low = self.seconds - self.fuzz_s // 2
        return rng.randint(low, low + self.fuzz_s)


INITIAL: Final = Interval(INITIAL_S, REGULAR_FUZZ_S)
"""Before the first check after a boot: 7 minutes ± 5."""

REGULAR: Final = Interval(REGULAR_S, REGULAR_FUZZ_S)
"""Between checks when nobody asks for anything else: 45 minutes ± 5."""


def next_interval(last: Interval, *, poll_interval_s: int, slow_down: bool) -> Interval:
    """The interval before the next check.

    Args:
        last: The interval that led to the last check.
        poll_interval_s: The ``PollInterval`` of the last answer, 0 where absent. One below 45 minutes is ignored, one
            above 4 hours is cut: a server can only slow its clients down.
        slow_down: The last answer was HTTP 500 or 503: the interval doubles.
    """
    if poll_interval_s > 0:
        wanted = poll_interval_s
    elif slow_down:
        wanted = 2 * last.seconds
    else:
        wanted = 0
    if wanted < REGULAR_S:
        return REGULAR
    seconds = min(wanted, LONGEST_S)
    return Interval(seconds, seconds)
