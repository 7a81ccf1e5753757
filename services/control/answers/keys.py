"""Schemas of answers about attestations, testers and signing keys."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import (
    ANY,
    FLAG,
    ID,
    KEY_ID,
    TEXT,
    TIME,
    Schema,
    object_of,
    or_null,
    ref,
    words,
)

ANSWERS: Final[dict[str, Schema]] = {
    "DocumentSignature": object_of("A key's Ed25519 signature over the document.", key_id=KEY_ID, signature=TEXT),
    "Attestation": object_of(
        "The result of a release test; `counts`: it is the last of its name.",
        attestation_id=ID,
        changeset_id=ID,
        name=TEXT,
        verdict=words("passed", "failed", "skipped"),
        summary=TEXT,
        link=or_null(TEXT),
        artefact_sha256=or_null(TEXT),
        results={"type": "array", "items": ANY},
        signature=or_null(ANY),
        attested_by=TEXT,
        attested_at=TIME,
        counts=FLAG,
    ),
    "Attester": object_of(
        "A tester whose signatures are believed, unless `distrusted_at` says since when no longer.",
        key_id=KEY_ID,
        name=TEXT,
        public_key=TEXT,
        trusted_at=TIME,
        trusted_by=TEXT,
        distrusted_at=or_null(TIME),
    ),
    "SigningKey": object_of(
        "A key that changesets are signed with; `here`: control has its private half.",
        key_id=KEY_ID,
        public_key=TEXT,
        created_at=TIME,
        created_by=TEXT,
        retired_at=or_null(TIME),
        in_force=FLAG,
        here=FLAG,
    ),
    "KeyList": object_of(
        "The keys in force; `document` is the exact bytes that were signed, in base64.",
        version={"type": "integer", "minimum": 1},
        document=TEXT,
        signatures={"type": "array", "items": ref("DocumentSignature")},
        made_at=TIME,
        made_by=TEXT,
    ),
}
