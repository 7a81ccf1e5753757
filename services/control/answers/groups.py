"""Schemas of answers about groups."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ANY, COUNT, FLAG, ID, TEXT, TIME, Schema, object_of, or_null, ref

_GROUP_COMMON: Final[dict[str, Schema]] = {
    "group_id": ID,
    "application_id": ID,
    "application": TEXT,
    "name": TEXT,
    "position": COUNT,
    "channel": or_null(TEXT),
    "pinned_version": or_null(TEXT),
    "selector": {"type": "object", "additionalProperties": {"type": "array", "items": TEXT}},
    "explicit_only": FLAG,
    "policy": ANY,
    "updates_enabled": FLAG,
    "owner": TEXT,
    "contact": TEXT,
    "created_at": TIME,
    "named_nodes": COUNT,
    "effective_policy": ref("Policy"),
}
_TEXTS: Final[Schema] = {"type": "array", "items": TEXT}
_SOME: Final[Schema] = object_of(
    "How many nodes, and the machine ids of the first of them.", nodes=COUNT, machines=_TEXTS
)

ANSWERS: Final[dict[str, Schema]] = {
    "GroupListed": object_of(
        "Nodes under one policy; `policy` is what was given, `effective_policy` has the defaults filled in.",
        **_GROUP_COMMON,
    ),
    "Group": object_of(
        "A group with its policy in words: per field its value, its default, whether it differs, and what it means. "
        "`nodes` is how many it has, `warnings` what is odd about its place among the groups.",
        **_GROUP_COMMON,
        policy_explained={
            "type": "object",
            "additionalProperties": object_of("One field.", value={}, default={}, changed=FLAG, means=TEXT),
        },
        nodes=COUNT,
        warnings=_TEXTS,
    ),
    "GroupPreview": object_of(
        "Nodes that move between groups: `leaving` the group asked about, `coming` into it, and `moves` "
        "between any two; null stands for no group.",
        group_id=or_null(ID),
        moving=COUNT,
        moves={
            "type": "array",
            "items": object_of(
                "So many from here to there.", from_group=or_null(TEXT), to_group=or_null(TEXT), nodes=COUNT
            ),
        },
        leaving=_SOME,
        coming=_SOME,
        warnings=_TEXTS,
    ),
    "GroupOrPreview": {
        "description": "The group, or with `dry_run` what the change would move.",
        "anyOf": [ref("Group"), ref("GroupPreview")],
    },
    "NamedNode": object_of("A machine that belongs to the group whatever its facts are.", machine_id=TEXT),
}
