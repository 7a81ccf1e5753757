"""What the descriptions of JSON APIs share: schemas as JSON Schema has them, and YAML to check in."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any


def plain(value: Any, without: Collection[str] = ()) -> Any:
    r"""A schema for others than Python, in a fixed order.

    Args:
        value: A schema, or a part of one. Its patterns end in ``\Z`` where JSON Schema has ``$`` for the very end.
        without: Keywords that are left out.
    """
    if isinstance(value, dict):
        return {
            name: of.replace(r"\Z", "$") if name == "pattern" and isinstance(of, str) else plain(of, without)
            for name, of in value.items()
            if name not in without
        }
    if isinstance(value, list | tuple):
        return [plain(item, without) for item in value]
    return value


def print_yaml(document: dict[str, Any]) -> None:
    """Print a description as YAML, each part written out where it stands."""
    import yaml  # noqa: PLC0415  # only who changes an API needs it

    class Unaliased(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # yaml's own signature
            return True

    sys.stdout.write(yaml.dump(document, Dumper=Unaliased, sort_keys=False, allow_unicode=True, width=110))
