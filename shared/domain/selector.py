"""Which group a node belongs to: ordered selectors over the facts that nodes report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, TypeVar

Selector: TypeAlias = Mapping[str, tuple[str, ...]]
"""Fact name to the values it may have; every named fact must be known. The empty selector matches every node."""

G = TypeVar("G")


def matches(selector: Selector, facts: Mapping[str, str]) -> bool:
    """Whether every fact that the selector names is known and has one of its values."""
    for name, values in selector.items():
        if facts.get(name) not in values:
            return False
    return True


def first_match(groups: Iterable[tuple[Selector, G]], facts: Mapping[str, str]) -> G | None:
    """The first group, in order, whose selector matches; None where none does."""
    for selector, group in groups:
        if matches(selector, facts):
            return group
    return None
