"""Answers of control against openapi.yaml: every answer that a test gets is one that the contract promises."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

import services.control

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def document() -> dict[str, Any]:
    """openapi.yaml as it is served."""
    path = Path(services.control.__file__).with_name("openapi.yaml")
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506  # the loader is the safe one


@functools.cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    found = [
        (
            re.compile(
                "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", path))
            ),
            path,
        )
        for path in document()["paths"]
    ]
    # What is written out goes before what stands for anything.
    return sorted(found, key=lambda item: item[1].count("{"))


def template_of(path: str) -> str | None:
    """The path of openapi.yaml that a request's path is one of."""
    return next((template for pattern, template in _templates() if pattern.fullmatch(path)), None)


def _closed(schema: Any) -> Any:
    """The same, with nothing allowed in an object that is not described: what is answered is described whole."""
    if isinstance(schema, dict):
        closed = {name: _closed(value) for name, value in schema.items()}
        if "properties" in closed and isinstance(closed["properties"], dict) and closed.get("type") == "object":
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(item) for item in schema] if isinstance(schema, list) else schema


@functools.cache
def _schemas(*, closed: bool) -> dict[str, Any]:
    schemas = document()["components"]["schemas"]
    # Problems have members of their own kind's; bodies that are stored as given come back with what later rounds add.
    return {name: _closed(schema) if closed and name != "Problem" else schema for name, schema in schemas.items()}


@functools.cache
def _validator(template: str, method: str, status: int, media_type: str, *, closed: bool) -> Any:
    answers = document()["paths"][template][method]["responses"]
    assert str(status) in answers, f"{method} {template} may not answer {status}, by openapi.yaml"
    answer = answers[str(status)]
    if "$ref" in answer:
        answer = document()["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    content = answer.get("content", {})
    assert media_type in content or not content, f"{method} {template} may not answer {media_type}, by openapi.yaml"
    if not content or not media_type.endswith("json"):
        return None
    schema = content[media_type]["schema"]
    root = {**(_closed(schema) if closed else schema), "components": {"schemas": _schemas(closed=closed)}}
    return jsonschema_rs.Draft202012Validator(root, validate_formats=True)


def check(method: str, path: str, status: int, content_type: str, body: Any, *, dry_run: bool = False) -> None:
    """Fail where an answer is not one that openapi.yaml has; what has no such path is left alone."""
    template = template_of(path)
    if template is None or method.lower() not in document()["paths"][template]:
        assert status in (401, 404, 405), f"{method} {path} is not in openapi.yaml and answers {status}"
        return
    media_type = content_type.partition(";")[0].strip()
    validator = _validator(template, method.lower(), status, media_type, closed=not dry_run)
    if validator is None:
        return
    fault = next(validator.iter_errors(body), None)
    assert fault is None, f"{method} {template} {status}: {fault}\n{json.dumps(body, indent=1)[:3000]}"
