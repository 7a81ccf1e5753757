"""The JSON routes as openapi.yaml, which ``python -m services.update_check.description`` prints.

The schemas are made from what decodes and encodes; Omaha's XML is described in docs/reference/omaha.md.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.update_check.cincinnati import MAX_TEXT
from services.update_check.native import Check, CheckAnswer, Enrol, Enrolled
from services.update_check.poll import MAX_ARCH, MAX_MACHINE_ID, MAX_VERSION
from shared.web.openapi import plain, print_yaml

_REF: Final = "#/components/schemas/{name}"
_BASES: Final = ("", "/cincinnati/{application}", "/cincinnati/{application}/{secret}")

_PROBLEMS: Final = {
    "400": "What was sent is not usable; nothing was recorded.",
    "401": "A token is wanted, or the one that was sent is not in force.",
    "403": "The token or the path secret belongs to another node.",
    "404": "There is no such application, or no such path secret.",
    "408": "The body did not arrive in time.",
    "409": "The machine has a token already.",
    "413": "The body is too large.",
    "415": "The body is no JSON.",
    "503": "Postgres is away, or too much waits; ask again after Retry-After.",
}


def describe_api() -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    _, schemas = msgspec.json.schema_components([Check, CheckAnswer, Enrol, Enrolled], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Uneventful update_check",
            "version": "1",
            "description": "What native agents and zincati ask; beside it nodes poll over Omaha, which is XML. Made "
            "from the code: change that, then run `python -m services.update_check.description`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/check": {"post": _check()},
            "/v1/enrol": {"post": _enrol()},
            **{f"{base}/v1/graph": {"get": _graph(base)} for base in _BASES},
        },
        "components": {
            "securitySchemes": {
                "node": {"type": "http", "scheme": "bearer", "description": "The node's own token."},
                "enrolment": {"type": "http", "scheme": "bearer", "description": "An enrolment token of a group."},
            },
            "responses": {status: _problem(text) for status, text in _PROBLEMS.items()},
            "schemas": {**plain(schemas), **_GRAPH},
        },
    }


def _check() -> dict[str, Any]:
    return {
        "operationId": "check",
        "summary": "Ask what the node is to do now, and whether the attempt that it tells of may go on.",
        "security": [{}, {"node": []}],
        "requestBody": _body("Check"),
        "responses": {
            "200": _answer("CheckAnswer"),
            **_refusals("400", "401", "403", "404", "408", "413", "415", "503"),
        },
    }


def _enrol() -> dict[str, Any]:
    return {
        "operationId": "enrol",
        "summary": "Get a token of the machine's own for an enrolment token; with the same nonce the same one again.",
        "security": [{"enrolment": []}],
        "requestBody": _body("Enrol"),
        "responses": {
            "200": {**_answer("Enrolled"), "description": "The same token as before."},
            "201": _answer("Enrolled"),
            **_refusals("400", "401", "404", "408", "409", "413", "415", "503"),
        },
    }


def _graph(base: str) -> dict[str, Any]:
    texts = {
        "basearch": (MAX_ARCH, True, "Like x86_64."),
        "stream": (128, True, "Channels of this name are shown."),
        "os_version": (MAX_VERSION, True, "What the node runs."),
        "os_checksum": (MAX_TEXT, True, "Its OSTree checksum, or its pullspec where oci is set."),
        "node_uuid": (MAX_MACHINE_ID, True, "Who it is."),
        "group": (128, False, "The fact `group`."),
        "platform": (128, False, "The fact `platform`."),
    }
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": required,
            "description": words,
            "schema": {"type": "string", "maxLength": longest},
        }
        for name, (longest, required, words) in texts.items()
    ]
    parameters += [
        {"name": "oci", "in": "query", "required": False, "schema": {"enum": ["true", "false", "1", "0", ""]}},
        {
            "name": "rollout_wariness",
            "in": "query",
            "required": False,
            "description": "How late the node wants a release: from 0, at once, to 1, among the last.",
            "schema": {"type": "number", "minimum": 0, "maximum": 1},
        },
    ]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("application", "secret")
        if f"{{{name}}}" in base
    ]
    refusal = {
        "description": "Refused, in Cincinnati's words.",
        "content": {"application/json": {"schema": {"$ref": _REF.format(name="GraphError")}}},
    }
    return {
        "operationId": "_".join(["graph", *(name for name in ("application", "secret") if f"{{{name}}}" in base)]),
        "summary": "The releases, and the one edge that was granted to the node that asks.",
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Well. Never to be cached: it is this node's alone.",
                "headers": {"Cache-Control": {"schema": {"const": "no-store"}}},
                "content": {
                    media_type: {"schema": {"$ref": _REF.format(name="Graph")}}
                    for media_type in ("application/json", "application/vnd.redhat.cincinnati.v1+json")
                },
            },
            **dict.fromkeys(("400", "403", "404", "406", "503"), refusal),
        },
    }


_GRAPH: Final[dict[str, Any]] = {
    "Graph": {
        "type": "object",
        "required": ["nodes", "edges"],
        "properties": {
            "nodes": {"type": "array", "items": {"$ref": _REF.format(name="GraphNode")}},
            "edges": {
                "type": "array",
                "description": "From and to, as places in `nodes`.",
                "items": {
                    "type": "array",
                    "minItems": 2,
                    "maxItems": 2,
                    "items": {"type": "integer", "minimum": 0},
                },
            },
            "conditionalEdges": {
                "type": "array",
                "description": "Edges to what is held for a segment; a rule of type Facts is not met by other types.",
                "items": {"$ref": _REF.format(name="ConditionalEdges")},
            },
        },
    },
    "GraphNode": {
        "type": "object",
        "required": ["version", "payload", "metadata"],
        "properties": {
            "version": {"type": "string"},
            "payload": {"type": "string"},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "ConditionalEdges": {
        "type": "object",
        "required": ["edges", "risks"],
        "properties": {
            "edges": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["from", "to"],
                    "properties": {"from": {"type": "string"}, "to": {"type": "string"}},
                },
            },
            "risks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["url", "name", "message", "matchingRules"],
                    "properties": {
                        "url": {"type": "string"},
                        "name": {"type": "string"},
                        "message": {"type": "string"},
                        "matchingRules": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["type", "facts"],
                                "properties": {
                                    "type": {"const": "Facts"},
                                    "facts": {"type": "object", "additionalProperties": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
    "GraphError": {
        "type": "object",
        "required": ["kind", "value"],
        "properties": {"kind": {"type": "string"}, "value": {"type": "string"}},
    },
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string"},
        },
    },
}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(name=name)}}}}


def _answer(name: str) -> dict[str, Any]:
    return {"description": "Well.", "content": {"application/json": {"schema": {"$ref": _REF.format(name=name)}}}}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _problem(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
    }


def main() -> None:
    """Print the description as YAML."""
    print_yaml(describe_api())


if __name__ == "__main__":
    main()
