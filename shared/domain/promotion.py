"""How strongly good nodes speak for a wider rollout, and how many of them it takes. Pure.

The statistic is a mixture e-process against "at least p1 of the nodes end badly": the mirror of what halts a changeset.
By Ville's inequality a changeset that is as bad as that ever reaches E' >= 20 with a chance of at most 5 %.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

GRID_SIZE: Final = 8
"""Alternatives in the mixture, equally spaced in their logarithm from p1 / 50 to p1 / 2."""
THRESHOLD: Final = math.log(20.0)
"""What ln E' has to reach."""
MOST_NODES: Final = 10_000_000
"""No fleet has more; where so many would not do, none does."""


@lru_cache(maxsize=64)
def _grid(p1: float) -> tuple[tuple[float, float], ...]:
    if not 0.0 < p1 < 1.0:
        message = f"the rate to be excluded must be above 0 and below 1, not {p1!r}"
        raise ValueError(message)
    rates = [p1 / 50.0 * 25.0 ** (j / (GRID_SIZE - 1)) for j in range(GRID_SIZE)]
    return tuple((math.log(rate / p1), math.log1p(-rate) - math.log1p(-p1)) for rate in rates)


def ln_e(started: int, bad: int, p1: float) -> float:
    """Promotion evidence ln E' of ``bad`` (pending ones included) among ``started`` nodes.

    Raises:
        ValueError: Not ``0 <= bad <= started``, or ``p1`` not between 0 and 1.
    """
    if not 0 <= bad <= started:
        message = f"there cannot be {bad} bad outcomes among {started} starts"
        raise ValueError(message)
    terms = [bad * if_bad + (started - bad) * if_good for if_bad, if_good in _grid(p1)]
    greatest = max(terms)
    return greatest + math.log(math.fsum(math.exp(term - greatest) for term in terms)) - math.log(GRID_SIZE)


@lru_cache(maxsize=1024)
def nodes_needed(bad: int, p1: float) -> int | None:
    """How many started nodes it takes with ``bad`` bad ones among them; None where no fleet is large enough.

    Raises:
        ValueError: ``bad`` below 0, or ``p1`` not between 0 and 1.
    """
    low, high = bad, max(1, bad)
    while ln_e(high, bad, p1) < THRESHOLD:
        if high >= MOST_NODES:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ln_e(middle, bad, p1) < THRESHOLD else (low, middle)
    return high


def excluded_rate(good: int) -> float:
    """The bad rate above which so many good nodes, and no bad one, exclude it (with 95 % confidence); 1.0 for none."""
    return 1.0 if good == 0 else float(1.0 - 0.05 ** (1.0 / good))
