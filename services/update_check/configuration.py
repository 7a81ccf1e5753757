"""What `decide` reads of the operators' word: groups, rollouts and gates, as one immutable value."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from services.update_check.path_secrets import PathSecret
from services.update_check.withheld import WITHHELD, Withheld
from shared.domain.reasons import Reason
from shared.domain.rollout import Purpose
from shared.domain.scheme import VersionScheme
from shared.domain.selector import Selector, first_match
from shared.domain.version import is_newer
from shared.domain.windows import Windows, opening

if TYPE_CHECKING:
    from shared.omaha.response import UpdateAnswer

ANY_VERSION: Final = "0.0.0"
"""What a client says that is to take whatever is rolled out."""
MAX_REMEMBERED: Final = 4_096
"""Versions and facts are the nodes' words: what is remembered by them is bounded."""

_UP_TO_DATE = WITHHELD[Reason.UP_TO_DATE]
_NO_ROLLOUT = WITHHELD[Reason.NO_ROLLOUT]
_VERSION_UNKNOWN = WITHHELD[Reason.VERSION_UNKNOWN]


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """Which nodes come first: the stage of each value of a fact; all other nodes are of the last one."""

    fact: str
    stages: Mapping[str, int]

    def stage_of(self, value: str | None) -> int:
        """The stage of a node, from 0."""
        last = len(self.stages)
        return last if value is None else self.stages.get(value, last)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """One rollout that serves or may come to, with its changeset's gate. Paces are nodes in flight, times seconds.

    Attributes:
        group_pace: The least of the group's pace and ``pace_cap``.
        leaves_version: Of a downgrade or the way back of a drill: what nodes leave.
        only_machines: Of a drill: whom it is for.
        fraction: The share of the group that may be offered it now.
        order_stage: The last stage of ``order`` that may be.
        windows: None where updates may always be offered.
        holds: Segments that are held, each as (fact, value) pairs.
        excluded: Machine ids that an operator excluded.
        minimum_version: Nodes below it cannot take the changeset.
        expected_s: How long an update is expected to take; for windows that it must fit into.
    """

    rollout_id: uuid.UUID
    changeset_id: uuid.UUID
    group_id: uuid.UUID
    arch: str
    version: str
    state: str
    group_pace: int
    gate_state: str
    braked_reason: str | None
    changeset_pace: int
    suspended: bool
    retry_after_s: float
    answer: UpdateAnswer
    purpose: Purpose = Purpose.UPDATE
    leaves_version: str | None = None
    only_machines: frozenset[str] | None = None
    fraction: float = 1.0
    order: NodeOrder | None = None
    order_stage: int = 0
    windows: Windows | None = None
    holds: tuple[tuple[tuple[str, str], ...], ...] = ()
    excluded: frozenset[str] = frozenset()
    pace_cap: int | None = None
    probation_s: float = 900.0
    silence_s: float = 9_000.0
    expected_s: float = 0.0
    ondemand_jumps_waves: bool = False
    download_rate: int | None = None
    failure_domain: str | None = None
    minimum_version: str | None = None
    _openings: list[tuple[bool, datetime | None]] = field(default_factory=list, repr=False, compare=False)

    def is_newer_than(self, version: str) -> bool | None:
        """Whether the changeset is newer than a node's version; None where that is no version."""
        return version == ANY_VERSION or is_newer(self.version, version)

    def is_window_open(self, now: datetime) -> bool:
        """Whether its windows allow an offer at ``now``; remembered until that changes. Times must not go back."""
        if self.windows is None:
            return True
        if self._openings:
            is_open, until = self._openings[0]
            if until is None or now < until:
                return is_open
        found = opening(self.windows, now, self.expected_s)
        self._openings[:] = [(found.open, found.holds_until)]
        return found.open


@dataclass(frozen=True, slots=True)
class ArchRollouts:
    """What a group rolls out to the nodes of one arch.

    Attributes:
        update: The newest update.
        former: While that does not serve: the newest one that does, where that is older.
        floors: Beside the update, oldest version first.
        downgrades: By the version that nodes leave.
        drills: Newest first.
        dead_ends: Versions of the application that no update leads away from.
    """

    update: RolloutView | None
    former: RolloutView | None = None
    floors: tuple[RolloutView, ...] = ()
    downgrades: Mapping[str, RolloutView] = field(default_factory=dict)
    drills: tuple[RolloutView, ...] = ()
    dead_ends: frozenset[str] = frozenset()
    _picked: dict[str, RolloutView | Withheld] = field(default_factory=dict, repr=False, compare=False)

    def pick(self, machine_id: str, version: str) -> RolloutView | Withheld:
        """The rollout that is for this node, or why there is none; the latter by its version alone, so remembered."""
        if self.drills:
            drill = self._drill(machine_id, version)
            if drill is not None:
                return drill
        try:
            return self._picked[version]
        except KeyError:
            if len(self._picked) >= MAX_REMEMBERED:
                self._picked.clear()
            picked = self._picked[version] = self._by_version(version)
            return picked

    def _drill(self, machine_id: str, version: str) -> RolloutView | Withheld | None:
        for drill in self.drills:
            if drill.only_machines is None or machine_id not in drill.only_machines:
                continue
            if version == drill.version:
                # Where the drill wanted it: nothing else moves it while that goes on.
                return _UP_TO_DATE
            if drill.leaves_version in (None, version):
                return WITHHELD[Reason.DEAD_END] if version in self.dead_ends else drill
        return None

    def _by_version(self, version: str) -> RolloutView | Withheld:
        picked = self.downgrades.get(version) or self._onwards(version)
        if isinstance(picked, Withheld) or version == ANY_VERSION:
            return picked
        if version in self.dead_ends:
            return WITHHELD[Reason.DEAD_END]
        if picked.minimum_version is not None and is_newer(picked.minimum_version, version):
            return WITHHELD[Reason.MINIMUM_VERSION]
        return picked

    def _onwards(self, version: str) -> RolloutView | Withheld:
        update = self.update
        if self.former is not None and self.former.is_newer_than(version):
            update = self.former
        if update is None:
            return _NO_ROLLOUT
        if version == update.version:
            return _UP_TO_DATE
        newer = update.is_newer_than(version)
        if newer is None:
            return _VERSION_UNKNOWN
        if not newer:
            return _UP_TO_DATE
        if version == ANY_VERSION:
            # What it really runs is not known: a floor might lead it back.
            return update
        for floor in self.floors:
            if is_newer(floor.version, version) and is_newer(update.version, floor.version):
                return floor
        return update


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group and what it rolls out now, by arch."""

    group_id: uuid.UUID
    name: str
    selector: Selector
    updates_enabled: bool
    poll_interval_s: int
    rollouts: Mapping[str, ArchRollouts]
    pinned_version: str | None = None


@dataclass(frozen=True, slots=True)
class ApplicationView:
    """An application with its groups in order."""

    application_id: uuid.UUID
    name: str
    omaha_id: str | None
    groups: tuple[GroupView, ...]
    selecting_facts: tuple[str, ...]
    """The facts that any selector names, sorted: two nodes that agree on these match the same selectors."""
    named: Mapping[str, GroupView] = field(default_factory=dict)
    """Machine ids that a group names: it has them whatever their facts are."""
    observe_only: bool = False
    scheme: VersionScheme = VersionScheme.FLATCAR
    _by_facts: dict[tuple[str | None, ...], GroupView | None] = field(default_factory=dict, repr=False, compare=False)

    def group_of(self, fact: Callable[[str], str | None], machine_id: str) -> GroupView | None:
        """The group that names the node, else the first that selects it: `shared.domain.selector.assign`, remembered.

        Args:
            fact: Tells a fact by name; None where it is unknown.
            machine_id: What the node calls itself.
        """
        if self.named:
            named = self.named.get(machine_id)
            if named is not None:
                return named
        key = tuple(map(fact, self.selecting_facts))
        try:
            return self._by_facts[key]
        except KeyError:
            group = first_match(self.groups, dict(zip(self.selecting_facts, key, strict=True)))
            if len(self._by_facts) >= MAX_REMEMBERED:
                self._by_facts.clear()
            self._by_facts[key] = group
            return group


@dataclass(frozen=True, slots=True)
class Named:
    """What may be long, and changes with the policy version only: it is not read again while that is the same.

    Attributes:
        machines: By application: machine ids that groups name, with the group.
        dead_ends: By application and arch: versions that no update leads away from.
        path_secrets: Of Omaha's path, by their digests.
    """

    machines: Mapping[uuid.UUID, Mapping[str, uuid.UUID]] = field(default_factory=dict)
    dead_ends: Mapping[tuple[uuid.UUID, str], frozenset[str]] = field(default_factory=dict)
    path_secrets: Mapping[bytes, PathSecret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it, as it stood at one moment."""

    policy_version: int
    open: bool
    applications: Mapping[uuid.UUID, ApplicationView]
    by_omaha_id: Mapping[str, ApplicationView]
    named: Named = field(default_factory=Named)

    def application(self, reference: str) -> ApplicationView | None:
        """An application by its id, Omaha id or name."""
        plain = reference.strip("{}").lower()
        try:
            found = self.applications.get(uuid.UUID(plain))
        except ValueError:
            found = None
        if found is None:
            found = self.by_omaha_id.get(plain)
        if found is None:
            found = next((one for one in self.applications.values() if one.name == reference), None)
        return found

    @classmethod
    def of(
        cls, policy_version: int, applications: Sequence[ApplicationView], *, is_open: bool, named: Named | None = None
    ) -> Configuration:
        """Index the applications."""
        return cls(
            policy_version=policy_version,
            open=is_open,
            applications={a.application_id: a for a in applications},
            by_omaha_id={a.omaha_id: a for a in applications if a.omaha_id is not None},
            named=named or Named(),
        )


EMPTY = Configuration(policy_version=0, open=False, applications={}, by_omaha_id={})
