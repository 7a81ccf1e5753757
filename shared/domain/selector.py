"""Which group a node belongs to: the nodes that a group names, then ordered selectors over facts.

update_check asks this at every poll, control when groups change and before: both with these functions, so that what an
operator is shown is what nodes get.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar

Selector: TypeAlias = Mapping[str, tuple[str, ...]]
"""Fact name to the values it may have; every named fact must be known. The empty selector matches every node."""

NOBODY: Final[Selector] = {"nobody": ()}
"""Matches no node: a group with this selector has only the nodes that it names."""


class Selecting(Protocol):
    """A group, as far as it chooses its nodes."""

    @property
    def group_id(self) -> uuid.UUID:
        """Its id."""

    @property
    def selector(self) -> Selector:
        """Which nodes it takes, those aside that a group names."""


G = TypeVar("G", bound=Selecting)


@dataclass(frozen=True, slots=True)
class GroupChoice:
    """A group's id and its selector, where nothing more is needed."""

    group_id: uuid.UUID
    selector: Selector


def matches(selector: Selector, facts: Mapping[str, str | None]) -> bool:
    """Whether every fact that the selector names is known and has one of its values."""
    return all(facts.get(name) in values for name, values in selector.items())


def is_catch_all(selector: Mapping[str, object]) -> bool:
    """Whether it matches every node."""
    return not selector


def selecting_facts(groups: Iterable[Selecting]) -> tuple[str, ...]:
    """The facts that any selector names, sorted: two nodes that agree on these match the same group."""
    return tuple(sorted({name for group in groups for name in group.selector}))


def first_match(groups: Iterable[G], facts: Mapping[str, str | None]) -> G | None:
    """The first group whose selector matches; None where none does."""
    return next((group for group in groups if matches(group.selector, facts)), None)


def assign(groups: Sequence[G], named: uuid.UUID | None, facts: Mapping[str, str | None]) -> G | None:
    """The group that a node belongs to; None where no group wants it.

    Args:
        groups: The application's groups in their order.
        named: The group that names the node, whatever its facts are.
        facts: What is known of the node.
    """
    if named is not None:
        for group in groups:
            if group.group_id == named:
                return group
    return first_match(groups, facts)


def known_facts(
    told: Mapping[str, str],
    imported: Mapping[str, str],
    *,
    version: str,
    arch: str | None,
    alias: str | None,
) -> dict[str, str]:
    """All that is known of a node: what it tells itself goes before what operators said of it.

    ``fleet.facts_v1`` is the same rule next to the rows.

    Args:
        told: What the node says of itself.
        imported: What operators imported.
        version: What it runs; a fact like the others.
        arch: Its arch.
        alias: The name that operators gave it.
    """
    known = {**imported}
    if alias is not None:
        known["alias"] = alias
    known.update(told)
    known["version"] = version
    if arch is not None:
        known["arch"] = arch
    return known


@dataclass(frozen=True, slots=True)
class Shadow:
    """A group that gets no node by its selector, since one before it takes every node."""

    group_id: uuid.UUID
    behind: uuid.UUID


def shadows(groups: Sequence[Selecting]) -> tuple[Shadow, ...]:
    """The groups behind the first catch-all, those aside that have only the nodes that they name."""
    found: list[Shadow] = []
    catch_all: uuid.UUID | None = None
    for group in groups:
        if catch_all is not None:
            if () not in group.selector.values():
                found.append(Shadow(group.group_id, catch_all))
        elif is_catch_all(group.selector):
            catch_all = group.group_id
    return tuple(found)
