"""A group's policy, and the parameters that a rollout freezes from it when it is created."""

from __future__ import annotations

import enum
import math
from typing import Annotated, Final

import msgspec

from shared.domain.gate import Gate
from shared.domain.waves import Wave
from shared.domain.windows import Windows
from shared.errors import InvalidInput

SMALL_FLEET = 2_000
"""Below this many nodes evidence is kept in blocks of 16 starts instead of 64, so that late faults show sooner."""

TO_BOOT_S: Final = 1_800.0
"""An update is expected to need so many seconds until the node is back from its reboot."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=90 * 86_400)]
Nodes = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


FactName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}\Z")]
FactValue = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Severity(enum.StrEnum):
    """How loudly a halt of a rollout is to be told."""

    PAGE = "page"
    TICKET = "ticket"
    NOTICE = "notice"


class Action(enum.StrEnum):
    """What may need a second pair of eyes."""

    PROMOTE = "promote"
    OVERRIDE_ATTESTATIONS = "override_attestations"
    RESUME = "resume"
    EXPEDITE = "expedite"
    DOWNGRADE = "downgrade"
    RELEASE_HOLD = "release_hold"


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which nodes come first: those with the first value of a fact, then those with the second, then all others."""

    fact: FactName
    values: Annotated[tuple[FactValue, ...], msgspec.Meta(min_length=1, max_length=64)]


class Expedition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a security fix may be expedited; never past halts, holds, quarantine or reboot slots.

    Attributes:
        soak_share: Gates and waves soak for this share of their time, at least.
        first_fraction: The first wave is at least this wide.
        skip_windows: Whether windows and blackouts may be ignored.
    """

    soak_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    first_fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.25
    skip_windows: bool = True


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator allows a group; every field has a default that is safe for production.

    Rates are fractions of 1, times are seconds.
    """

    allowed_bad_rate: Annotated[float, msgspec.Meta(gt=0, le=0.4)] = 0.01
    """p0: a changeset whose nodes roll back or fall silent more often than this is to be halted."""
    false_halt_chance: Annotated[float, msgspec.Meta(gt=0, le=0.2)] = 0.01
    """alpha: the chance that a changeset which keeps to p0 is halted all the same, over its whole life."""
    concurrency: Nodes | None = None
    """F: the most nodes of the changeset in flight at once. None: 500, or 5 % of the fleet where that is more."""
    fleet_fraction: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """F as a share of the fleet; where ``concurrency`` is given too, the smaller of both holds."""
    hold_budget: Nodes | None = None
    """H: the bad nodes in flight that are accepted at any time. None: 10, or 0.05 % of the fleet where that is more."""
    group_concurrency: Nodes | None = None
    """F of this group alone. None: no further limit."""
    poll_interval_s: Seconds = 2_700.0
    """How often the nodes of the group poll; sent to them as PollInterval (update_engine only lets it slow down)."""
    contact_overdue_s: Seconds = 5_400.0
    """A staged node that has not been heard for this long counts as having begun its reboot."""
    silence_deadline_s: Seconds = 9_000.0
    """D: a started node that has not been heard for this long counts as bad."""
    offer_deadline_s: Seconds = 21_600.0
    """An offer without any progress for this long is taken back; it counts neither way."""
    park_after_s: Seconds = 86_400.0
    """An attempt that has awaited its reboot for this long leaves the pace."""
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    """How often a node is offered a changeset that it fails to fetch or to install."""
    retry_after_s: Seconds = 3_600.0
    """The pause after a failed attempt; doubles with each further one."""
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 900.0
    """How long a node of our own agent proves itself in the new slot before it commits."""
    waves: Annotated[tuple[Wave, ...], msgspec.Meta(max_length=16)] = ()
    """Shares of the group, each with its soak; the last one must be the whole. None: the whole group from the start."""
    gates: Annotated[tuple[Gate, ...], msgspec.Meta(max_length=8)] = ()
    """What must have soaked elsewhere before a rollout begins."""
    windows: Windows = Windows()
    """When updates are offered."""
    approval: bool = False
    """Whether a rollout waits for an approver."""
    order: Order | None = None
    """Which nodes come first."""
    failure_domain: FactName | None = None
    """A fact (rack, cluster, hypervisor): at most one node of the group with the same value is in flight."""
    download_rate: Annotated[int, msgspec.Meta(ge=1_024, le=1 << 40)] | None = None
    """Bytes per second that a node may download at; None: as fast as it can."""
    ondemand_jumps_waves: bool = False
    """Whether a check by hand (Omaha's ``ondemandupdate``) may jump waves and windows; it never passes a halt."""
    downgrade: bool = False
    """Whether nodes on a withdrawn changeset are brought back to the one before it, as a rollout of its own."""
    severity: Severity = Severity.PAGE
    """How loudly a halt is told; canaries on beta may be quieter than production."""
    four_eyes: Annotated[tuple[Action, ...], msgspec.Meta(max_length=16)] = ()
    """What an operator may not do without an approver."""
    expedition: Expedition = Expedition()
    """How far a security fix may be expedited."""

    def __post_init__(self) -> None:
        """Refuse deadlines that a healthy node cannot keep.

        Raises:
            InvalidInput: A deadline is shorter than the time in which a node can report.
        """
        if self.contact_overdue_s < 1.5 * self.poll_interval_s:
            raise InvalidInput(
                f"contact_overdue_s is {self.contact_overdue_s:g}, but nodes poll every {self.poll_interval_s:g} s: "
                f"use at least {1.5 * self.poll_interval_s:g}."
            )
        if self.silence_deadline_s < self.contact_overdue_s:
            raise InvalidInput(
                f"silence_deadline_s is {self.silence_deadline_s:g}, which is shorter than a node can report in: "
                f"use at least contact_overdue_s, {self.contact_overdue_s:g}."
            )
        fractions = [wave.fraction for wave in self.waves]
        if fractions != sorted(set(fractions)) or (fractions and fractions[-1] != 1):
            raise InvalidInput(
                f"waves are {', '.join(f'{fraction:g}' for fraction in fractions)}: each must be wider than the one "
                "before it, and the last one must be 1."
            )

    @property
    def expected_s(self) -> float:
        """How long an update is expected to take, in seconds: to fetch, to stage, to boot, and the probation."""
        return TO_BOOT_S + self.probation_s


class RolloutParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the judgement of a rollout depends on, frozen when it is created and carried by its event.

    Sizes are in nodes, times in seconds; ``hold_budget`` is H, ``concurrency`` F, the ``group_`` ones the group's.
    """

    p0: float
    alpha: float
    block_size: int
    planned_blocks: int
    fleet_size: int
    group_size: int
    hold_budget: int
    concurrency: int
    group_hold_budget: int
    group_concurrency: int
    overdue_s: float
    silence_s: float
    offer_deadline_s: float
    park_after_s: float


def freeze(policy: Policy, *, fleet_size: int, group_size: int) -> RolloutParameters:
    """The parameters of a rollout under ``policy``.

    Args:
        policy: The group's policy.
        fleet_size: Nodes of the application with the changeset's arch, in all groups.
        group_size: Nodes of the group with that arch.
    """
    hold_budget = policy.hold_budget or max(10, math.ceil(0.0005 * fleet_size))
    concurrency = policy.concurrency or max(500, math.ceil(0.05 * fleet_size))
    if policy.fleet_fraction is not None:
        share = max(1, math.floor(policy.fleet_fraction * fleet_size))
        concurrency = share if policy.concurrency is None else min(concurrency, share)
    block_size = 16 if fleet_size < SMALL_FLEET else 64
    return RolloutParameters(
        p0=policy.allowed_bad_rate,
        alpha=policy.false_halt_chance,
        block_size=block_size,
        planned_blocks=max(1, math.ceil(fleet_size / block_size)),
        fleet_size=fleet_size,
        group_size=group_size,
        hold_budget=hold_budget,
        concurrency=max(concurrency, hold_budget),
        group_hold_budget=max(1, min(hold_budget, math.floor(0.05 * group_size))),
        group_concurrency=policy.group_concurrency or max(1, group_size, concurrency),
        overdue_s=policy.contact_overdue_s,
        silence_s=policy.silence_deadline_s,
        offer_deadline_s=policy.offer_deadline_s,
        park_after_s=policy.park_after_s,
    )
