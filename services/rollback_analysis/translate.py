"""From ledger events to what the fold reads. Pure; what the fold has no use for is None."""

from __future__ import annotations

from services.rollback_analysis import fold_input as inputs
from shared.events import types as events


def fold_input_of(event_type: str, data: events.EventData) -> inputs.FoldInput | None:
    """The input for one event; None where it decides nothing."""
    match data:
        case events.UpdateEvent(changeset_id=str() as changeset_id, rollout_id=str() as rollout_id):
            return inputs.UpdateObserved(
                kind=inputs.UpdateKind(event_type.split(".")[1]),
                attempt_id=data.attempt_id,
                node_id=data.node_id,
                changeset_id=changeset_id,
                rollout_id=rollout_id,
                group_id=data.group_id or "",
                applied=data.applied,
                reason=data.reason,
            )
        case events.LogTicked():
            return inputs.Ticked(contacts=data.contacts, expected=data.expected, ingest_lag_s=data.ingest_lag_s)
        case events.RolloutCreated():
            p = data.parameters
            return inputs.RolloutCreated(
                rollout_id=data.rollout_id,
                changeset_id=data.changeset_id,
                group_id=data.group_id,
                group_size=p.group_size,
                group_pace_limit=p.group_concurrency,
                group_hold_budget=p.group_hold_budget,
                parameters=inputs.Parameters(
                    p0=p.p0,
                    alpha=p.alpha,
                    block_size=p.block_size,
                    planned_blocks=p.planned_blocks,
                    hold_budget=p.hold_budget,
                    pace_limit=p.concurrency,
                    overdue_s=p.overdue_s,
                    silence_s=p.silence_s,
                    offer_deadline_s=p.offer_deadline_s,
                    park_after_s=p.park_after_s,
                ),
            )
        case events.RolloutMoved():
            return _rollout_moved(event_type, data)
        case events.ChangesetHalted():
            return inputs.ChangesetHalted(changeset_id=data.changeset_id)
        case events.ChangesetResumed():
            return inputs.ChangesetResumed(changeset_id=data.changeset_id)
        case events.NodeGone():
            return inputs.NodeGone(node_id=data.node_id)
        case _:
            return None


def _rollout_moved(event_type: str, data: events.RolloutMoved) -> inputs.FoldInput | None:
    match event_type.split(".")[1]:
        case "aborted" | "superseded" as how:
            return inputs.RolloutEnded(
                rollout_id=data.rollout_id, changeset_id=data.changeset_id, how=inputs.RolloutEnd(how)
            )
        case "resumed":
            return inputs.RolloutResumed(rollout_id=data.rollout_id, changeset_id=data.changeset_id)
        case _:
            return None
