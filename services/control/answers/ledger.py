"""Schemas of answers about the ledger."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import COUNT, FLAG, TEXT, TIME, Schema, object_of, or_null, ref

ANSWERS: Final[dict[str, Schema]] = {
    "Event": {
        "type": "object",
        "additionalProperties": True,
        "description": "A CloudEvent 1.0 (asyncapi.yaml has the types); `sequence` is its place in the ledger.",
    },
    "Events": object_of(
        "A page; `next` is the `after` of the page that follows, null at the end.",
        items={"type": "array", "items": ref("Event")},
        next=or_null(COUNT),
    ),
    "LedgerHead": object_of("The ledger's last entry.", seq=COUNT, hash=TEXT, recorded_at=TIME),
    "Verification": object_of(
        "What verifying the chain found.",
        ok=FLAG,
        checked=COUNT,
        last_seq=COUNT,
        last_hash=TEXT,
        broken_at=or_null(COUNT),
        reason=or_null(TEXT),
    ),
}
