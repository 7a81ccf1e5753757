"""Holds: no more of a changeset for the nodes of a segment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that share the values of some facts; those that do not tell one of them belong to it too.

    Args:
        facts: Names and values, sorted; made by `of`.
    """

    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Segment:
        """The segment of these facts.

        Raises:
            InvalidInput: There is none; to stop everything is a halt.
        """
        if not facts:
            raise InvalidInput("a segment names at least one fact: to stop a changeset everywhere, halt it")
        return cls(tuple(sorted(facts.items())))

    def matches(self, facts: Mapping[str, str | None]) -> bool:
        """Whether a node with these facts belongs to it: unless it tells a fact with another value."""
        return all(facts.get(name) in (None, value) for name, value in self.facts)

    def __str__(self) -> str:
        """As people read it."""
        return ", ".join(f"{name} {value}" for name, value in self.facts)
