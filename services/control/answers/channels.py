"""Schemas of answers about channels."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ID, TEXT, TIME, Schema, object_of, or_null, ref

ANSWERS: Final[dict[str, Schema]] = {
    "Channel": object_of(
        "A named pointer to a changeset, for one arch.",
        channel_id=ID,
        application_id=ID,
        application=TEXT,
        name=TEXT,
        arch=TEXT,
        changeset_id=or_null(ID),
        version=or_null(TEXT),
        changed_at=TIME,
    ),
    "ChannelPromotion": object_of(
        "What a channel was pointed to.", changeset_id=ID, version=TEXT, promoted_at=TIME, promoted_by=TEXT
    ),
    "PromotionResult": object_of(
        "The channel, and the ids of the rollouts that this call started.",
        channel=ref("Channel"),
        rollouts={"type": "array", "items": ID},
    ),
}
