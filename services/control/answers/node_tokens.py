"""Schemas of answers about node tokens and floods."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import COUNT, ID, TEXT, TIME, Schema, object_of, or_null, words
from shared.fleet.node_tokens import NodeTokenKind

_TOKEN: Final[dict[str, Schema]] = {
    "token_id": ID,
    "application_id": ID,
    "application": TEXT,
    "kind": words(*(kind.value for kind in NodeTokenKind)),
    "group_id": or_null(ID),
    "group_name": or_null(TEXT),
    "machine_id": or_null(TEXT),
    "created_by": TEXT,
    "created_at": TIME,
    "expires_at": or_null(TIME),
    "revoked_at": or_null(TIME),
}
ANSWERS: Final[dict[str, Schema]] = {
    "NodeToken": object_of("What nodes prove themselves with, without the secret.", **_TOKEN),
    "NewNodeTokenShown": object_of("A new node token with its secret, which is shown this once.", **_TOKEN, token=TEXT),
    "Flood": object_of(
        "Reports that were dropped since one machine id or address sent too many.",
        application_id=ID,
        application=or_null(TEXT),
        kind=words("machine", "address"),
        source=TEXT,
        dropped=COUNT,
        first_at=TIME,
        last_at=TIME,
    ),
}
