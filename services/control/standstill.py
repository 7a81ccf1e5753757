"""Why nothing happens in a rollout, in one bounded word. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.control import conduct
from shared.domain.rollout import RolloutState
from shared.domain.waves import WaveVerdict


class Standstill(enum.StrEnum):
    """Why no node is being offered the rollout's changeset now."""

    HALTED_EVERYWHERE = "halted_everywhere"
    CHANGESET_HALTED = "changeset_halted"
    CHANGESET_SUSPENDED = "changeset_suspended"
    CHANGESET_WITHDRAWN = "changeset_withdrawn"
    ROLLOUT_CREATED = "rollout_created"
    ROLLOUT_WAITING_FOR_GATE = "rollout_waiting_for_gate"
    ROLLOUT_WAITING_FOR_APPROVAL = "rollout_waiting_for_approval"
    ROLLOUT_SCHEDULED = "rollout_scheduled"
    ROLLOUT_PAUSED = "rollout_paused"
    ROLLOUT_HALTED = "rollout_halted"
    ROLLOUT_COMPLETED = "rollout_completed"
    ROLLOUT_ABORTED = "rollout_aborted"
    ROLLOUT_SUPERSEDED = "rollout_superseded"
    BRAKED = "braked"
    UPDATES_DISABLED = "updates_disabled"
    WINDOW_SHUT = "window_shut"
    NO_NODES = "no_nodes"
    NO_NODE_LEFT = "no_node_left"
    WAVE_DONE = "wave_done"
    PACE_OF_CHANGESET = "pace_of_changeset"
    PACE_OF_GROUP = "pace_of_group"


EXPLANATIONS: dict[Standstill, str] = {
    Standstill.HALTED_EVERYWHERE: "everything is halted: `uneventful halt` shows why, `uneventful unhalt` lifts it",
    Standstill.CHANGESET_HALTED: "the changeset is halted: see its evidence, then resume it or promote another one",
    Standstill.CHANGESET_SUSPENDED: "a payload of the changeset is in doubt and is not served",
    Standstill.CHANGESET_WITHDRAWN: "the changeset was withdrawn for good: promote another one",
    Standstill.ROLLOUT_CREATED: "the rollout has not been started yet",
    Standstill.ROLLOUT_WAITING_FOR_GATE: "its changeset has to soak elsewhere first",
    Standstill.ROLLOUT_WAITING_FOR_APPROVAL: "`uneventful rollout approve` lets it go on",
    Standstill.ROLLOUT_SCHEDULED: "its time has not come yet",
    Standstill.ROLLOUT_PAUSED: "the rollout is paused: resume it",
    Standstill.ROLLOUT_HALTED: "the rollout is halted: resume it",
    Standstill.ROLLOUT_COMPLETED: "the rollout is done; nodes that come later are served all the same",
    Standstill.ROLLOUT_ABORTED: "the rollout was aborted: promote a changeset to start another",
    Standstill.ROLLOUT_SUPERSEDED: "another changeset was promoted since",
    Standstill.BRAKED: "the analysis brakes until it is known whether this is a halt",
    Standstill.UPDATES_DISABLED: "updates are disabled for the group",
    Standstill.WINDOW_SHUT: "the group's change windows are shut",
    Standstill.NO_NODES: "no node of this arch is in the group",
    Standstill.NO_NODE_LEFT: "no node that was heard of lately is left on another version",
    Standstill.WAVE_DONE: "every node of the wave has it; the next wave is still to come",
    Standstill.PACE_OF_CHANGESET: "as many nodes as the changeset's pace allows are in flight",
    Standstill.PACE_OF_GROUP: "as many nodes as the group's pace allows are in flight",
}


ENDED: Final = frozenset({Standstill.ROLLOUT_COMPLETED, Standstill.ROLLOUT_ABORTED, Standstill.ROLLOUT_SUPERSEDED})
"""Nothing more is to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What decides whether a rollout moves; counts are nodes.

    Attributes:
        everything_open: The global gate.
        gate_state: ``open``, ``halted``, ``suspended`` or ``withdrawn``.
        braked: Whether the changeset is braked.
        rollout_state: As in control.rollouts.
        updates_enabled: The group's switch.
        window_open: Whether its change windows are open, or do not matter.
        nodes: Nodes of the group with the rollout's arch.
        left: Those of them that could still be updated, in flight or not.
        wave_left: Nodes that its wave lets in and that do not have it.
        in_flight: Of the changeset, over all groups.
        group_in_flight: Of the group, over all rollouts.
    """

    everything_open: bool
    gate_state: str
    braked: bool
    rollout_state: str
    updates_enabled: bool
    window_open: bool
    nodes: int
    left: int
    wave_left: int
    in_flight: int
    pace: int
    group_in_flight: int
    group_pace: int


def standstill(situation: Situation) -> Standstill | None:
    """The first reason why no offer is made, in the order in which grants check; None while offers are made."""
    if situation.rollout_state in ("completed", "aborted", "superseded"):
        return Standstill(f"rollout_{situation.rollout_state}")
    if not situation.everything_open:
        return Standstill.HALTED_EVERYWHERE
    if situation.gate_state != "open":
        return Standstill(f"changeset_{situation.gate_state}")
    if situation.rollout_state != "running":
        return Standstill(f"rollout_{situation.rollout_state}")
    if situation.braked:
        return Standstill.BRAKED
    if not situation.updates_enabled:
        return Standstill.UPDATES_DISABLED
    if not situation.window_open:
        return Standstill.WINDOW_SHUT
    if situation.nodes == 0:
        return Standstill.NO_NODES
    if situation.left == 0:
        return Standstill.NO_NODE_LEFT
    if situation.wave_left == 0:
        return Standstill.WAVE_DONE
    if situation.in_flight >= situation.pace:
        return Standstill.PACE_OF_CHANGESET
    if situation.group_in_flight >= situation.group_pace:
        return Standstill.PACE_OF_GROUP
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a rollout waits for, in words, and the earliest time at which that may be over, where it is known."""

    waits_for: tuple[str, ...] = ()
    until: datetime | None = None


def waiting(why: Standstill | None, situation: conduct.Situation, wave: WaveVerdict, now: datetime) -> Waiting:
    """What a rollout waits for.

    Args:
        why: Its standstill.
        situation: Its situation.
        wave: What its wave says.
        now: The time.
    """
    if situation.state is RolloutState.CREATED or situation.state.waiting:
        to, reason = conduct.next_state(situation)
        if to is RolloutState.WAITING_FOR_GATE:
            shut = [gate for gate in situation.gates if not gate.open]
            untils = [gate.until for gate in shut if gate.until is not None]
            return Waiting(
                waits_for=tuple(reason for gate in shut for reason in gate.waits_for), until=max(untils, default=None)
            )
        if to is RolloutState.SCHEDULED:
            return Waiting(waits_for=(situation.opening.reason,), until=situation.opening.next_at)
        return Waiting(waits_for=() if reason is None or to is RolloutState.RUNNING else (reason,))
    if why is Standstill.WINDOW_SHUT:
        return Waiting(waits_for=(situation.opening.reason,), until=situation.opening.next_at)
    if situation.state is RolloutState.RUNNING:
        until = wave.until if wave.until is not None and wave.until > now else None
        return Waiting(waits_for=wave.waits_for, until=until)
    return Waiting()


def explain(why: Standstill, waiting: Waiting) -> str:
    """The standstill in words, with what it waits for."""
    said = EXPLANATIONS[why]
    return f"{said}: {'; '.join(waiting.waits_for)}" if waiting.waits_for and why not in ENDED else said
