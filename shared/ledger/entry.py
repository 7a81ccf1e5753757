"""One entry of the ledger, and the hash that ties it to the one before."""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.events import Envelope, decode, decode_data
from shared.events.types import EventData

GENESIS = bytes(32)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """An event at its place in the ledger.

    Attributes:
        seq: Its place, dense from 1.
        recorded_at: Ledger time; never decreases with seq.
        occurred_at: When it happened, by the clock of whoever saw it.
        hash: Ties the entry to all before it.
        raw: The canonical CloudEvent.
    """

    seq: int
    event_id: uuid.UUID
    type: str
    subject: str
    partition_key: str
    correlation_id: str | None
    recorded_at: datetime
    occurred_at: datetime
    hash: bytes
    raw: bytes

    @functools.cached_property
    def envelope(self) -> Envelope:
        """The decoded envelope.

        Raises:
            EventInvalid: The bytes are no event of ours.
        """
        return decode(self.raw)

    @functools.cached_property
    def data(self) -> EventData:
        """The typed data, in the newest major of the type.

        Raises:
            EventInvalid: The type is unknown, or the data does not fit it.
        """
        return decode_data(self.envelope)


def entry_from_row(row: Mapping[str, Any]) -> LedgerEntry:
    """An entry from a row that has the ledger's columns."""
    return LedgerEntry(
        seq=row["seq"],
        event_id=row["event_id"],
        type=row["type"],
        subject=row["subject"],
        partition_key=row["partition_key"],
        correlation_id=row["correlation_id"],
        recorded_at=row["recorded_at"],
        occurred_at=row["occurred_at"],
        hash=row["hash"],
        raw=row["event"],
    )


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def chain_hash(previous: bytes, seq: int, recorded_us: int, raw: bytes) -> bytes:
    """sha256(previous hash || seq || ledger time || canonical bytes), the numbers as 8 bytes big-endian.

    Args:
        previous: The hash of the entry before; ``GENESIS`` before the first.
        seq: The entry's seq.
        recorded_us: Ledger time in microseconds since 1970.
        raw: The canonical CloudEvent.
    """
    return hashlib.sha256(b"%b%b%b%b" % (previous, seq.to_bytes(8), recorded_us.to_bytes(8), raw)).digest()
