"""openapi.yaml, made from the routes: ``python -m services.control.description > services/control/openapi.yaml``."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from services.control.answers import ANSWERS
from services.control.answers.fields import ID, KEY_ID, TEXT, object_of, or_null, ref
from services.control.request_rules import answers_with, tagged_path
from services.control.routes import NDJSON, PUBLIC_PATHS, ROUTES, Route
from services.control.routes.route import DRY_RUN
from shared.domain.policy import Policy, RolloutParameters
from shared.events import CONTENT_TYPE
from shared.web.openapi import plain, print_yaml

_REF: Final = "#/components/schemas/{name}"
_OURS: Final = frozenset({"x-absent"})
LOOKS: Final = {route.path: route.answer for route in ROUTES if route.looks}
MEDIA_TYPES: Final = {"Description": "application/yaml", "Page": "text/html"}

_ERRORS: Final = {
    "400": "What was sent is not usable; nothing was changed.",
    "401": "No valid token was sent.",
    "403": "The token has not the role, or is for other applications.",
    "404": "There is no such thing.",
    "408": "The body did not arrive in time.",
    "409": "It does not fit what is there; nothing was changed.",
    "412": "It has changed since the caller looked; nothing was changed.",
    "413": "The body is too large.",
    "415": "The body is no JSON.",
    "422": "The idempotency key was used for another request; nothing was changed.",
    "503": "A part that is needed does not answer; try again.",
}
_ETAG: Final = {"ETag": {"description": "Changes with the answer; for If-None-Match and If-Match.", "schema": TEXT}}
_REQUEST_ID: Final = {"Uneventful-Request": {"description": "The request's id, as in the ledger.", "schema": ID}}
_INTRODUCTION: Final = """What operators say to Uneventful, and what they may look at.

Made from the routes: change those, then run `python -m services.control.description`.

A bearer token goes with every request. Errors are problems (RFC 9457) with a `code` for machines. Answers have an ETag:
If-None-Match saves reading what is known, If-Match keeps a change from overwriting another one. A POST with an
Idempotency-Key is done once, however often it is sent. `dry_run=true` answers what a change would do, and does nothing.
Lists come in pages: `next` of one is the `cursor` of the next."""


def describe_api() -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    bodies = sorted({route.body for route in ROUTES if route.body is not None}, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components([*bodies, Policy, RolloutParameters], ref_template=_REF)
    twice = ANSWERS.keys() & components.keys()
    if twice:
        raise ValueError(f"an answer and a body are both called {min(twice)}")
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Uneventful control",
            "version": "1",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": plain(paths, _OURS),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {
                status: {
                    "description": text,
                    "content": {"application/problem+json": {"schema": ref("Problem")}},
                }
                for status, text in _ERRORS.items()
            },
            "schemas": plain(ANSWERS | components, _OURS),
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    answer = _answer(route)
    public = route.path in PUBLIC_PATHS
    parameters = [*_path_parameters(route), *_query_parameters(route)]
    found: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "description": "No token is needed." if public else f"Needs the role {route.least_role.value} or above.",
        "parameters": parameters if public else [*parameters, *_rule_parameters(route)],
    }
    if route.body is not None:
        found["requestBody"] = {
            "required": not route.body_optional,
            "content": {
                "application/json": {"schema": ref(route.body.__name__)},
                **{media_type: {"schema": TEXT} for media_type in route.reports},
            },
        }
    if route.looks:
        found["responses"] = {"200": answer if public else {**answer, "headers": answer.get("headers", {}) | _ETAG}}
        if not public:
            found["responses"]["304"] = {"description": "The caller has it already.", "headers": _ETAG}
    else:
        answer = {**answer, "headers": _REQUEST_ID}
        tagged = tagged_path(route.path, LOOKS)
        same = (
            {"headers": _REQUEST_ID | _ETAG} if tagged is not None and answers_with(route.answer, LOOKS[tagged]) else {}
        )
        found["responses"] = {"200": {**answer, **same}}
        if route.created:
            found["responses"] = {
                "200": {**answer, "description": "The same was there already, or nothing was made (dry run)."},
                "201": {**answer, "description": "It was made."},
            }
        if route.approvable:
            found["responses"]["202"] = {
                "description": "Nothing was done: it needs an approval, which another one has to give.",
                "headers": _REQUEST_ID | {"Location": {"description": "The approval.", "schema": TEXT}},
                "content": {"application/json": {"schema": ref("Approval")}},
            }
    found["responses"] |= {status: {"$ref": f"#/components/responses/{status}"} for status in _statuses(route)}
    if public:
        found["security"] = []
    return {name: value for name, value in found.items() if value != [] or name == "security"}


def _statuses(route: Route) -> list[str]:
    if route.path in PUBLIC_PATHS:
        return []
    statuses = ["400", "401", "403", "503"]
    if route.body is not None or route.query is not None or "{" in route.path:
        statuses.append("404")
    if not route.looks:
        statuses += ["408", "409", "413"]
        if route.body is not None:
            statuses.append("415")
        if tagged_path(route.path, LOOKS) is not None:
            statuses.append("412")
        if route.method == "POST" and not route.secret:
            statuses.append("422")
    return sorted(statuses)


def _rule_parameters(route: Route) -> list[dict[str, Any]]:
    """What every operation of its kind takes besides its own."""
    if route.looks:
        return [_header("If-None-Match", "ETags that the caller has; where one is right, the answer is 304.")]
    found = []
    if not route.secret:
        schema = {"type": "boolean", "default": False}
        text = "Answer what would be done, and do nothing: `dry_run` is true in the answer, `would` has the events."
        found.append({"name": DRY_RUN, "in": "query", "required": False, "schema": schema, "description": text})
        if route.method == "POST":
            schema = {"type": "string", "pattern": "^[!-~]([ -~]{0,126}[!-~])?$"}
            text = "The request is done once, however often it is sent with this key; kept for 24 hours."
            found.append(_header("Idempotency-Key", text, schema))
    if tagged_path(route.path, LOOKS) is not None:
        found.append(_header("If-Match", "The ETag that the caller saw; where it is another by now, 412."))
    if route.approvable:
        found.append(_header("Uneventful-Approval", "The approval that allows this.", ID))
    return found


def _header(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    tags = {"type": "string", "pattern": r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'}
    return {"name": name, "in": "header", "required": False, "schema": schema or tags, "description": description}


def _answer(route: Route) -> dict[str, Any]:
    good = "Well."
    if route.answer in MEDIA_TYPES:
        return {"description": good, "content": {MEDIA_TYPES[route.answer]: {"schema": ref(route.answer)}}}
    if route.answer == "Event":
        return {
            "description": good,
            "headers": {"Uneventful-Hash": {"description": "The chain's hash there, in hex.", "schema": TEXT}},
            "content": {CONTENT_TYPE: {"schema": ref("Event")}},
        }
    if route.answer.startswith("["):
        page = object_of(
            "A page; `next` is the `cursor` of the page that follows, null at the end.",
            items={"type": "array", "items": ref(route.answer.strip("[]"))},
            next=or_null(TEXT),
        )
        return {"description": good, "content": {"application/json": {"schema": page}}}
    if route.answer == "Polls":
        return {"description": good, "content": {NDJSON: {"schema": ref("Polls")}}}
    content: dict[str, Any] = {"application/json": {"schema": ref(route.answer)}}
    if route.answer == "Events":
        content[NDJSON] = {"schema": {"type": "string", "description": "One Event per line."}}
    return {"description": good, "content": content}


def _operation_id(route: Route) -> str:
    words = re.sub(r"\{\w+\}", "one", route.path.removeprefix("/api/v1/").removesuffix(".yaml")) or "reference"
    return "_".join([route.method.lower(), *re.split(r"[/.]", words)])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schemas = {"id": ID, "key": KEY_ID, "name": TEXT, "reference": TEXT, "seq": {"type": "integer", "minimum": 1}}
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


def main() -> None:
    """Print the description as YAML."""
    print_yaml(describe_api())


if __name__ == "__main__":
    main()
