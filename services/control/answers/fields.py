"""What the schemas of answers are made of."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Schema: TypeAlias = dict[str, Any]


def object_of(description: str, **properties: Schema) -> Schema:
    """An object with exactly these properties, all of them present but those with ``x-absent``."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name, schema in properties.items() if not schema.get("x-absent")],
    }


def ref(name: str) -> Schema:
    """A schema of the description by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(schema: Schema) -> Schema:
    """A list of such things."""
    return {"type": "array", "items": schema}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    if "type" in schema and isinstance(schema["type"], str):
        either = {**schema, "type": [schema["type"], "null"]}
        return {**either, "enum": [*schema["enum"], None]} if "enum" in schema else either
    return {"anyOf": [schema, {"type": "null"}]}


def words(*words: str) -> Schema:
    """One of some words."""
    return {"type": "string", "enum": list(words)}


ID: Final[Schema] = {"type": "string", "format": "uuid"}
TEXT: Final[Schema] = {"type": "string"}
KEY_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
FLAG: Final[Schema] = {"type": "boolean"}
ANY: Final[Schema] = {"type": "object", "additionalProperties": True}
COUNTS: Final[Schema] = {"type": "object", "additionalProperties": COUNT}
