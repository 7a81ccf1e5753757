"""Which group a node belongs to: ordered selectors over the facts that nodes report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Selector: TypeAlias = Mapping[str, tuple[str, ...]]
"""Fact name to the values it may have; every named fact must be known. The empty selector matches every node."""


def matches(selector: Selector, facts: Mapping[str, str | None]) -> bool:
    """Whether every fact that the selector names is known and has one of its values."""
    return all(facts.get(name) in values for name, values in selector.items())
