"""Schemas of answers about channels."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import COUNT, COUNTS, FLAG, ID, TEXT, TIME, Schema, object_of, or_null, ref, words

_STANDING: Final[dict[str, Schema]] = {
    "total": COUNT,
    "on_target": COUNT,
    "behind": COUNT,
    "ahead": COUNT,
    "unknown": COUNT,
}
ANSWERS: Final[dict[str, Schema]] = {
    "Channel": object_of(
        "A named pointer to a changeset, for one arch.",
        channel_id=ID,
        application_id=ID,
        application=TEXT,
        name=TEXT,
        arch=TEXT,
        position=COUNT,
        required_attestations={"type": "array", "items": TEXT},
        changeset_id=or_null(ID),
        version=or_null(TEXT),
        changed_at=TIME,
    ),
    "ChannelPromotion": object_of(
        "What a channel was pointed to; `override_reason`: although its demands were against it.",
        changeset_id=ID,
        version=TEXT,
        promoted_at=TIME,
        promoted_by=TEXT,
        kind=words("promote", "rollback"),
        reason=or_null(TEXT),
        override_reason=or_null(TEXT),
        approved_by=or_null(TEXT),
    ),
    "ChannelCurrent": object_of(
        "What new nodes are to boot (null: nothing there is), and why it is this.",
        channel=ref("Channel"),
        reason=TEXT,
        image=or_null(
            object_of(
                "A changeset with its payloads.",
                changeset_id=ID,
                version=TEXT,
                arch=TEXT,
                kind=words("image", "packages"),
                payloads={
                    "type": "array",
                    "items": object_of(
                        "A file; `url` is null where control does not know the distribution.",
                        name=TEXT,
                        role=words("main", "extra"),
                        required=FLAG,
                        sha256=TEXT,
                        size=COUNT,
                        url=or_null(TEXT),
                    ),
                },
            )
        ),
    ),
    "ChannelDrift": object_of(
        "Nodes of the groups that follow a channel; `unknown`: their version cannot be compared.",
        channel_id=ID,
        name=TEXT,
        arch=TEXT,
        version=or_null(TEXT),
        **_STANDING,
        groups={
            "type": "array",
            "items": object_of("One group.", group_id=ID, group_name=TEXT, **_STANDING, versions=COUNTS),
        },
    ),
    "PromotionResult": object_of(
        "The channel, and the ids of the rollouts that this call started.",
        channel=ref("Channel"),
        rollouts={"type": "array", "items": ID},
    ),
}
