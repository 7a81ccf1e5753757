"""Schemas of answers about groups."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ANY, COUNT, FLAG, ID, TEXT, TIME, Schema, object_of, ref

ANSWERS: Final[dict[str, Schema]] = {
    "Group": object_of(
        "Nodes under one policy; `policy` is what was given, `effective_policy` has the defaults filled in.",
        group_id=ID,
        application_id=ID,
        application=TEXT,
        name=TEXT,
        position=COUNT,
        channel=TEXT,
        selector={"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
        policy=ANY,
        updates_enabled=FLAG,
        created_at=TIME,
        effective_policy=ref("Policy"),
    ),
}
