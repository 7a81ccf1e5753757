"""Append to the inbox, read the ledger, keep checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg

from shared.db.queries import Queries
from shared.errors import Conflict, InvalidInput
from shared.events import NewEvent, encode_data
from shared.events.patterns import to_regex
from shared.ledger.entry import LedgerEntry, entry_from_row

Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]"

MAX_APPEND = 10_000
MAX_READ = 10_000
MAX_SEQ = 2**63 - 1

QUERIES = Queries.load("shared.ledger")


async def append(connection: Connection, events: Sequence[NewEvent]) -> int:
    """Append events in the caller's transaction, in this order, each id once.

    Call it as the last statement of the transaction: the shorter it lives after this, the sooner the mover sees it.

    Returns:
        How many were new; the others had been appended before.

    Raises:
        InvalidInput: More than 10,000 events at once.
        EventInvalid: The data of one of them does not fit JSON.
    """
    if not events:
        return 0
    if len(events) > MAX_APPEND:
        raise InvalidInput(f"{len(events)} events at once are more than {MAX_APPEND}: append them in parts")
    count: int = await connection.fetchval(
        QUERIES["append"],
        [event.event_id for event in events],
        [event.type for event in events],
        [event.source for event in events],
        [event.subject for event in events],
        [event.partition_key for event in events],
        [event.time for event in events],
        [encode_data(event.data).decode() for event in events],
        [event.correlation_id for event in events],
        [event.causation_id for event in events],
        [event.traceparent for event in events],
    )
    return count


async def head(connection: Connection) -> tuple[int, bytes, datetime]:
    """The ledger's last seq (0 when it is empty), the hash there, and its ledger time."""
    row = await connection.fetchrow(QUERIES["head"])
    if row is None:
        raise Conflict("event_log.head has no row: the database was not migrated, run `uneventful migrate`")
    return row["seq"], row["hash"], row["recorded_at"].astimezone(UTC)


async def read(
    connection: Connection,
    *,
    after: int,
    limit: int,
    until: int = MAX_SEQ,
    types: Sequence[str] | None = None,
    subject: str | None = None,
    partition_key: str | None = None,
    correlation_id: str | None = None,
) -> list[LedgerEntry]:
    """Read entries in the order of seq.

    Args:
        connection: Any connection; a read sees whole batches of the mover.
        after: Entries with a greater seq.
        limit: At most so many, 1 to 10,000.
        until: Entries up to this seq.
        types: Patterns as for a topic exchange, ``update.#``; any of them.
        subject: Exactly this subject. Not indexed: give the partition key too where you know it.
        partition_key: Exactly this key.
        correlation_id: Exactly this attempt or rollout.

    Raises:
        InvalidInput: ``limit`` or a pattern is out of bounds.
    """
    if not 1 <= limit <= MAX_READ:
        raise InvalidInput(f"limit must be between 1 and {MAX_READ}, not {limit}")
    regexes = None if types is None else [to_regex(pattern) for pattern in types]
    if correlation_id is not None:
        rows = await connection.fetch(
            QUERIES["read_by_correlation"], after, until, limit, regexes, subject, partition_key, correlation_id
        )
    elif partition_key is not None:
        rows = await connection.fetch(
            QUERIES["read_by_partition_key"], after, until, limit, regexes, subject, partition_key
        )
    elif regexes is not None or subject is not None:
        rows = await connection.fetch(QUERIES["read_filtered"], after, until, limit, regexes, subject)
    else:
        rows = await connection.fetch(QUERIES["read_all"], after, until, limit)
    return [entry_from_row(row) for row in rows]


async def checkpoint(connection: Connection, follower: str) -> int:
    """The seq up to which a follower's effects are committed; 0 when it never moved."""
    seq: int | None = await connection.fetchval(QUERIES["checkpoint"], follower)
    return 0 if seq is None else seq


async def advance(connection: Connection, follower: str, *, old: int, new: int) -> None:
    """Move a follower, in the transaction that holds its effects.

    Raises:
        Conflict: The follower does not stand at ``old``: another instance moved it. Roll back and look again.
        InvalidInput: ``new`` is not after ``old``.
    """
    if new <= old:
        raise InvalidInput(f"follower {follower} can only move forward, not from {old} to {new}")
    status = await connection.execute(QUERIES["advance"], follower, old, new)
    if status == "UPDATE 0" and old == 0:
        status = await connection.execute(QUERIES["first_advance"], follower, new)
    if status.endswith(" 0"):
        raise Conflict(f"follower {follower} is not at {old} any more: another instance moved it, read again")
