"""Schemas of reports."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import (
    ANY,
    COUNT,
    COUNTS,
    ID,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    object_of,
    or_null,
    ref,
)

_COUNTED: Final[dict[str, Schema]] = {"nodes": COUNT, "compliant": COUNT, "unseen": COUNT}

ANSWERS: Final[dict[str, Schema]] = {
    "Compliance": object_of(
        "A node complies when it runs what its channel pointed to `within_days` ago, or something newer; `unseen` were "
        "not heard since that was promoted.",
        made_at=TIME,
        within_days=NUMBER,
        latency_days=NUMBER,
        groups={"type": "array", "items": ref("GroupCompliance")},
        total=object_of("Of all groups.", **_COUNTED, share=or_null(NUMBER)),
    ),
    "GroupCompliance": object_of(
        "One group; `share` is null where it has no nodes.",
        group_id=ID,
        group=TEXT,
        application_id=ID,
        application=TEXT,
        channel=or_null(TEXT),
        pin=or_null(TEXT),
        owner=TEXT,
        **_COUNTED,
        share=or_null(NUMBER),
        archs={
            "type": "array",
            "items": object_of(
                "One arch; `demanded` is null where nothing was promoted that long ago.",
                arch=or_null(TEXT),
                demanded=or_null(TEXT),
                demanded_since=or_null(TIME),
                **_COUNTED,
                versions=COUNTS,
            ),
        },
        latency=object_of(
            "From the promotion to the commit, in whole minutes, of all commits of the last `latency_days`.",
            commits=COUNT,
            p50_minutes=or_null(COUNT),
            p90_minutes=or_null(COUNT),
            p99_minutes=or_null(COUNT),
            slowest_minutes=or_null(COUNT),
        ),
    ),
    "Audit": object_of(
        "Acts in the order of the ledger; `next` is null at the end.",
        items={"type": "array", "items": ref("Act")},
        next=or_null(COUNT),
    ),
    "Act": object_of(
        "What somebody did: an event of the ledger, by its seq.",
        seq=COUNT,
        at=TIME,
        by=TEXT,
        role=or_null(TEXT),
        action=or_null(TEXT),
        subject=or_null(TEXT),
        reason=or_null(TEXT),
        address=or_null(TEXT),
        request_id=or_null(TEXT),
        details=ANY,
    ),
}
