"""openapi.yaml, made from the routes: ``python -m services.control.description > services/control/openapi.yaml``."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

import msgspec

from services.control.answers import ANSWERS
from services.control.answers.fields import ID, TEXT, object_of, or_null, ref
from services.control.routes import NDJSON, ROUTES, Route
from shared.domain.policy import Policy, RolloutParameters
from shared.events import CONTENT_TYPE

_REF: Final = "#/components/schemas/{name}"


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
                    "content": {"application/problem+json": {"schema": ref("Problem")}},
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
            "content": {"application/json": {"schema": ref(route.body.__name__)}},
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
        return {"description": good, "content": {"application/yaml": {"schema": ref("Description")}}}
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
    content: dict[str, Any] = {"application/json": {"schema": ref(route.answer)}}
    if route.answer == "Events":
        content[NDJSON] = {"schema": {"type": "string", "description": "One Event per line."}}
    return {"description": good, "content": content}


def _operation_id(route: Route) -> str:
    words = re.sub(r"\{\w+\}", "one", route.path.removeprefix("/api/v1/").removesuffix(".yaml"))
    return "_".join([route.method.lower(), *re.split(r"[/.]", words)])


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schemas = {"id": ID, "name": TEXT, "reference": TEXT, "seq": {"type": "integer", "minimum": 1}}
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
