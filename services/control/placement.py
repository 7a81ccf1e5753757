"""Which nodes move between groups when groups change. Pure."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shared.domain.selector import (
    NOBODY,
    GroupChoice,
    Selector,
    assign,
    first_match,
    is_catch_all,
    selecting_facts,
    shadows,
)

SHOWN: Final = 100
"""So many machine ids are shown of those that would move."""


@dataclass(frozen=True, slots=True)
class Stock:
    """Nodes that agree on all facts that any selector names.

    Attributes:
        key: The JSON array of their values of those facts.
        named: The group that names them.
        group_id: The group that they are in now.
        nodes: How many they are.
    """

    key: str
    named: uuid.UUID | None
    group_id: uuid.UUID | None
    nodes: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a stock belongs."""

    stock: Stock
    group_id: uuid.UUID | None

    @property
    def moves(self) -> bool:
        """Whether it is elsewhere now."""
        return self.group_id != self.stock.group_id


@dataclass(frozen=True, slots=True)
class Placement:
    """Where all nodes of an application belong.

    Attributes:
        facts: The facts that any selector names, sorted.
        placed: Every stock with its group.
    """

    facts: tuple[str, ...]
    placed: tuple[Placed, ...]

    @property
    def moving(self) -> int:
        """Nodes that are in another group now."""
        return sum(item.stock.nodes for item in self.placed if item.moves)

    def leaving(self, group_id: uuid.UUID) -> list[Stock]:
        """What is in a group now and belongs elsewhere."""
        return [item.stock for item in self.placed if item.moves and item.stock.group_id == group_id]

    def coming(self, group_id: uuid.UUID) -> list[Stock]:
        """What belongs to a group and is elsewhere now."""
        return [item.stock for item in self.placed if item.moves and item.group_id == group_id]

    def moves(self) -> Counter[tuple[uuid.UUID | None, uuid.UUID | None]]:
        """Nodes that move, by where from and where to."""
        counts: Counter[tuple[uuid.UUID | None, uuid.UUID | None]] = Counter()
        for item in self.placed:
            if item.moves:
                counts[item.stock.group_id, item.group_id] += item.stock.nodes
        return counts

    def by_key(self) -> dict[str, uuid.UUID | None]:
        """The group of each key, for nodes that no group names."""
        return {item.stock.key: item.group_id for item in self.placed if item.stock.named is None}


def choices(rows: Iterable[Mapping[str, Any]]) -> list[GroupChoice]:
    """Groups as rows, in their order, as what they choose by."""
    return [GroupChoice(row["group_id"], selector_of(row["selector"])) for row in rows]


def selector_of(stored: Mapping[str, Sequence[str]]) -> Selector:
    """A selector as it is stored."""
    return {name: tuple(values) for name, values in stored.items()}


def stored_selector(selector: Mapping[str, Sequence[str]], *, explicit_only: bool) -> dict[str, list[str]]:
    """What is stored of a group that was asked for; one with only the nodes that it names matches nobody."""
    return {name: list(values) for name, values in (NOBODY if explicit_only else selector).items()}


def place(groups: Sequence[GroupChoice], stocks: Iterable[Stock]) -> Placement:
    """Where each stock belongs, by the rule that polls are judged by."""
    facts = selecting_facts(groups)
    known: dict[str, GroupChoice | None] = {}
    placed: list[Placed] = []
    for stock in stocks:
        if stock.named is not None:
            group = assign(groups, stock.named, _facts(facts, stock.key))
        else:
            if stock.key not in known:
                known[stock.key] = first_match(groups, _facts(facts, stock.key))
            group = known[stock.key]
        placed.append(Placed(stock, None if group is None else group.group_id))
    return Placement(facts, tuple(placed))


def _facts(names: Sequence[str], key: str) -> dict[str, str | None]:
    values = msgspec.json.decode(key, type=list[str | None])
    return dict(zip(names, values, strict=True))


def warnings_of(groups: Sequence[GroupChoice], names: Mapping[uuid.UUID, str]) -> list[str]:
    """What is odd about an application's groups, in words.

    Args:
        groups: In their order.
        names: What they are called.
    """
    found = [
        f"group {names[shadow.group_id]} is behind {names[shadow.behind]}, which takes every node: "
        "it has only the nodes that it names; move it before that one"
        for shadow in shadows(groups)
    ]
    if groups and not has_catch_all(groups):
        found.append(
            "no group takes every node: those that no selector matches get nothing; "
            "add a group without a selector as the last one"
        )
    return found


def has_catch_all(groups: Sequence[GroupChoice]) -> bool:
    """Whether some group takes every node that comes to it."""
    return any(is_catch_all(group.selector) for group in groups)


def fitting_position(positions: Sequence[tuple[int, bool]], *, before_catch_all: bool) -> tuple[int, bool]:
    """Where a new group goes when nobody says.

    Args:
        positions: Each group's position in order, and whether it takes every node.
        before_catch_all: Whether the new group wants to be tried before the first that takes every node.

    Returns:
        Its position, and whether that catch-all and all behind it must move back by one to make room.
    """
    last = positions[-1][0] if positions else 0
    if before_catch_all:
        before = 0
        for position, catches in positions:
            if catches:
                return (position - 1, False) if position - 1 > before else (position, True)
            before = position
    return last + 1, False
