"""From inbox rows to ledger rows: canonical bytes and the hash chain. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from shared.errors import EventInvalid
from shared.events import canonical_event, decode
from shared.events.codec import MAX_DEPTH, check_data
from shared.events.registry import TYPE_PATTERN
from shared.ledger import chain_hash, microseconds

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_MAX_TEXT = 4096
_MAX_NAME = 256

LedgerRow = tuple[int, uuid.UUID, str, str, str, str | None, datetime, datetime, bytes, bytes]


@dataclass(frozen=True)
class Head:
    """The end of the ledger: its last seq, the hash there, and its ledger time."""

    seq: int
    hash: bytes
    recorded_at: datetime


@dataclass
class Batch:
    """What one transaction writes.

    Attributes:
        rows: For the ledger, in order.
        refused: Inbox rows that cannot become events, each with the reason.
        head: The head after the batch.
    """

    head: Head
    rows: list[LedgerRow] = field(default_factory=list)
    refused: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)


def assemble(head: Head, inbox_rows: Sequence[Mapping[str, Any]], now: datetime) -> Batch:
    """Give the rows their seq, ledger time and hash, in the order given.

    Args:
        head: The present end of the ledger.
        inbox_rows: Columns of the inbox; ``data`` as JSON text.
        now: Postgres's time. Ledger time never goes back, so a clock that does stands still here.
    """
    recorded_at = max(head.recorded_at, now.astimezone(UTC))
    recorded_us = microseconds(recorded_at)
    seq, previous = head.seq, head.hash
    batch = Batch(head)
    for row in inbox_rows:
        try:
            raw = _canonical(row, seq + 1, recorded_at)
        except EventInvalid as fault:
            batch.refused.append((row, fault.message))
            continue
        seq += 1
        previous = chain_hash(previous, seq, recorded_us, raw)
        batch.rows.append(
            (
                seq,
                row["event_id"],
                row["type"],
                row["subject"],
                row["partition_key"],
                row["correlation_id"],
                recorded_at,
                row["occurred_at"],
                previous,
                raw,
            )
        )
    if batch.rows:
        batch.head = Head(seq, previous, recorded_at)
    return batch


def _canonical(row: Mapping[str, Any], seq: int, recorded_at: datetime) -> bytes:
    text: str = row["data"]
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise EventInvalid(f"its data is no JSON that we can read: {fault}") from fault
    traceparent = row["traceparent"]
    if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) is None:
        # A trace is a convenience; no event is lost for one.
        traceparent = None
    raw = canonical_event(
        event_id=str(row["event_id"]),
        event_type=row["type"],
        source=row["source"],
        subject=row["subject"],
        partition_key=row["partition_key"],
        time=row["occurred_at"].astimezone(UTC),
        data=data,
        correlation_id=row["correlation_id"],
        causation_id=row["causation_id"],
        traceparent=traceparent,
        recorded_time=recorded_at,
        seq=seq,
    )
    if not _plainly_valid(row, text, data):
        # Something unusual: ask the reader's own decoder, so that nothing enters that a follower refuses.
        decode(raw)
        if TYPE_PATTERN.fullmatch(row["type"]) is None:
            raise EventInvalid(f"{row['type'][:80]!r} is no event type: name it <entity>.<past tense>.v<major>")
        if not isinstance(data, dict):
            raise EventInvalid("its data is no object")
    check_data(row["type"], text)
    return raw


def _plainly_valid(row: Mapping[str, Any], text: str, data: object) -> bool:
    correlation, causation = row["correlation_id"], row["causation_id"]
    return (
        isinstance(data, dict)
        and TYPE_PATTERN.fullmatch(row["type"]) is not None
        and len(row["type"]) <= 128
        and len(row["source"]) <= _MAX_TEXT
        and len(row["subject"]) <= _MAX_TEXT
        and 0 < len(row["partition_key"]) <= _MAX_NAME
        and (correlation is None or 0 < len(correlation) <= _MAX_NAME)
        and (causation is None or 0 < len(causation) <= _MAX_NAME)
        and text.count("{") + text.count("[") < MAX_DEPTH
    )
