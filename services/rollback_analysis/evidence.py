"""How strongly the outcomes of started nodes speak against a release.

The statistic is a one-sided mixture e-process for "each node's chance of a bad outcome, given the nodes started before
it, is at most ``p0``". Half of it watches the whole changeset, half restarts at every block of starts, so that a fault
that begins late is seen as well. By Ville's inequality a release within ``p0`` ever reaches ``ln E >= ln(1/alpha)``
with a probability of at most ``alpha``, however often one looks (Ville 1939; Ramdas, Gruenwald, Vovk, Shafer,
"Game-theoretic statistics and safe anytime-valid inference", 2023).

A node counts from its start and pending counts as good. For fixed ``n`` the value rises with ``k``, so that looking
at every prefix of the start order at any time, whatever the outcomes' delays, stays within the same bound.

Everything is computed in log space from a list of ``(started, bad)`` blocks and with ``math`` alone, so that the same
image gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

GRID_SIZE: Final = 12
"""Alternatives in the mixture."""
GRID_TOP: Final = 0.98
"""The worst bad rate among the alternatives; the mildest is ``2 * p0``."""

_PRIOR_A: Final = 0.5
_PRIOR_B: Final = 5.0
_BISECTION_STEPS: Final = 60
_LN_HALF: Final = math.log(0.5)


@dataclass(frozen=True, slots=True)
class Grid:
    """The alternatives for one ``p0``: per alternative, what a bad and a good outcome add to ln E, and ln weight."""

    if_bad: tuple[float, ...]
    if_good: tuple[float, ...]
    ln_weight: tuple[float, ...]


@lru_cache(maxsize=64)
def grid_for(p0: float) -> Grid:
    """The grid of alternatives, equally spaced in log-odds from ``2 * p0`` to 0.98, weights proportional to p^-1/2.

    Raises:
        ValueError: ``p0`` is not within 0 < p0 < 0.49, so that no alternative would lie above it.
    """
    if not 0.0 < p0 < GRID_TOP / 2.0:
        message = f"the allowed bad rate p0 must be above 0 and below {GRID_TOP / 2}, not {p0!r}"
        raise ValueError(message)
    low, high = _logit(2.0 * p0), _logit(GRID_TOP)
    rates = [1.0 / (1.0 + math.exp(-(low + (high - low) * j / (GRID_SIZE - 1)))) for j in range(GRID_SIZE)]
    ln_total = math.log(math.fsum(rate**-0.5 for rate in rates))
    return Grid(
        if_bad=tuple(math.log(rate / p0) for rate in rates),
        if_good=tuple(math.log1p(-rate) - math.log1p(-p0) for rate in rates),
        ln_weight=tuple(-0.5 * math.log(rate) - ln_total for rate in rates),
    )


def ln_e(n: int, k: int, p0: float) -> float:
    """Evidence ln E of ``k`` bad outcomes among ``n`` started nodes, without restarts.

    Raises:
        ValueError: not ``0 <= k <= n``, or ``p0`` out of bounds.
    """
    _check_counts(n, k)
    grid = grid_for(p0)
    good = n - k
    return _ln_sum_exp(
        [w + k * a + good * b for w, a, b in zip(grid.ln_weight, grid.if_bad, grid.if_good, strict=True)],
    )


def ln_e_scan(blocks: Iterable[tuple[int, int]], p0: float, planned_blocks: int) -> tuple[float, float]:
    """Evidence ln E with restarts over blocks of ``(started, bad)`` in start order.

    The restarts' weight is spread over ``planned_blocks``. Blocks beyond the plan get no restart of their own: their
    weight is spent, and one more would break the error bound.

    Returns:
        The maximum over all prefixes of one or more blocks, and the value at the last one; ``(0.0, 0.0)`` for none.

    Raises:
        ValueError: counts, ``p0`` or ``planned_blocks`` out of bounds.
    """
    _check_planned_blocks(planned_blocks)
    grid = grid_for(p0)
    maximum = -math.inf
    prefix: _Prefix | None = None
    for started, bad in blocks:
        _check_counts(started, bad)
        prefix = _extend(grid, planned_blocks, prefix, started, bad)
        maximum = max(maximum, prefix.value)
    if prefix is None:
        return 0.0, 0.0
    return maximum, prefix.value


class EvidenceProcess:
    """The scan of one changeset, kept up to date start by start and outcome by outcome.

    Equal to ``ln_e_scan`` on ``blocks`` bit for bit. The state after each block is cached; a change in block ``b``
    re-scans from ``b``, when somebody next looks. A start never raises ``maximum``, a bad outcome never lowers it;
    still, a start may lower it (it dilutes the newest block), so that whoever halts must latch.
    """

    __slots__ = ("_bad", "_block_size", "_grid", "_maxima", "_p0", "_planned", "_prefixes", "_started", "_valid")

    def __init__(self, p0: float, planned_blocks: int, block_size: int, blocks: Sequence[tuple[int, int]] = ()) -> None:
        """Start empty, or from the ``blocks`` of an earlier process with the same parameters.

        Raises:
            ValueError: parameters out of bounds, or blocks that no process of this block size can have.
        """
        _check_planned_blocks(planned_blocks)
        if block_size < 1:
            message = f"a block must hold at least one start, not {block_size}"
            raise ValueError(message)
        self._grid = grid_for(p0)
        self._p0 = p0
        self._planned = planned_blocks
        self._block_size = block_size
        self._started: list[int] = []
        self._bad: list[int] = []
        for position, (started, bad) in enumerate(blocks, start=1):
            _check_counts(started, bad)
            if started > block_size or started < (block_size if position < len(blocks) else 1):
                message = (
                    f"block {position - 1} of {len(blocks)} holds {started} starts, the block size is {block_size}"
                )
                raise ValueError(message)
            self._started.append(started)
            self._bad.append(bad)
        # Prefix states and running maxima; the first _valid of them hold.
        self._prefixes: list[_Prefix] = []
        self._maxima: list[tuple[float, int]] = []
        self._valid = 0

    @property
    def p0(self) -> float:
        """The allowed bad rate."""
        return self._p0

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """``(started, bad)`` per block, in start order."""
        return list(zip(self._started, self._bad, strict=True))

    @property
    def started(self) -> int:
        """Starts in all blocks."""
        return (len(self._started) - 1) * self._block_size + self._started[-1] if self._started else 0

    @property
    def bad(self) -> int:
        """Bad outcomes in all blocks."""
        return sum(self._bad)

    def add_start(self) -> int:
        """Count one more start and return the block that it falls into."""
        if not self._started or self._started[-1] == self._block_size:
            self._started.append(1)
            self._bad.append(0)
        else:
            self._started[-1] += 1
        newest = len(self._started) - 1
        self._valid = min(self._valid, newest)
        return newest

    def add_bad(self, block: int) -> None:
        """Count a bad outcome of a node that was started in ``block``.

        Raises:
            ValueError: no such block, or all its starts are bad already.
        """
        if not 0 <= block < len(self._started) or self._bad[block] == self._started[block]:
            message = f"block {block} has no start left that could have gone bad"
            raise ValueError(message)
        self._bad[block] += 1
        self._valid = min(self._valid, block)

    @property
    def maximum(self) -> float:
        """The greatest ln E over all prefixes; 0.0 without a start."""
        return self._scanned()[-1][0] if self._started else 0.0

    @property
    def argmax_prefix(self) -> int:
        """How many blocks the (first) prefix with the greatest ln E has; 0 without a start."""
        return self._scanned()[-1][1] if self._started else 0

    @property
    def last(self) -> float:
        """Evidence ln E over all blocks; 0.0 without a start."""
        if not self._started:
            return 0.0
        self._scanned()
        return self._prefixes[-1].value

    def _scanned(self) -> list[tuple[float, int]]:
        prefixes, maxima, valid = self._prefixes, self._maxima, self._valid
        if valid == len(self._started):
            return maxima
        del prefixes[valid:], maxima[valid:]
        prefix = prefixes[-1] if prefixes else None
        maximum = maxima[-1] if maxima else (-math.inf, 0)
        for block in range(valid, len(self._started)):
            prefix = _extend(self._grid, self._planned, prefix, self._started[block], self._bad[block])
            if prefix.value > maximum[0]:
                maximum = (prefix.value, block + 1)
            prefixes.append(prefix)
            maxima.append(maximum)
        self._valid = len(self._started)
        return maxima


def interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The anytime-valid interval for the bad rate after ``k`` bad among ``n``.

    It is the set of rates that the beta-mixture (a=0.5, b=5) likelihood ratio does not exclude at ``1 - level``, and
    holds at all times at once (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon 2021).

    Returns:
        Lower and upper end, ``(0.0, 1.0)`` without data.

    Raises:
        ValueError: not ``0 <= k <= n``, or ``level`` not between 0 and 1.
    """
    return lower(k, n, level), upper(k, n, level)


def lower(k: int, n: int, level: float = 0.95) -> float:
    """The lower end of ``interval`` alone."""
    _check_counts(n, k)
    excluded_above = _ln_mixture(k, n) - _ln_limit(level)
    if k == 0:
        return 0.0
    good = n - k
    low, high = 0.0, k / n
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2.0
        if middle <= 0.0 or middle >= 1.0:
            break
        if excluded_above < k * math.log(middle) + good * math.log1p(-middle):
            high = middle
        else:
            low = middle
    return low


def upper(k: int, n: int, level: float = 0.95) -> float:
    """The upper end of ``interval`` alone, at half its cost."""
    _check_counts(n, k)
    excluded_above = _ln_mixture(k, n) - _ln_limit(level)
    good = n - k
    if good == 0:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(_BISECTION_STEPS):
        middle = (low + high) / 2.0
        if middle >= 1.0:
            break
        if excluded_above < (k * math.log(middle) if k else 0.0) + good * math.log1p(-middle):
            low = middle
        else:
            high = middle
    return high


def excludes_above(k: int, n: int, rate: float, level: float = 0.95) -> bool:
    """Whether the upper end of ``interval(k, n)`` is at most ``rate``; one evaluation instead of a bisection."""
    _check_counts(n, k)
    if rate >= 1.0:
        return True
    if n == k or rate <= k / n:
        return False
    bound = (k * math.log(rate) if k else 0.0) + (n - k) * math.log1p(-rate)
    return _ln_mixture(k, n) - _ln_limit(level) >= bound


@dataclass(frozen=True, slots=True)
class _Prefix:
    """State after a prefix of ``length`` blocks; per alternative, ln of the weighted likelihood ratio."""

    length: int
    whole: list[float]
    restarted: list[float]
    value: float


def _extend(grid: Grid, planned_blocks: int, before: _Prefix | None, started: int, bad: int) -> _Prefix:
    ln_gamma = -math.log(planned_blocks)
    whole: Sequence[float]
    if before is None:
        length = 1
        whole = grid.ln_weight
        restarted = [ln_gamma + w for w in grid.ln_weight]
    else:
        length = before.length + 1
        whole = before.whole
        restarted = before.restarted
        if length <= planned_blocks:
            restarted = [_ln_add_exp(m, ln_gamma + w) for m, w in zip(restarted, grid.ln_weight, strict=True)]
    good = started - bad
    added = [bad * a + good * b for a, b in zip(grid.if_bad, grid.if_good, strict=True)]
    whole = [c + d for c, d in zip(whole, added, strict=True)]
    restarted = [m + d for m, d in zip(restarted, added, strict=True)]
    terms = whole + restarted
    if length < planned_blocks:
        terms.append(ln_gamma + math.log(planned_blocks - length))
    return _Prefix(length, whole, restarted, _LN_HALF + _ln_sum_exp(terms))


def _ln_sum_exp(terms: Sequence[float]) -> float:
    # fsum rounds once, whatever the order and the interpreter's version (sum() changed in Python 3.12).
    greatest = max(terms)
    return greatest + math.log(math.fsum([math.exp(term - greatest) for term in terms]))


def _ln_add_exp(one: float, other: float) -> float:
    if one < other:
        one, other = other, one
    return one + math.log1p(math.exp(other - one))


def _logit(rate: float) -> float:
    return math.log(rate / (1.0 - rate))


def _ln_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


_LN_BETA_PRIOR: Final = _ln_beta(_PRIOR_A, _PRIOR_B)


def _ln_mixture(k: int, n: int) -> float:
    return _ln_beta(_PRIOR_A + k, _PRIOR_B + (n - k)) - _LN_BETA_PRIOR


def _ln_limit(level: float) -> float:
    if not 0.0 < level < 1.0:
        message = f"the level of an interval must lie between 0 and 1, not {level!r}"
        raise ValueError(message)
    return -math.log(1.0 - level)


def _check_counts(n: int, k: int) -> None:
    if not 0 <= k <= n:
        message = f"there cannot be {k} bad outcomes among {n} starts"
        raise ValueError(message)


def _check_planned_blocks(planned_blocks: int) -> None:
    if planned_blocks < 1:
        message = f"at least one block must be planned, not {planned_blocks}"
        raise ValueError(message)
