"""Judge the ledger again from its beginning, and compare with what was decided: the bytes must be equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from services.rollback_analysis import store
from services.rollback_analysis.fold import Fold
from services.rollback_analysis.follow import judge
from services.rollback_analysis.verdicts import verdict_bytes
from shared.ledger import checkpoint, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a replay found.

    Attributes:
        events: How many events were judged.
        verdicts: How many verdicts the replay came to.
        first_difference: The seq of the first verdict that differs; None where all are equal.
    """

    events: int
    verdicts: int
    first_difference: int | None

    @property
    def equal(self) -> bool:
        """Whether the replay came to the stored verdicts, byte for byte."""
        return self.first_difference is None


async def compare(connection: asyncpg.Connection[Any]) -> Comparison:
    """Fold the ledger up to the analysis's checkpoint, in a snapshot, and compare verdicts."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        until = await checkpoint(connection, store.FOLLOWER)
        stored = await store.read_verdicts(connection)
        fold = Fold()
        replayed: list[tuple[int, int, bytes]] = []
        seq = events = 0
        while seq < until:
            entries = await read(connection, after=seq, until=until, limit=5_000)
            if not entries:
                break
            replayed.extend((v.seq, ordinal, verdict_bytes(v)) for ordinal, v in judge(fold, entries))
            seq = entries[-1].seq
            events += len(entries)
            fold.take_changes()
    different = next(
        (min(a[0], b[0]) for a, b in zip(stored, replayed, strict=False) if a != b),
        None,
    )
    if different is None and len(stored) != len(replayed):
        longer = max(stored, replayed, key=len)
        different = longer[min(len(stored), len(replayed))][0]
    return Comparison(events=events, verdicts=len(replayed), first_difference=different)
