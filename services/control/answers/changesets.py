"""Schemas of answers about changesets."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ANY, COUNT, FLAG, ID, TEXT, TIME, Schema, object_of, or_null, ref, words

VERSIONS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}
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
        "An immutable, versioned, tested release of an application for an arch; lists have no payloads and packages.",
        changeset_id=ID,
        application_id=ID,
        application=TEXT,
        version=TEXT,
        arch=TEXT,
        kind=words("image", "packages"),
        state=words("draft", "published", "withdrawn"),
        notes=TEXT,
        source=TEXT,
        components=VERSIONS,
        packages={**VERSIONS, "x-absent": True},
        floor=FLAG,
        floor_reason=or_null(TEXT),
        dead_end=FLAG,
        dead_end_reason=or_null(TEXT),
        minimum_version=or_null(TEXT),
        created_at=TIME,
        published_at=or_null(TIME),
        withdrawn_at=or_null(TIME),
        withdrawn_reason=or_null(TEXT),
        signed_by={"type": "array", "items": TEXT},
        gate=or_null(ref("ChangesetGate")),
        payloads={"type": "array", "items": ref("Payload"), "x-absent": True},
    ),
    "SignedManifest": object_of(
        "What was signed at publishing; `document` is its exact bytes in base64, `manifest` the same to be read.",
        changeset_id=ID,
        document=TEXT,
        manifest=ANY,
        signatures={"type": "array", "items": ref("DocumentSignature")},
    ),
    "Changes": object_of(
        "Names with their versions.",
        added=VERSIONS,
        removed=VERSIONS,
        changed={"type": "object", "additionalProperties": ANY},
    ),
    "ChangesetDiff": object_of(
        "What `after` brings beside `before`.",
        before=ANY,
        after=ANY,
        components=ref("Changes"),
        packages=ref("Changes"),
        payloads={
            "type": "array",
            "items": object_of(
                "A payload by its name; null where a side has it not.",
                name=TEXT,
                role=words("main", "extra"),
                size_before=or_null(COUNT),
                size_after=or_null(COUNT),
                same=FLAG,
            ),
        },
    ),
    "Holders": object_of(
        "Nodes that run a changeset, have it staged and may boot it at any time, or are on the way to it.",
        runs=COUNT,
        staged=COUNT,
        on_its_way=COUNT,
        groups={
            "type": "array",
            "items": object_of(
                "Nodes of one group that run it; `brought_back`: by the group's policy, once it is withdrawn.",
                group_id=or_null(ID),
                group_name=or_null(TEXT),
                runs=COUNT,
                brought_back=FLAG,
            ),
        },
        nodes={
            "type": "array",
            "items": object_of(
                "One of them.",
                node_id=ID,
                machine_id=TEXT,
                group_id=or_null(ID),
                group_name=or_null(TEXT),
                version=TEXT,
                attempt_state=or_null(TEXT),
                last_contact_at=TIME,
                runs=FLAG,
            ),
        },
    ),
    "WithdrawalResult": object_of(
        "What was taken back, who held it then, and the channels that still point to it.",
        changeset=ref("Changeset"),
        holders=ref("Holders"),
        channels={
            "type": "array",
            "items": object_of("One of them.", channel_id=ID, name=TEXT, arch=TEXT),
        },
    ),
}
