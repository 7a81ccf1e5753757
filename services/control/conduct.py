"""What a rollout does next by itself: through gates, approval and window into its waves, and to its end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from services.control.completion import Remainder, is_complete
from shared.domain.gate import GateMode, GateVerdict
from shared.domain.policy import Policy, RolloutParameters
from shared.domain.rollout import WAITING, Purpose, RolloutState
from shared.domain.waves import WaveProgress, WaveVerdict, wave_after
from shared.domain.windows import Opening, Windows

_LONGEST_REASON: Final = 1_000
_ORDER: Final = (
    RolloutState.CREATED,
    RolloutState.WAITING_FOR_GATE,
    RolloutState.WAITING_FOR_APPROVAL,
    RolloutState.SCHEDULED,
    RolloutState.RUNNING,
)
"""A rollout goes this way, never back; it may leave out what it does not have to wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that decides what a rollout does next.

    Attributes:
        state: Its own.
        purpose: Why it is there.
        policy: What was frozen when it was created.
        everything_open: The global gate.
        changeset_open: Its changeset's gate.
        braked: Whether its changeset is braked, or its own pace is 0.
        held: Whether a segment of its changeset is held.
        opening: Its windows now.
        fraction: The share of the group that may be offered it.
        order_stage: The stage of the policy's order that it has come to.
        gates: What its gates say, in the policy's order; only while it waits.
        approved: Whether an approver has let it go on.
        expedited: Whether it is expedited.
        wave: How far its wave has come; None where there is no next one, or it was not looked at.
        stage_left: Live nodes of the stages so far that are left to update or in flight; None as above.
        remainder: What is left to do; None where it was not looked at.
    """

    state: RolloutState
    purpose: Purpose
    policy: Policy
    everything_open: bool
    changeset_open: bool
    braked: bool
    held: bool
    opening: Opening
    fraction: float
    order_stage: int
    gates: tuple[GateVerdict, ...] = ()
    approved: bool = False
    expedited: bool = False
    wave: WaveProgress | None = None
    stage_left: int | None = None
    remainder: Remainder | None = None

    @property
    def stands(self) -> bool:
        """Whether something keeps it from going on at all."""
        return not self.everything_open or not self.changeset_open or self.braked or self.held


@dataclass(frozen=True, slots=True)
class Move:
    """Into another state."""

    to: RolloutState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BeginWave:
    """A wider share of the group may be offered the changeset."""

    wave: int
    fraction: float
    reason: str


@dataclass(frozen=True, slots=True)
class BeginStage:
    """The nodes of the order's next value may be offered it too."""

    stage: int
    reason: str


Step: TypeAlias = Move | BeginWave | BeginStage


def policy_for(purpose: Purpose, policy: Policy) -> Policy:
    """What a group's policy says to a rollout of this purpose.

    A floor waits for no gate and no approval: the update that it leads to has. A downgrade waits for no gate: what it
    leads back to has soaked before. A drill begins at once, for the nodes that it names.
    """
    match purpose:
        case Purpose.UPDATE:
            return policy
        case Purpose.FLOOR:
            return msgspec.structs.replace(policy, gates=(), approval=False)
        case Purpose.DOWNGRADE:
            return msgspec.structs.replace(policy, gates=())
        case Purpose.DRILL:
            return msgspec.structs.replace(
                policy, gates=(), approval=False, waves=(), order=None, windows=Windows(), failure_domain=None
            )


def parameters_for(policy: Policy, parameters: RolloutParameters) -> RolloutParameters:
    """The parameters of a rollout: behind a gate that goes by time alone it starts with one node at a time."""
    if any(gate.mode is GateMode.TIME for gate in policy.gates):
        return msgspec.structs.replace(parameters, group_hold_budget=1)
    return parameters


def soak_share(policy: Policy, *, expedited: bool) -> float:
    """How much of the soak is asked for."""
    return policy.expedition.soak_share if expedited else 1.0


def first_fraction(policy: Policy, *, expedited: bool) -> float:
    """The share of the group that the first wave lets in."""
    first = policy.waves[0].fraction if policy.waves else 1.0
    return max(first, policy.expedition.first_fraction) if expedited else first


def windows_matter(policy: Policy, *, expedited: bool) -> bool:
    """Whether change windows hold for a rollout."""
    return not (expedited and policy.expedition.skip_windows)


def next_state(situation: Situation) -> tuple[RolloutState, str | None]:
    """How far a rollout that waits may go, and why no further."""
    shut = [gate for gate in situation.gates if not gate.open]
    if shut:
        return RolloutState.WAITING_FOR_GATE, "waits for " + "; ".join(
            reason for gate in shut for reason in gate.waits_for
        )
    if situation.policy.approval and not situation.approved:
        return RolloutState.WAITING_FOR_APPROVAL, "waits for an approver"
    if not situation.opening.open and windows_matter(situation.policy, expedited=situation.expedited):
        return RolloutState.SCHEDULED, situation.opening.reason
    if situation.gates:
        return RolloutState.RUNNING, "its gates are open: " + "; ".join(
            f"{gate.subject}: {gate.seen}, which {gate.excludes}" for gate in situation.gates
        )
    return RolloutState.RUNNING, None


def conduct(situation: Situation, now: datetime) -> Step | None:
    """The next step of a rollout; None where it stays as it is.

    Args:
        situation: All that decides it.
        now: The time.
    """
    state = situation.state
    if state is RolloutState.CREATED or state in WAITING:
        if not situation.everything_open or not situation.changeset_open:
            return None
        to, reason = next_state(situation)
        if _ORDER.index(to) <= _ORDER.index(state):
            return None
        return Move(to, None if reason is None else reason[:_LONGEST_REASON])
    if state is not RolloutState.RUNNING:
        return None
    return _widen(situation, now) or _complete(situation)


def wave_verdict(situation: Situation, now: datetime) -> WaveVerdict:
    """What the wave that runs still waits for; nothing where it was not looked at."""
    if situation.wave is None:
        return WaveVerdict()
    share = soak_share(situation.policy, expedited=situation.expedited)
    return wave_after(situation.policy.waves, situation.wave, now, soak_share=share)


def _widen(situation: Situation, now: datetime) -> Step | None:
    if situation.stands:
        return None
    verdict = wave_verdict(situation, now)
    if verdict.following is not None and situation.wave is not None:
        waves = situation.policy.waves
        following = waves[verdict.following].fraction
        reason = (
            f"{situation.wave.wave_committed} of {situation.wave.wave_nodes} nodes of the wave run it, after a soak of "
            f"{waves[situation.wave.wave].soak_s * soak_share(situation.policy, expedited=situation.expedited):g} s"
        )
        return BeginWave(verdict.following, max(situation.fraction, following), reason)
    order = situation.policy.order
    if order is not None and situation.order_stage < len(order.values) and situation.stage_left == 0:
        done = order.values[situation.order_stage]
        return BeginStage(situation.order_stage + 1, f"no node with {order.fact} {done} is left")
    return None


def _complete(situation: Situation) -> Step | None:
    order = situation.policy.order
    if situation.remainder is None or situation.fraction < 1:
        return None
    if order is not None and situation.order_stage < len(order.values):
        return None
    if is_complete(situation.remainder):
        return Move(RolloutState.COMPLETED)
    # What stands beside an update ends when nothing is left for it, whether a node took it or not.
    if situation.purpose is not Purpose.UPDATE and not situation.remainder.left and not situation.remainder.in_flight:
        return Move(RolloutState.COMPLETED)
    return None


RATE_WINDOW: Final = timedelta(hours=1)
"""The rate at which a rollout goes is told from so much of its past, or from a quarter of it where that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How fast a rollout has gone.

    Attributes:
        running_since: When it began.
        committed: Nodes that committed.
        committed_lately: Those of them within `rate_window`.
        left: Nodes that are still to come.
        soak_left_s: Soaks of its waves that are still to come, in seconds.
    """

    running_since: datetime
    committed: int
    committed_lately: int
    left: int
    soak_left_s: float = 0.0


def rate_window(running_since: datetime, now: datetime) -> timedelta:
    """The part of a rollout's past that tells how fast it goes."""
    past = max(now - running_since, timedelta(seconds=1))
    return min(past, max(RATE_WINDOW, past / 4))


def eta(history: History, now: datetime) -> datetime | None:
    """When a rollout will be done if it goes on as it did lately; None where nothing tells.

    Never before the soaks that are still to come have passed.
    """
    soaks = timedelta(seconds=history.soak_left_s)
    if not history.left:
        return now + soaks
    if not history.committed_lately:
        return None
    per_node = rate_window(history.running_since, now) / history.committed_lately
    return now + max(per_node * history.left, soaks)


def soak_left_s(policy: Policy, wave: int, wave_since: datetime | None, now: datetime, *, expedited: bool) -> float:
    """Seconds of soak that the waves from ``wave`` on still ask for, the last one's not."""
    share = soak_share(policy, expedited=expedited)
    total = share * sum(later.soak_s for later in policy.waves[wave:-1])
    passed = 0.0 if wave_since is None else (now - wave_since).total_seconds()
    current = share * policy.waves[wave].soak_s if wave < len(policy.waves) - 1 else 0.0
    return max(0.0, total - min(passed, current))
