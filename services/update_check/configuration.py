"""What `decide` reads of the operators' word: groups, rollouts and gates, as one immutable value."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.domain.selector import Selector, matches
from shared.domain.version import is_newer

if TYPE_CHECKING:
    from shared.omaha.response import UpdateAnswer


@dataclass(frozen=True, slots=True)
class RolloutView:
    """One active rollout with its changeset's gate. Paces are nodes in flight."""

    rollout_id: uuid.UUID
    changeset_id: uuid.UUID
    group_id: uuid.UUID
    version: str
    state: str
    group_pace: int
    gate_state: str
    braked_reason: str | None
    changeset_pace: int
    suspended: bool
    retry_after_s: float
    answer: UpdateAnswer
    _newer: dict[str, bool | None] = field(default_factory=dict, repr=False, compare=False)

    def is_newer_than(self, version: str) -> bool | None:
        """Whether the changeset is newer than a node's version; None where that is no version. Remembered."""
        try:
            return self._newer[version]
        except KeyError:
            if len(self._newer) >= 1024:
                self._newer.clear()
            newer = self._newer[version] = version == "0.0.0" or is_newer(self.version, version)
            return newer


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group and what it rolls out now, by arch."""

    group_id: uuid.UUID
    name: str
    selector: Selector
    updates_enabled: bool
    poll_interval_s: int
    rollouts: Mapping[str, RolloutView]


@dataclass(frozen=True, slots=True)
class ApplicationView:
    """An application with its groups in order."""

    application_id: uuid.UUID
    name: str
    omaha_id: str | None
    groups: tuple[GroupView, ...]
    selecting_facts: tuple[str, ...]
    """The facts that any selector names, sorted: two nodes that agree on these are in the same group."""
    _by_facts: dict[tuple[str | None, ...], GroupView | None] = field(default_factory=dict, repr=False, compare=False)

    def group_of(self, fact: Callable[[str], str | None]) -> GroupView | None:
        """The first group whose selector matches; ``fact`` tells a fact by name, None where it is unknown."""
        key = tuple(map(fact, self.selecting_facts))
        try:
            return self._by_facts[key]
        except KeyError:
            known = dict(zip(self.selecting_facts, key, strict=True))
            group = next((g for g in self.groups if matches(g.selector, known)), None)
            if len(self._by_facts) >= 4096:
                self._by_facts.clear()
            self._by_facts[key] = group
            return group


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it, as it stood at one moment."""

    policy_version: int
    open: bool
    applications: Mapping[uuid.UUID, ApplicationView]
    by_omaha_id: Mapping[str, ApplicationView]

    @classmethod
    def of(cls, policy_version: int, applications: Sequence[ApplicationView], *, is_open: bool) -> Configuration:
        """Index the applications."""
        return cls(
            policy_version=policy_version,
            open=is_open,
            applications={a.application_id: a for a in applications},
            by_omaha_id={a.omaha_id: a for a in applications if a.omaha_id is not None},
        )


EMPTY = Configuration(policy_version=0, open=False, applications={}, by_omaha_id={})
