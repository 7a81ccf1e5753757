"""The description of the API as one page of HTML: no script, nothing from elsewhere. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from services.control.description import describe_api

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; --accent: #06c; }
@media (prefers-color-scheme: dark) { :root { --accent: #6bf; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; }
main, nav { padding: 1.5rem; }
main { max-width: 60rem; }
nav { border-bottom: 1px solid var(--line); font-size: .9rem; }
nav ul { list-style: none; margin: 0 0 .75rem; padding: 0; }
nav li { margin: .15rem 0; }
nav a, td a, p a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
h1 { line-height: 1.2; margin-top: 0; }
h2 { border-bottom: 1px solid var(--line); margin-top: 3rem; text-transform: capitalize; }
article { margin: 2rem 0; padding: 1rem 1.25rem; border: 1px solid var(--line); border-radius: .5rem; }
article:target { border-color: var(--accent); }
h3 { margin: 0 0 .5rem; font-size: 1.05rem; overflow-wrap: anywhere; }
h4 { margin: 1rem 0 .25rem; font-size: .9rem; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.method { display: inline-block; min-width: 3.6rem; padding: 0 .4rem; border-radius: .25rem; background: var(--soft);
  font: 600 .8rem/1.6 ui-monospace, monospace; text-align: center; }
.post, .patch, .put, .delete { background: var(--accent); color: #fff; }
@media (prefers-color-scheme: dark) { .post, .patch, .put, .delete { color: #000; } }
.note { color: #777; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
td { padding: .3rem .5rem .3rem 0; border-top: 1px solid var(--line); vertical-align: top; }
td:first-child { width: 14rem; }
@media (min-width: 70rem) {
  body { display: grid; grid-template-columns: 21rem 1fr; }
  nav { position: sticky; top: 0; height: 100vh; overflow: auto; border: 0; border-right: 1px solid var(--line); }
}
"""


@functools.cache
def page() -> bytes:
    """The page of this server's own description."""
    return render(describe_api()).encode()


def render(description: Mapping[str, Any]) -> str:
    """An OpenAPI description as one page; every text of it is escaped.

    Args:
        description: OpenAPI 3.1, with all schemas under ``components`` and operations with an ``operationId``.
    """
    info = description["info"]
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(_group_of(path), []).append((method, path, operation))
    schemas = description["components"]["schemas"]
    contents = "".join(_contents(name, operations) for name, operations in groups.items())
    sections = "".join(
        f"<section><h2 id='{_anchor('group', name)}'>{escape(name)}</h2>"
        + "".join(_operation(description, *operation) for operation in operations)
        + "</section>"
        for name, operations in groups.items()
    )
    shapes = "".join(_schema(name, schemas[name]) for name in sorted(schemas))
    paragraphs = "".join(f"<p>{_prose(text)}</p>" for text in info["description"].split("\n\n"))
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<nav aria-label='Contents'>{contents}<ul><li><a href='#schemas'>Schemas</a></li></ul></nav>"
        f"<main><h1>{escape(info['title'])} <span class='note'>v{escape(info['version'])}</span></h1>{paragraphs}"
        "<p>The same for machines: <a href='openapi.yaml'>openapi.yaml</a>.</p>"
        f"{sections}<section><h2 id='schemas'>Schemas</h2>{shapes}</section></main></body></html>\n"
    )


def _group_of(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[2].removesuffix(".yaml") if len(parts) > 2 else "reference"


def _anchor(kind: str, name: str) -> str:
    return f"{kind}-{re.sub(r'[^A-Za-z0-9_]+', '-', name)}"


def _contents(name: str, operations: Iterable[tuple[str, str, Mapping[str, Any]]]) -> str:
    lines = "".join(
        f"<li><a href='#{_anchor('op', operation['operationId'])}'><span class='method {escape(method)}'>"
        f"{escape(method.upper())}</span> {escape('/' + '/'.join(path.split('/')[3:]))}</a></li>"
        for method, path, operation in operations
    )
    return f"<strong>{escape(name)}</strong><ul>{lines}</ul>"


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _remark(described: Mapping[str, Any]) -> str:
    return f". {_prose(described['description'])}" if "description" in described else ""


def _operation(description: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> str:
    badge = f"<span class='method {escape(method)}'>{escape(method.upper())}</span>"
    parts = [
        f"<article id='{_anchor('op', operation['operationId'])}'><h3>{badge} <code>{escape(path)}</code></h3>",
        f"<p>{_prose(operation['summary'])} <span class='note'>{_prose(operation.get('description', ''))}</span></p>",
    ]
    parameters = operation.get("parameters", ())
    if parameters:
        rows = "".join(
            f"<tr><td><code>{escape(parameter['name'])}</code> <span class='note'>{escape(parameter['in'])}</span></td>"
            f"<td>{_shape(parameter['schema'])}{_remark(parameter)}</td></tr>"
            for parameter in parameters
        )
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    body = operation.get("requestBody")
    if body is not None:
        may = "" if body["required"] else " <span class='note'>may be left out</span>"
        parts.append(f"<h4>Body</h4><p>{_content(body['content'])}{may}</p>")
    rows = "".join(
        f"<tr><td><code>{escape(status)}</code></td><td>{_answer(description, answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<h4>Answers</h4><table>{rows}</table></article>")
    return "".join(parts)


def _answer(description: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    if "$ref" in answer:
        answer = description["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    content = f" {_content(answer['content'])}" if "content" in answer else ""
    return f"{_prose(answer['description'])}{content}"


def _content(content: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_shape(of['schema'])} <span class='note'>{escape(media_type)}</span>" for media_type, of in content.items()
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    text = schema.get("description", "")
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in required else ' <span class=note>optional</span>'}</td>"
        f"<td>{_shape(of)}{_remark(of)}</td></tr>"
        for field, of in schema.get("properties", {}).items()
    )
    inner = f"<table>{rows}</table>" if rows else f"<p>{_shape(schema)}</p>"
    return f"<article id='{_anchor('schema', name)}'><h3>{escape(name)}</h3><p>{_prose(text)}</p>{inner}</article>"


def _shape(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#{_anchor('schema', name)}'>{escape(name)}</a>"
    for either in ("anyOf", "oneOf"):
        if either in schema:
            return " or ".join(_shape(part) for part in schema[either])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array" and "items" in schema:
        return f"list of {_shape(schema['items'])}"
    if kind == "object" and "properties" in schema:
        return "object of " + ", ".join(
            f"<code>{escape(name)}</code>: {_shape(of)}" for name, of in schema["properties"].items()
        )
    words = " or ".join(kind) if isinstance(kind, list | tuple) else str(kind)
    if "format" in schema:
        words += f" ({schema['format']})"
    return f"{escape(words)}{escape(_bounds(schema))}"


def _bounds(schema: Mapping[str, Any]) -> str:
    names = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "up to",
        "exclusiveMaximum": "below",
        "minLength": "at least",
        "maxLength": "at most",
        "maxItems": "at most",
        "default": "default",
    }
    told = [f"{word} {_plain(schema[name])}" for name, word in names.items() if schema.get(name) is not None]
    return f", {', '.join(told)}" if told else ""


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
