"""How many nodes may be in flight now.

With a budget of ``H`` nodes to be lost at any time, the expected number of bad nodes in flight stays within ``H`` (with
95 % confidence, at all times) while at most ``H / p_upper`` are in flight, where ``p_upper`` is the upper end of the
anytime-valid interval for the bad rate. Before anything is known that is ``H`` nodes; good outcomes widen it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from services.rollback_analysis.evidence import excludes_above, upper

RECENT: Final = 512
"""Outcomes that the second interval looks back on, so that a fault that begins late slows the pace."""
SMALL_GROUP: Final = 64
"""Below this many nodes, the first bad outcome in a group brakes the group."""
SMALL_GROUP_RATE: Final = 0.05
"""A braked small group goes on once outcomes elsewhere exclude a bad rate above this."""


def default_hold_budget(fleet: int) -> int:
    """``H`` for a fleet: 0.05 % of its nodes, rounded up, and at least 10."""
    return max(10, -(-fleet // 2000))


def group_hold_budget(hold_budget: int, group_size: int) -> int:
    """``H_g``: the changeset's ``H``, but at most 5 % of the group, rounded down, and at least 1."""
    return max(1, min(hold_budget, group_size // 20))


def pace(limit: int, hold_budget: int, p_upper: float) -> int:
    """``min(F, max(H, floor(H / p_upper)))``.

    Args:
        limit: ``F``, the most nodes in flight that operators allow.
        hold_budget: ``H``, the number of bad nodes in flight to be put up with.
        p_upper: upper end of the bad rate's interval, 0 < p_upper <= 1.

    Raises:
        ValueError: ``p_upper`` is not within its bounds.
    """
    if not 0.0 < p_upper <= 1.0:
        message = f"p_upper must be above 0 and at most 1, not {p_upper!r}"
        raise ValueError(message)
    return min(limit, max(hold_budget, math.floor(hold_budget / p_upper)))


def small_group_waits(*, group_size: int, bad_here: int, closed_elsewhere: int, bad_elsewhere: int) -> bool:
    """Whether a small group stands still after a bad outcome of its own.

    A group of fewer than 64 nodes learns too little from itself: its first bad outcome brakes it until an operator
    lets it go on (the caller's business) or the outcomes of other groups exclude a bad rate above 5 %.
    """
    if group_size >= SMALL_GROUP or bad_here == 0:
        return False
    return closed_elsewhere == 0 or not excludes_above(bad_elsewhere, closed_elsewhere, SMALL_GROUP_RATE)


class OutcomeWindow:
    """All closed outcomes of a changeset, as counts, and the most recent of them one by one; gives ``p_upper``."""

    __slots__ = ("_asked", "_known", "_recent", "_recent_bad", "bad", "closed")

    def __init__(self, closed: int = 0, bad: int = 0, recent: Iterable[bool] = ()) -> None:
        """Start empty or from what an earlier window held; ``recent`` is oldest first, True for bad."""
        self.closed = closed
        self.bad = bad
        self._recent = list(recent)[-RECENT:]
        self._recent_bad = sum(self._recent)
        self._asked = (0, 0, 0, 0)
        self._known = 1.0

    @property
    def recent(self) -> tuple[bool, ...]:
        """The last outcomes, oldest first, True for bad."""
        return tuple(self._recent)

    def add(self, *, bad: bool) -> None:
        """A node's outcome became known."""
        self.closed += 1
        self.bad += bad
        self._remember(bad)

    def worsen(self) -> None:
        """A good outcome turned bad: it is a bad one in the counts, and one more, bad, among the recent."""
        self.bad += 1
        self._remember(bad=True)

    def _remember(self, bad: bool) -> None:
        if len(self._recent) == RECENT:
            self._recent_bad -= self._recent.pop(0)
        self._recent.append(bad)
        self._recent_bad += bad

    @property
    def p_upper(self) -> float:
        """The greater of the upper ends over all closed outcomes and over the recent ones; 1.0 without any.

        Not computed again while the counts are the same.
        """
        asked = (self.closed, self.bad, len(self._recent), self._recent_bad)
        if asked != self._asked:
            self._asked = asked
            self._known = self._upper_of_both()
        return self._known

    def _upper_of_both(self) -> float:
        recent = upper(self._recent_bad, len(self._recent))
        if (self._recent_bad, len(self._recent)) == (self.bad, self.closed):
            return recent
        # One evaluation tells whether the long view is the lower one, as it usually is; else it takes a bisection.
        if excludes_above(self.bad, self.closed, recent):
            return recent
        return max(recent, upper(self.bad, self.closed))
