"""Cursors of lists that are sorted by more than an id. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec

from shared.errors import InvalidInput

Cursor: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,1024}\Z")]
"""Opaque: the ``next`` of the page before."""


def cursor_of(parts: Sequence[str]) -> str:
    """The cursor behind a place in a list."""
    return base64.urlsafe_b64encode(msgspec.json.encode(list(parts))).decode().rstrip("=")


def place_of(cursor: str, parts: int) -> list[str]:
    """The place that a cursor stands for.

    Args:
        cursor: As `cursor_of` made it.
        parts: Of how many parts the place is made.

    Raises:
        InvalidInput: It is none of this list's.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(raw, type=list[str])
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise InvalidInput(
            "the cursor is none: use the `next` of the page before", details={"field": "cursor"}
        ) from fault
    if len(place) != parts or any("\x00" in part for part in place):
        raise InvalidInput("the cursor belongs to another list", details={"field": "cursor"})
    return place
