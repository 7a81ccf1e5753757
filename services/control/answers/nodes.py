"""Schemas of answers about nodes."""

from __future__ import annotations

from typing import Final

from services.control import requests
from services.control.answers.fields import ANY, FLAG, ID, TEXT, TIME, Schema, object_of, or_null, ref, words

_NODE_COMMON: Final[Schema] = {
    "node_id": ID,
    "application_id": ID,
    "application": or_null(TEXT),
    "machine_id": TEXT,
    "group_id": or_null(ID),
    "group_name": or_null(TEXT),
    "version": TEXT,
    "arch": or_null(TEXT),
    "address": or_null(TEXT),
    "cloned": FLAG,
    "last_contact_at": TIME,
    "gone_at": or_null(TIME),
    "state": words(*(state.value for state in requests.NodeState)),
}
ANSWERS: Final[dict[str, Schema]] = {
    "NodeListed": object_of("One machine; `state` is that of its last attempt.", **_NODE_COMMON),
    "Node": object_of(
        "One machine with its history.",
        **_NODE_COMMON,
        boot_id=TEXT,
        boot_seen_at=TIME,
        facts=ANY,
        first_seen_at=TIME,
        attempts={"type": "array", "items": ref("Attempt")},
        quarantines={"type": "array", "items": ref("Quarantine")},
    ),
    "Attempt": object_of(
        "One node taking one changeset once.",
        attempt_id=ID,
        changeset_id=ID,
        rollout_id=ID,
        group_id=ID,
        from_version=TEXT,
        to_version=TEXT,
        state=TEXT,
        parked=FLAG,
        reason=or_null(TEXT),
        error_code=or_null({"type": "integer"}),
        granted_at=TIME,
        changed_at=TIME,
        closed_at=or_null(TIME),
    ),
    "Quarantine": object_of(
        "A changeset that is not offered to the node again.",
        changeset_id=ID,
        version=or_null(TEXT),
        attempt_id=or_null(ID),
        reason=TEXT,
        since=TIME,
    ),
}
