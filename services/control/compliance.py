"""How much of each group runs what its channel asked for some time ago, and how long patches take to arrive. Pure."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from shared.domain.version import is_newer

PERCENTILES: Final = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointed:
    """A channel pointed to a version from a time on."""

    version: str
    at: datetime
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What nodes have to run at least, and since when that can be asked of them."""

    version: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Nodes of a group with one arch and one version.

    Attributes:
        unseen: Of them those that were not heard since the demand was made.
    """

    group_id: uuid.UUID
    arch: str | None
    version: str
    nodes: int
    unseen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How many nodes of a group committed a changeset after so many whole minutes since its promotion."""

    group_id: uuid.UUID
    minutes: int
    nodes: int


def demand_of(history: Iterable[Pointed], *, before: datetime) -> Demand | None:
    """What the channel pointed to at a time, the newest where several; None where it pointed to nothing then.

    A changeset that is withdrawn is asked of nobody: the one before it is.
    """
    due = [pointed for pointed in history if pointed.at <= before and not pointed.withdrawn]
    if not due:
        return None
    last = max(due, key=lambda pointed: pointed.at)
    return Demand(version=last.version, since=last.at)


def complies(version: str, demand: Demand | None) -> bool:
    """Whether a version is what is asked for or newer; where nothing is asked for, every version is."""
    if demand is None or version == demand.version:
        return True
    return is_newer(version, demand.version) is True


def percentile(arrivals: Mapping[int, int], percent: float) -> int | None:
    """The nearest-rank percentile of values with their counts; None of nothing."""
    total = sum(arrivals.values())
    if not total:
        return None
    rank = max(1, math.ceil(total * percent / 100))
    seen = 0
    for value in sorted(arrivals):
        seen += arrivals[value]
        if seen >= rank:
            return value
    raise AssertionError  # the last value reaches every rank


def group_report(
    group: Mapping[str, Any],
    demands: Mapping[str, Demand | None],
    stocks: Sequence[Stock],
    arrivals: Sequence[Arrivals],
) -> dict[str, Any]:
    """The line of one group.

    Args:
        group: Its row: ids and names.
        demands: What is asked for, per arch that its channel has.
        stocks: Its nodes.
        arrivals: Its commits.
    """
    archs = []
    for arch in sorted({*demands, *(stock.arch or "" for stock in stocks)}):
        demand = demands.get(arch)
        own = [stock for stock in stocks if (stock.arch or "") == arch]
        nodes = sum(stock.nodes for stock in own)
        compliant = sum(stock.nodes for stock in own if complies(stock.version, demand))
        archs.append(
            {
                "arch": arch or None,
                "demanded": None if demand is None else demand.version,
                "demanded_since": None if demand is None else demand.since,
                "nodes": nodes,
                "compliant": compliant,
                "unseen": 0 if demand is None else sum(stock.unseen for stock in own),
                "versions": {
                    stock.version: stock.nodes for stock in sorted(own, key=lambda stock: (-stock.nodes, stock.version))
                },
            }
        )
    counts: dict[int, int] = {}
    for arrival in arrivals:
        counts[arrival.minutes] = counts.get(arrival.minutes, 0) + arrival.nodes
    return {
        **group,
        "archs": archs,
        **totals(archs),
        "latency": {
            "commits": sum(counts.values()),
            **{f"p{percent}_minutes": percentile(counts, percent) for percent in PERCENTILES},
            "slowest_minutes": max(counts, default=None),
        },
    }


def totals(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Nodes, compliant ones and unseen ones of all parts; the share of nothing is unknown."""
    counted = list(parts)
    nodes = sum(part["nodes"] for part in counted)
    compliant = sum(part["compliant"] for part in counted)
    return {
        "nodes": nodes,
        "compliant": compliant,
        "unseen": sum(part["unseen"] for part in counted),
        "share": compliant / nodes if nodes else None,
    }
