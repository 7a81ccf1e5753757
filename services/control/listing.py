"""Lists in pages, sorted: a cursor holds the key and the id of the last item; pages neither overlap nor skip. Pure.

The SQL of a sorted list takes the id, the key and the direction from here, and gives each row its ``sort_key``:
text, in byte order.
"""

from __future__ import annotations

import base64
import binascii
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shared.errors import InvalidInput

SORT_KEY: Final = "sort_key"


class SortOrder(enum.StrEnum):
    """Which way a list goes."""

    ASC = "asc"
    DESC = "desc"


class Sorted(Protocol):
    """A query for a list that can be sorted."""

    @property
    def cursor(self) -> str | None:
        """The ``next`` of the page before."""

    @property
    def sort(self) -> enum.StrEnum:
        """What it is sorted by."""

    @property
    def order(self) -> SortOrder | None:
        """Which way; None: the list's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page begins, as SQL takes it.

    Attributes:
        after: The id of the last item of the page before; None at the start.
        key: Its sort key.
        sort: What the list is sorted by.
        descending: Which way.
    """

    after: uuid.UUID | None
    key: str
    sort: str
    descending: bool


def place_of(asked: Sorted, *, usually: SortOrder = SortOrder.ASC) -> Place:
    """Where a page begins.

    Args:
        asked: The query.
        usually: Which way the list goes where the query does not say.

    Raises:
        InvalidInput: The cursor is none that was given out, or one of a list that is sorted otherwise.
    """
    after, key = behind(asked.cursor, asked.sort)
    order = asked.order or usually
    return Place(after=after, key=key, sort=asked.sort.value, descending=order is SortOrder.DESC)


def behind(cursor: str | None, sort: enum.StrEnum | None = None) -> tuple[uuid.UUID | None, str]:
    """The id and the key of the item that a page begins behind; None and no key at the start.

    Raises:
        InvalidInput: The cursor is none that was given out, or one of a list that is sorted otherwise.
    """
    if cursor is None:
        return None, ""
    name, _, rest = cursor.partition("~")
    encoded, _, sorted_by = rest.partition("~")
    if sorted_by != (sort or ""):
        raise InvalidInput("cursor is of a list that is sorted otherwise: begin without one")
    try:
        after = uuid.UUID(name)
        key = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (ValueError, binascii.Error) as fault:
        raise InvalidInput("cursor is no `next` of a page: begin without one") from fault
    if "\x00" in key:
        raise InvalidInput("cursor is no `next` of a page: begin without one")
    return after, key


def cursor_of(item: Mapping[str, Any], name: str, sort: enum.StrEnum | None = None) -> str:
    """The cursor of the page that follows an item; ``name`` is the member with its id."""
    key = item.get(SORT_KEY) or ""
    encoded = base64.urlsafe_b64encode(str(key).encode()).decode().rstrip("=")
    return "~".join((str(item[name]), encoded, sort or "")).rstrip("~")
