"""Verify the hash chain from the ledger's rows, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import EventInvalid, NotFound
from shared.ledger.entry import GENESIS, LedgerEntry, chain_hash, entry_from_row, microseconds
from shared.ledger.store import QUERIES, Connection, head

_PREFETCH = 500


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What verification found.

    Attributes:
        checked: Entries that hold.
        last_seq: The last entry that holds; where verification began when there is none.
        last_hash: The hash there, to be compared with an anchor kept elsewhere.
        broken_at: The seq where the chain breaks, or None.
        reason: What is wrong there.
    """

    checked: int
    last_seq: int
    last_hash: bytes
    broken_at: int | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return self.broken_at is None


class ChainCheck:
    """Checks one entry after the other; pure.

    Args:
        after: The seq before the first entry that will come.
        previous: The hash at ``after``.
    """

    def __init__(self, after: int = 0, previous: bytes = GENESIS) -> None:
        self.checked = 0
        self.last_seq = after
        self.last_hash = previous
        self._last_us: int | None = None

    def take(self, entry: LedgerEntry) -> str | None:
        """Check the next entry. Returns what is wrong with it, or None."""
        recorded_us = microseconds(entry.recorded_at)
        if entry.seq != self.last_seq + 1:
            return f"the entry after {self.last_seq} is {entry.seq}: entries are missing"
        if self._last_us is not None and recorded_us < self._last_us:
            return "its ledger time is before that of the entry before"
        if entry.hash != chain_hash(self.last_hash, entry.seq, recorded_us, entry.raw):
            return "its hash does not follow from the entry and the hash before"
        fault = _columns_fault(entry)
        if fault is not None:
            return fault
        self.checked += 1
        self.last_seq, self.last_hash, self._last_us = entry.seq, entry.hash, recorded_us
        return None

    def result(self, broken_at: int | None = None, reason: str | None = None) -> VerifyResult:
        """What was found so far."""
        return VerifyResult(
            checked=self.checked,
            last_seq=self.last_seq,
            last_hash=self.last_hash,
            broken_at=broken_at,
            reason=reason,
        )


def _columns_fault(entry: LedgerEntry) -> str | None:
    # The hash covers the event's bytes; the columns that queries use must say the same.
    try:
        said = entry.envelope
    except EventInvalid as fault:
        return fault.message
    columns = {
        "event_id": (said.id, str(entry.event_id)),
        "type": (said.type, entry.type),
        "subject": (said.subject, entry.subject),
        "partition_key": (said.partition_key, entry.partition_key),
        "correlation_id": (said.correlation_id, entry.correlation_id),
        "occurred_at": (said.time, entry.occurred_at),
        "recorded_at": (said.recorded_time, entry.recorded_at),
        "seq": (said.sequence, f"{entry.seq:020d}"),
    }
    different = [name for name, (event, column) in columns.items() if event != column]
    return f"its columns {', '.join(different)} differ from the event" if different else None


async def verify_chain(connection: Connection, *, after: int = 0) -> VerifyResult:
    """Verify all entries after a seq, and that the chain ends at the head. Reads one snapshot.

    Args:
        connection: Not in a transaction.
        after: Begin after this entry, which is trusted.

    Raises:
        NotFound: There is no entry ``after``.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        head_seq, head_hash, _ = await head(connection)
        previous: bytes | None = GENESIS if after == 0 else await connection.fetchval(QUERIES["hash_at"], after)
        if previous is None:
            raise NotFound(f"the ledger has no entry {after} to begin after")
        check = ChainCheck(after, previous)
        async for row in connection.cursor(QUERIES["chain"], after, prefetch=_PREFETCH):
            fault = check.take(entry_from_row(row))
            if fault is not None:
                return check.result(check.last_seq + 1, fault)
    if (check.last_seq, check.last_hash) != (head_seq, head_hash):
        reason = f"the ledger ends at {check.last_seq} and the head says {head_seq}: entries are missing"
        return check.result(check.last_seq + 1, reason)
    return check.result()
