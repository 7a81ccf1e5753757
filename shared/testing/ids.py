"""Identifiers that a test can foretell."""

from __future__ import annotations

import uuid
from typing import Final

_FIRST: Final = uuid.UUID("01900000-0000-7000-8000-000000000000").int


class SequentialIds:
    """Counts: well-formed version 7 UUIDs and tokens, in order, the same in every run.

    Args:
        start: The number of the first identifier; sources that must not collide start apart.
    """

    def __init__(self, start: int = 1) -> None:
        self._next_uuid = start
        self._next_token = start

    def uuid7(self) -> uuid.UUID:
        """The next UUID: version 7, its last digits are the count."""
        value = uuid.UUID(int=_FIRST + self._next_uuid)
        self._next_uuid += 1
        return value

    def token(self) -> str:
        """The next token: the count as 32 hexadecimal characters."""
        value = f"{self._next_token:032x}"
        self._next_token += 1
        return value
