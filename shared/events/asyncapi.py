"""Writes ``docs/reference/asyncapi.yaml``: every event, for those who consume them, made from the registry.

``python -m shared.events.asyncapi`` prints it, ``--write`` puts it in its place.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from shared.events.codec import CONTENT_TYPE
from shared.events.envelope import Envelope
from shared.events.registry import EVENT_TYPES, EventType, Registry

EXCHANGE = "uneventful.events"
EXAMPLES = Path(__file__).parent / "examples"
PLACE = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.yaml"

_PLAIN = re.compile(r"[A-Za-z_/$][A-Za-z0-9_./$+-]*")
_NOT_PLAIN = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


def document(registry: Registry = EVENT_TYPES) -> dict[str, Any]:
    """The AsyncAPI 3.0 document as plain values."""
    shapes = sorted({event_type.data for event_type in registry.values()}, key=lambda shape: shape.__name__)
    _, schemas = msgspec.json.schema_components([Envelope, *shapes], ref_template="#/components/schemas/{name}")
    envelope = schemas["Envelope"]
    envelope["properties"]["data"] = {"type": "object"}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Uneventful events",
            "version": "1.0.0",
            "description": (
                "CloudEvents 1.0, structured JSON. The same canonical bytes stand in the ledger, on the bus, in "
                "webhooks and in replays. Within a major version fields are only added; ignore what you do not know. "
                "Events of one partitionkey come in order; an event may come more than once, with the same id."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {
            "rabbitmq": {
                "host": "localhost:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "The broker that event_log relays the ledger to.",
            },
        },
        "channels": {name: _channel(registry[name]) for name in registry},
        "operations": {
            f"send.{name}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
                "bindings": {"amqp": {"deliveryMode": 2, "mandatory": False, "ack": True}},
            }
            for name in registry
        },
        "components": {
            "messages": {name: _message(registry[name]) for name in registry},
            "schemas": {name: schemas[name] for name in sorted(schemas)},
        },
    }


def _channel(event_type: EventType) -> dict[str, Any]:
    return {
        "address": event_type.name,
        "summary": event_type.summary,
        "messages": {event_type.name: {"$ref": f"#/components/messages/{event_type.name}"}},
        "bindings": {
            "amqp": {"is": "routingKey", "exchange": {"name": EXCHANGE, "type": "topic", "durable": True}},
        },
    }


def _message(event_type: EventType) -> dict[str, Any]:
    example = EXAMPLES / f"{event_type.name}.json"
    message: dict[str, Any] = {
        "name": event_type.name,
        "summary": event_type.summary,
        "contentType": CONTENT_TYPE,
        "payload": {
            "allOf": [
                {"$ref": "#/components/schemas/Envelope"},
                {
                    "type": "object",
                    "properties": {
                        "type": {"const": event_type.name},
                        "data": {"$ref": f"#/components/schemas/{event_type.data.__name__}"},
                    },
                },
            ],
        },
    }
    if example.exists():
        message["examples"] = [{"payload": orjson.loads(example.read_bytes())}]
    return message


def to_yaml(value: Any) -> str:
    """YAML 1.2 of plain values: block style, keys in their order, strings quoted as JSON where needed."""
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _entry(f"{indent}{_scalar(str(key))}:", inner, indent + "  ")
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for inner in value:
            block = list(_lines(inner, indent + "  "))
            yield f"{indent}- {block[0].lstrip()}"
            yield from block[1:]
    else:
        yield f"{indent}{_scalar(value)}"


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield head
        yield from _lines(value, indent)
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return value
    return json.dumps(value, ensure_ascii=False)


def rendered() -> str:
    """The file's text as it should be."""
    return "# Made by `python -m shared.events.asyncapi --write`; do not edit.\n" + to_yaml(document())


def main(arguments: Sequence[str]) -> int:
    """Print the document, or with ``--write`` write the file. Returns the exit status."""
    if arguments == ["--write"]:
        PLACE.parent.mkdir(parents=True, exist_ok=True)
        PLACE.write_text(rendered(), encoding="utf-8")
        return 0
    if arguments:
        sys.stderr.write("usage: python -m shared.events.asyncapi [--write]\n")
        return 2
    sys.stdout.write(rendered())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
