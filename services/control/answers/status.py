"""Schemas of the whole."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import (
    COUNT,
    FLAG,
    ID,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    list_of,
    object_of,
    or_null,
    ref,
    words,
)
from services.control.waiting import Whom

_RELEASE: Final[dict[str, Schema]] = {"changeset_id": ID, "application": TEXT, "version": TEXT, "arch": TEXT}

ANSWERS: Final[dict[str, Schema]] = {
    "Status": object_of(
        "Everything that an operator wants to know at once, as of one snapshot.",
        at=TIME,
        everything=ref("GlobalGate"),
        waiting=list_of(
            object_of(
                "Something that stands still: for whom it waits, since when, and until when at the earliest.",
                whom=words(*(whom.value for whom in Whom)),
                kind=TEXT,
                what=TEXT,
                subject=or_null(TEXT),
                since=or_null(TIME),
                until=or_null(TIME),
                command=or_null(TEXT),
            )
        ),
        rollouts=list_of(ref("Rollout")),
        rollouts_active=COUNT,
        stopped=list_of(
            object_of(
                "A changeset that nobody is offered; `will_boot` nodes have it staged and boot it next.",
                **_RELEASE,
                state=words("halted", "suspended", "withdrawn"),
                reason=or_null(TEXT),
                changed_at=TIME,
                resumes=COUNT,
                will_boot=COUNT,
                pointed=FLAG,
            )
        ),
        holds=list_of(
            object_of(
                "No more of a changeset for a segment.",
                hold_id=ID,
                **_RELEASE,
                segment={"type": "object", "additionalProperties": TEXT},
                reason=TEXT,
                held_by=TEXT,
                held_at=TIME,
            )
        ),
        nodes=object_of(
            "Nodes that are not gone; `stuck`: staged for a week, `silent`: not heard for a day.",
            total=COUNT,
            silent=COUNT,
            cloned=COUNT,
            without_group=COUNT,
            in_flight=COUNT,
            parked=COUNT,
            stuck=COUNT,
            quarantined=COUNT,
            on_withdrawn=COUNT,
            will_boot_stopped=COUNT,
        ),
        ledger=object_of(
            "Where the ledger ends, what waits to come into it, and how far its followers are behind.",
            seq=COUNT,
            recorded_at=TIME,
            inbox_depth=COUNT,
            inbox_lag_s=NUMBER,
            followers=list_of(object_of("A follower.", name=TEXT, seq=COUNT, behind=COUNT, moved_at=TIME)),
        ),
        blind=list_of(
            object_of("What the analysis cannot see.", site=or_null(TEXT), reason=or_null(TEXT), decided_at=TIME)
        ),
        floods=list_of(
            object_of(
                "Reports that were dropped within the last hour since one source sent too many.",
                application=TEXT,
                kind=TEXT,
                source=TEXT,
                dropped=COUNT,
                last_at=TIME,
            )
        ),
    ),
}
