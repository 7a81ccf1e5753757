"""All of rollback_analysis's SQL: what it believes, what it decides, in one transaction with its checkpoint."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg
import msgspec
import orjson
from asyncpg.pool import PoolConnectionProxy

from services.rollback_analysis.fold import Fold
from services.rollback_analysis.fold_rows import AttemptRow, Changes, ChangesetRow, FoldRow
from services.rollback_analysis.verdicts import (
    Blind,
    Expire,
    ExpireReason,
    Halt,
    Pace,
    Park,
    Sighted,
    Verdict,
    verdict_bytes,
)
from shared.clock import Clock
from shared.db.queries import Queries
from shared.events import new_event
from shared.events.types import ChangesetBraked, RolloutWidened
from shared.ids import IdSource
from shared.ledger import advance, append

QUERIES = Queries.load("services.rollback_analysis")
FOLLOWER = "rollback_analysis"
SOURCE = "/uneventful/rollback_analysis"
BY = "rollback_analysis"
VERDICT_IDS = uuid.UUID("5d7a0f6c-5e62-5f0e-9f5b-6f1a3c9d2b47")
"""Namespace of the ids of events that verdicts cause: from seq and ordinal, so that writing one twice is seen."""

Connection: TypeAlias = "asyncpg.Connection[Any] | PoolConnectionProxy[Any]"


async def lead(connection: Connection) -> bool:
    """Become the one that judges; False while another connection is."""
    return bool(await connection.fetchval(QUERIES["lead"]))


async def load(connection: Connection) -> Fold:
    """The fold as it stood at its checkpoint; a new one before the first."""
    fold_state = await connection.fetchval(QUERIES["read_fold"])
    if fold_state is None:
        return Fold()
    return Fold.restore(
        msgspec.convert(orjson.loads(fold_state), FoldRow),
        [
            msgspec.convert(orjson.loads(row[0]), ChangesetRow)
            for row in await connection.fetch(QUERIES["read_changesets"])
        ],
        [msgspec.convert(orjson.loads(row[0]), AttemptRow) for row in await connection.fetch(QUERIES["read_attempts"])],
    )


async def read_verdicts(connection: Connection) -> list[tuple[int, int, bytes]]:
    """All verdicts as (seq, ordinal, canonical bytes)."""
    return [(row[0], row[1], row[2]) for row in await connection.fetch(QUERIES["read_verdicts"])]


async def commit(
    connection: Connection,
    *,
    old: int,
    new: int,
    changes: Changes,
    verdicts: Sequence[tuple[int, Verdict]],
    blind: bool,
    ids: IdSource,
    clock: Clock,
) -> None:
    """Write a batch: checkpoint, rows, verdicts and what follows from them, all or nothing.

    Args:
        connection: The one that holds the lock.
        old: Where the checkpoint stands.
        new: Where it goes.
        changes: The rows of the fold that changed.
        verdicts: (ordinal within its seq, verdict), in order.
        blind: Whether anything keeps us from seeing after the batch: one site's sight releases no brake while another
            is blind.
        ids: Event ids of what is only news.
        clock: Event times.

    Raises:
        Conflict: Another instance moved the checkpoint.
    """
    async with connection.transaction():
        await advance(connection, FOLLOWER, old=old, new=new)
        await _write_rows(connection, changes)
        if verdicts:
            await _write_verdicts(connection, verdicts)
            await _act(connection, [verdict for _, verdict in verdicts], ids, clock, blind=blind)


async def _write_rows(connection: Connection, changes: Changes) -> None:
    if changes.fold is not None:
        await connection.execute(QUERIES["write_fold"], orjson.dumps(changes.fold))
    if changes.changesets:
        await connection.execute(
            QUERIES["write_changesets"],
            [uuid.UUID(row.changeset_id) for row in changes.changesets],
            [orjson.dumps(row) for row in changes.changesets],
            [dict(row.view) for row in changes.changesets],
        )
    if changes.attempts:
        await connection.execute(
            QUERIES["write_attempts"],
            [uuid.UUID(row.attempt_id) for row in changes.attempts],
            [uuid.UUID(row.changeset_id) for row in changes.attempts],
            [orjson.dumps(row) for row in changes.attempts],
        )


async def _write_verdicts(connection: Connection, verdicts: Sequence[tuple[int, Verdict]]) -> None:
    await connection.execute(
        QUERIES["write_verdicts"],
        [verdict.seq for _, verdict in verdicts],
        [ordinal for ordinal, _ in verdicts],
        [uuid.UUID(v.changeset_id) if not isinstance(v, Blind | Sighted) else None for _, v in verdicts],
        [type(verdict).__name__.lower() for _, verdict in verdicts],
        [verdict_bytes(verdict) for _, verdict in verdicts],
    )


async def _act(
    connection: Connection, verdicts: Sequence[Verdict], ids: IdSource, clock: Clock, *, blind: bool
) -> None:
    """What follows from verdicts: gates are locked first, in everybody's order; halts come before all else."""
    halts = [v for v in verdicts if isinstance(v, Halt)]
    halted = {v.changeset_id for v in halts}
    # A pace that was decided before the halt of the same batch is no news any more.
    paces = {v.changeset_id: v for v in verdicts if isinstance(v, Pace) and v.changeset_id not in halted}
    # While blind the newest cause is the reason; where only other causes ended, the brake and its reason stay.
    blindness = [v for v in verdicts if isinstance(v, Blind if blind else Blind | Sighted)]
    active: list[uuid.UUID] = []
    if blindness:
        active = [row[0] for row in await connection.fetch(QUERIES["gates_of_active"])]
    touched = sorted({uuid.UUID(changeset_id) for changeset_id in (*paces, *halted)} | set(active))
    gates = {row["changeset_id"]: row for row in await connection.fetch(QUERIES["lock_gates"], touched)}
    for verdict in halts:
        await connection.fetchval(
            QUERIES["halt"],
            uuid.UUID(verdict.changeset_id),
            halt_reason(verdict.evidence),
            dict(verdict.evidence),
            uuid.uuid5(VERDICT_IDS, f"halt:{verdict.seq}:{verdict.changeset_id}"),
        )
    if blindness:
        await _brake(connection, blindness[-1], active, ids, clock, blind=blind)
    for pace_verdict in paces.values():
        gate = gates.get(uuid.UUID(pace_verdict.changeset_id))
        if gate is not None:
            await _set_pace(connection, pace_verdict, gate, ids, clock)
    closing = [v for v in verdicts if isinstance(v, Expire | Park)]
    if closing:
        await connection.fetchval(
            QUERIES["close"],
            [uuid.UUID(v.attempt_id) for v in closing],
            [_closing_kind(v) for v in closing],
            [v.reason.value if isinstance(v, Expire) else "awaits its reboot for too long" for v in closing],
            [uuid.uuid5(VERDICT_IDS, f"close:{v.seq}:{v.attempt_id}") for v in closing],
        )


def _closing_kind(verdict: Expire | Park) -> str:
    if isinstance(verdict, Park):
        return "parked"
    return "presumed_lost" if verdict.reason is ExpireReason.SILENT else "failed"


async def _brake(
    connection: Connection,
    verdict: Blind | Sighted,
    active: list[uuid.UUID],
    ids: IdSource,
    clock: Clock,
    *,
    blind: bool,
) -> None:
    reason = None
    if blind and isinstance(verdict, Blind):
        where = f"site {verdict.site!r}" if verdict.site else "the fleet"
        reason = f"blind: {verdict.reason.value} at {where} ({verdict.seen:g} of {verdict.expected:g} expected)"
    changed = await connection.fetch(QUERIES["brake"], active, reason)
    await append(
        connection,
        [
            new_event(
                ChangesetBraked(
                    changeset_id=str(row[0]),
                    reason=reason or "sighted again",
                    by=BY,
                    braked=reason is not None,
                    deciding_seq=verdict.seq,
                ),
                ids=ids,
                clock=clock,
                source=SOURCE,
                subject=f"changesets/{row[0]}",
            )
            for row in changed
        ],
    )


async def _set_pace(
    connection: Connection, verdict: Pace, gate: Mapping[str, Any], ids: IdSource, clock: Clock
) -> None:
    rollouts = list(verdict.groups)
    await connection.execute(
        QUERIES["set_pace"],
        uuid.UUID(verdict.changeset_id),
        verdict.pace,
        [uuid.UUID(rollout_id) for rollout_id in rollouts],
        [verdict.groups[rollout_id] for rollout_id in rollouts],
    )
    counts = verdict.counts
    await append(
        connection,
        [
            new_event(
                RolloutWidened(
                    changeset_id=verdict.changeset_id,
                    pace_before=gate["pace"],
                    pace_after=verdict.pace,
                    group_paces=dict(verdict.groups),
                    p_upper=verdict.p_upper,
                    started=counts.started,
                    good=counts.good,
                    bad=counts.bad,
                    pending=counts.pending,
                    seq=verdict.seq,
                ),
                ids=ids,
                clock=clock,
                source=SOURCE,
                subject=f"changesets/{verdict.changeset_id}",
            )
        ],
    )


def halt_reason(evidence: Mapping[str, object]) -> str:
    """The halt in one sentence."""
    return (
        f"{evidence['bad']} of {evidence['started']} started nodes rolled back or fell silent, which is more than the "
        f"allowed rate of {evidence['p0']} can explain (ln E {evidence['ln_e']:.2f} >= {evidence['threshold']:.2f})"
    )
