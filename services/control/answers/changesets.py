"""Schemas of answers about changesets."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ANY, COUNT, FLAG, ID, TEXT, TIME, Schema, object_of, or_null, ref, words

ANSWERS: Final[dict[str, Schema]] = {
    "ChangesetGate": object_of(
        "What every grant of a changeset passes; `pace` bounds the nodes in flight over all groups.",
        state=words("open", "halted", "suspended", "withdrawn"),
        reason=or_null(TEXT),
        braked_reason=or_null(TEXT),
        pace=COUNT,
        evidence=or_null(ANY),
        resumes=COUNT,
        changed_at=TIME,
    ),
    "Payload": object_of(
        "A file of a changeset.",
        position=COUNT,
        role=words("main", "extra"),
        name=TEXT,
        sha256=TEXT,
        sha1_base64=TEXT,
        size=COUNT,
        required=FLAG,
        suspended=or_null(TEXT),
    ),
    "Changeset": object_of(
        "An immutable, versioned, tested release of an application for an arch; lists leave `payloads` out.",
        changeset_id=ID,
        application_id=ID,
        application=TEXT,
        version=TEXT,
        arch=TEXT,
        kind=words("image", "packages"),
        state=words("draft", "published", "withdrawn"),
        notes=TEXT,
        created_at=TIME,
        published_at=or_null(TIME),
        gate=or_null(ref("ChangesetGate")),
        payloads={"type": "array", "items": ref("Payload"), "x-absent": True},
    ),
}
