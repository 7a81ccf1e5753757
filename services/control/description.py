"""openapi.yaml, made from the routes: ``python -m services.control.description > services/control/openapi.yaml``."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

import msgspec

from services.control import requests
from services.control.routes import NDJSON, ROUTES, Route
from services.control.standstill import Standstill
from shared.domain.policy import Policy, RolloutParameters
from shared.events import CONTENT_TYPE

_REF: Final = "#/components/schemas/{name}"


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name, schema in properties.items() if not schema.get("x-absent")],
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" in schema and isinstance(schema["type"], str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _words(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


_ID: Final[dict[str, Any]] = {"type": "string", "format": "uuid"}
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_TIME: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_NUMBER: Final[dict[str, Any]] = {"type": "number"}
_FLAG: Final[dict[str, Any]] = {"type": "boolean"}
_ANY: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}
_COUNTS: Final[dict[str, Any]] = {"type": "object", "additionalProperties": _COUNT}

_ROLLOUT_COMMON: Final[dict[str, Any]] = {
    "rollout_id": _ID,
    "group_id": _ID,
    "group_name": _TEXT,
    "changeset_id": _ID,
    "version": _TEXT,
    "arch": _TEXT,
    "application_id": _ID,
    "application": _TEXT,
    "channel_id": _or_null(_ID),
    "state": _words(*(state.value for state in requests.RolloutState)),
    "pace": _COUNT,
    "reason": _or_null(_TEXT),
    "created_at": _TIME,
    "changed_at": _TIME,
    "attempts": _COUNTS,
}
_NODE_COMMON: Final[dict[str, Any]] = {
    "node_id": _ID,
    "application_id": _ID,
    "application": _or_null(_TEXT),
    "machine_id": _TEXT,
    "group_id": _or_null(_ID),
    "group_name": _or_null(_TEXT),
    "version": _TEXT,
    "arch": _or_null(_TEXT),
    "address": _or_null(_TEXT),
    "cloned": _FLAG,
    "last_contact_at": _TIME,
    "gone_at": _or_null(_TIME),
    "state": _words(*(state.value for state in requests.NodeState)),
}

ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "Problem": _object(
        "What went wrong (RFC 9457); `code` is for machines, `detail` says what to do.",
        type=_TEXT,
        title=_TEXT,
        status={"type": "integer"},
        detail=_TEXT,
        code=_TEXT,
    ),
    "Server": _object(
        "This server and who asks.",
        service=_TEXT,
        api=_TEXT,
        distribution_url=_or_null(_TEXT),
        principal=_object("Whose token was sent.", name=_TEXT, role=_words("admin", "viewer")),
    ),
    "GlobalGate": _object(
        "Whether anything may be offered at all.", open=_FLAG, reason=_or_null(_TEXT), policy_version=_COUNT
    ),
    "Application": _object(
        "What nodes take updates of.", application_id=_ID, name=_TEXT, omaha_id=_or_null(_TEXT), created_at=_TIME
    ),
    "Gate": _object(
        "What every grant of a changeset passes; `pace` bounds the nodes in flight over all groups.",
        state=_words("open", "halted", "suspended", "withdrawn"),
        reason=_or_null(_TEXT),
        braked_reason=_or_null(_TEXT),
        pace=_COUNT,
        evidence=_or_null(_ANY),
        resumes=_COUNT,
        changed_at=_TIME,
    ),
    "Payload": _object(
        "A file of a changeset.",
        position=_COUNT,
        role=_words("main", "extra"),
        name=_TEXT,
        sha256=_TEXT,
        sha1_base64=_TEXT,
        size=_COUNT,
        required=_FLAG,
        suspended=_or_null(_TEXT),
    ),
    "Changeset": _object(
        "An immutable, versioned, tested release of an application for an arch; lists leave `payloads` out.",
        changeset_id=_ID,
        application_id=_ID,
        application=_TEXT,
        version=_TEXT,
        arch=_TEXT,
        kind=_words("image", "packages"),
        state=_words("draft", "published", "withdrawn"),
        notes=_TEXT,
        created_at=_TIME,
        published_at=_or_null(_TIME),
        gate=_or_null(_ref("Gate")),
        payloads={"type": "array", "items": _ref("Payload"), "x-absent": True},
    ),
    "Channel": _object(
        "A named pointer to a changeset, for one arch.",
        channel_id=_ID,
        application_id=_ID,
        application=_TEXT,
        name=_TEXT,
        arch=_TEXT,
        changeset_id=_or_null(_ID),
        version=_or_null(_TEXT),
        changed_at=_TIME,
    ),
    "ChannelPromotion": _object(
        "What a channel was pointed to.", changeset_id=_ID, version=_TEXT, promoted_at=_TIME, promoted_by=_TEXT
    ),
    "PromotionResult": _object(
        "The channel, and the ids of the rollouts that this call started.",
        channel=_ref("Channel"),
        rollouts={"type": "array", "items": _ID},
    ),
    "Group": _object(
        "Nodes under one policy; `policy` is what was given, `effective_policy` has the defaults filled in.",
        group_id=_ID,
        application_id=_ID,
        application=_TEXT,
        name=_TEXT,
        position=_COUNT,
        channel=_TEXT,
        selector={"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}},
        policy=_ANY,
        updates_enabled=_FLAG,
        created_at=_TIME,
        effective_policy=_ref("Policy"),
    ),
    "RolloutListed": _object(
        "One changeset to one group.",
        **_ROLLOUT_COMMON,
        gate_state=_TEXT,
        braked_reason=_or_null(_TEXT),
        gate_pace=_COUNT,
    ),
    "Rollout": _object(
        "One changeset to one group; `in_flight` counts its own nodes, the others what the paces bound.",
        **_ROLLOUT_COMMON,
        policy=_ANY,
        parameters=_ref("RolloutParameters"),
        in_flight=_COUNT,
        parked=_COUNT,
        group_in_flight=_COUNT,
        changeset_in_flight=_COUNT,
        nodes=_object(
            "The group's nodes of the arch: all, on the version, and of the others those that could still take it, are "
            "quarantined, silent, or cloned.",
            total=_COUNT,
            on_target=_COUNT,
            left=_COUNT,
            quarantined=_COUNT,
            silent=_COUNT,
            cloned=_COUNT,
        ),
        gate=_ref("Gate"),
        verdict=_or_null(_ref("Verdict")),
        halt_verdict=_or_null(_ref("Verdict")),
        evidence=_or_null(_ref("Evidence")),
        standstill=_or_null(_words(*(word.value for word in Standstill))),
        explanation=_or_null(_TEXT),
    ),
    "Evidence": {
        **_object(
            "What the analysis holds of the changeset now, over all groups: halted once `ln_e` reaches `threshold`.",
            started=_COUNT,
            good=_COUNT,
            bad=_COUNT,
            pending=_COUNT,
            ln_e=_NUMBER,
            threshold=_NUMBER,
            rate_lower=_NUMBER,
            rate_upper=_NUMBER,
        ),
        "additionalProperties": True,
    },
    "Verdict": _object(
        "What the analysis decided at a place of the ledger; floats are given exactly, in hex too.",
        seq=_COUNT,
        kind=_TEXT,
        verdict=_ANY,
        decided_at=_TIME,
    ),
    "NodeListed": _object("One machine; `state` is that of its last attempt.", **_NODE_COMMON),
    "Node": _object(
        "One machine with its history.",
        **_NODE_COMMON,
        boot_id=_TEXT,
        boot_seen_at=_TIME,
        facts=_ANY,
        first_seen_at=_TIME,
        attempts={"type": "array", "items": _ref("Attempt")},
        quarantines={"type": "array", "items": _ref("Quarantine")},
    ),
    "Attempt": _object(
        "One node taking one changeset once.",
        attempt_id=_ID,
        changeset_id=_ID,
        rollout_id=_ID,
        group_id=_ID,
        from_version=_TEXT,
        to_version=_TEXT,
        state=_TEXT,
        parked=_FLAG,
        reason=_or_null(_TEXT),
        error_code=_or_null({"type": "integer"}),
        granted_at=_TIME,
        changed_at=_TIME,
        closed_at=_or_null(_TIME),
    ),
    "Quarantine": _object(
        "A changeset that is not offered to the node again.",
        changeset_id=_ID,
        version=_or_null(_TEXT),
        attempt_id=_or_null(_ID),
        reason=_TEXT,
        since=_TIME,
    ),
    "Event": {
        "type": "object",
        "additionalProperties": True,
        "description": "A CloudEvent 1.0 (asyncapi.yaml has the types); `sequence` is its place in the ledger.",
    },
    "Events": _object(
        "A page; `next` is the `after` of the page that follows, null at the end.",
        items={"type": "array", "items": _ref("Event")},
        next=_or_null(_COUNT),
    ),
    "LedgerHead": _object("The ledger's last entry.", seq=_COUNT, hash=_TEXT, recorded_at=_TIME),
    "Verification": _object(
        "What verifying the chain found.",
        ok=_FLAG,
        checked=_COUNT,
        last_seq=_COUNT,
        last_hash=_TEXT,
        broken_at=_or_null(_COUNT),
        reason=_or_null(_TEXT),
    ),
    "Description": {"type": "string", "description": "This document."},
}

_ERRORS: Final = {
    "400": "What was sent is not usable; nothing was changed.",
    "401": "No valid token was sent.",
    "403": "The token may only look.",
    "404": "There is no such thing.",
    "409": "It does not fit what is there; nothing was changed.",
    "503": "A part that is needed does not answer; try again.",
}


def describe_api() -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    bodies = sorted({route.body for route in ROUTES if route.body is not None}, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components([*bodies, Policy, RolloutParameters], ref_template=_REF)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Uneventful control",
            "version": "1",
            "description": "What operators say to Uneventful, and what they may look at. Made from the routes: "
            "change those, then run `python -m services.control.description`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {
                status: {
                    "description": text,
                    "content": {"application/problem+json": {"schema": _ref("Problem")}},
                }
                for status, text in _ERRORS.items()
            },
            "schemas": _plain(ANSWERS | components),
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    answer = _answer(route)
    found: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
    }
    if route.body is not None:
        found["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": _ref(route.body.__name__)}},
        }
    found["responses"] = {"200": answer}
    if route.created:
        found["responses"] = {
            "200": {**answer, "description": "The same was there already."},
            "201": {**answer, "description": "It was made."},
        }
    found["responses"] |= {status: {"$ref": f"#/components/responses/{status}"} for status in _statuses(route)}
    if route.answer == "Description":
        found["security"] = []
    return {name: value for name, value in found.items() if value != [] or name == "security"}


def _statuses(route: Route) -> list[str]:
    statuses = ["401", "503"]
    if route.method != "GET":
        statuses += ["400", "403", "409"]
    if route.query is not None or "{" in route.path:
        statuses.append("400")
    if "{" in route.path or route.created:
        statuses.append("404")
    return [] if route.answer == "Description" else sorted(set(statuses))


def _answer(route: Route) -> dict[str, Any]:
    good = "Well."
    if route.answer == "Description":
        return {"description": good, "content": {"application/yaml": {"schema": _ref("Description")}}}
    if route.answer == "Event":
        return {
            "description": good,
            "headers": {"Uneventful-Hash": {"description": "The chain's hash there, in hex.", "schema": _TEXT}},
            "content": {CONTENT_TYPE: {"schema": _ref("Event")}},
        }
    if route.answer.startswith("["):
        page = _object(
            "A page; `next` is the `cursor` of the page that follows, null at the end.",
            items={"type": "array", "items": _ref(route.answer.strip("[]"))},
            next=_or_null(_TEXT),
        )
        return {"description": good, "content": {"application/json": {"schema": page}}}
    content: dict[str, Any] = {"application/json": {"schema": _ref(route.answer)}}
    if route.answer == "Events":
        content[NDJSON] = {"schema": {"type": "string", "description": "One Event per line."}}
    return {"description": good, "content": content}


def _operation_id(route: Route) -> str:
    words = re.sub(r"\{\w+\}", "one", route.path.removeprefix("/api/v1/").removesuffix(".yaml"))
    return "_".join([route.method.lower(), *re.split(r"[/.]", words)])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schemas = {"id": _ID, "reference": _TEXT, "seq": {"type": "integer", "minimum": 1}}
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas[name]}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    schema = components[route.query.__name__]
    parameters = []
    for name, of in schema["properties"].items():
        value = components[of["$ref"].rpartition("/")[2]] if "$ref" in of else of
        inlined = _inline(value, components)
        parameters.append({"name": name, "in": "query", "required": False, "schema": inlined})
    return parameters


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(components[schema["$ref"].rpartition("/")[2]], components)
        return {name: _inline(value, components) for name, value in schema.items()}
    if isinstance(schema, list | tuple):
        return [_inline(item, components) for item in schema]
    return schema


def _plain(value: Any) -> Any:
    """Without what is ours alone, in a fixed order."""
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in value if name != "x-absent"}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def main() -> None:
    """Print the description as YAML."""
    import yaml  # noqa: PLC0415  # only who changes the API needs it

    class Unaliased(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # yaml's own signature
            return True

    sys.stdout.write(yaml.dump(describe_api(), Dumper=Unaliased, sort_keys=False, allow_unicode=True, width=110))


if __name__ == "__main__":
    main()
