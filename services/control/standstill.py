"""Why nothing happens in a rollout, in one bounded word. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Standstill(enum.StrEnum):
    """Why no node is being offered the rollout's changeset now."""

    HALTED_EVERYWHERE = "halted_everywhere"
    CHANGESET_HALTED = "changeset_halted"
    CHANGESET_SUSPENDED = "changeset_suspended"
    CHANGESET_WITHDRAWN = "changeset_withdrawn"
    ROLLOUT_CREATED = "rollout_created"
    ROLLOUT_PAUSED = "rollout_paused"
    ROLLOUT_HALTED = "rollout_halted"
    ROLLOUT_COMPLETED = "rollout_completed"
    ROLLOUT_ABORTED = "rollout_aborted"
    ROLLOUT_SUPERSEDED = "rollout_superseded"
    BRAKED = "braked"
    UPDATES_DISABLED = "updates_disabled"
    NO_NODES = "no_nodes"
    NO_NODE_LEFT = "no_node_left"
    PACE_OF_CHANGESET = "pace_of_changeset"
    PACE_OF_GROUP = "pace_of_group"


EXPLANATIONS: dict[Standstill, str] = {
    Standstill.HALTED_EVERYWHERE: "everything is halted: `uneventful halt` shows why, `uneventful unhalt` lifts it",
    Standstill.CHANGESET_HALTED: "the changeset is halted: see its evidence, then resume it or promote another one",
    Standstill.CHANGESET_SUSPENDED: "a payload of the changeset is in doubt and is not served",
    Standstill.CHANGESET_WITHDRAWN: "the changeset was withdrawn for good: promote another one",
    Standstill.ROLLOUT_CREATED: "the rollout has not been started yet",
    Standstill.ROLLOUT_PAUSED: "the rollout is paused: resume it",
    Standstill.ROLLOUT_HALTED: "the rollout is halted: resume it",
    Standstill.ROLLOUT_COMPLETED: "the rollout is done",
    Standstill.ROLLOUT_ABORTED: "the rollout was aborted: promote a changeset to start another",
    Standstill.ROLLOUT_SUPERSEDED: "another changeset was promoted since",
    Standstill.BRAKED: "the analysis brakes until it is known whether this is a halt",
    Standstill.UPDATES_DISABLED: "updates are disabled for the group",
    Standstill.NO_NODES: "no node of this arch is in the group",
    Standstill.NO_NODE_LEFT: "no node that was heard of lately is left on another version",
    Standstill.PACE_OF_CHANGESET: "as many nodes as the changeset's pace allows are in flight",
    Standstill.PACE_OF_GROUP: "as many nodes as the group's pace allows are in flight",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What decides whether a rollout moves; counts are nodes.

    Attributes:
        everything_open: The global gate.
        gate_state: ``open``, ``halted``, ``suspended`` or ``withdrawn``.
        braked: Whether the changeset is braked.
        rollout_state: As in control.rollouts.
        updates_enabled: The group's switch.
        nodes: Nodes of the group with the rollout's arch.
        left: Those of them that could still be updated, in flight or not.
        in_flight: Of the changeset, over all groups.
        group_in_flight: Of the group, over all rollouts.
    """

    everything_open: bool
    gate_state: str
    braked: bool
    rollout_state: str
    updates_enabled: bool
    nodes: int
    left: int
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
    if situation.nodes == 0:
        return Standstill.NO_NODES
    if situation.left == 0:
        return Standstill.NO_NODE_LEFT
    if situation.in_flight >= situation.pace:
        return Standstill.PACE_OF_CHANGESET
    if situation.group_in_flight >= situation.group_pace:
        return Standstill.PACE_OF_GROUP
    return None
