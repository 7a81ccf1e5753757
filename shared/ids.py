"""Identifiers, as something that is handed in."""

from __future__ import annotations

import os
import secrets
import time
import uuid
from typing import Final, Protocol

_FRACTION_BITS: Final = 12
_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0x2 << 62
_RANDOM_MASK: Final = (1 << 62) - 1
_NS_PER_MS: Final = 1_000_000


class IdSource(Protocol):
    """Makes identifiers that nobody made before."""

    def uuid7(self) -> uuid.UUID:
        """A UUID of version 7 (RFC 9562 5.7), greater than every one before it from this source."""
        ...

    def token(self) -> str:
        """32 hexadecimal characters that nobody can guess."""
        ...


class SystemIds:
    """Identifiers from the machine's clock and its random source.

    The 12 bits after the milliseconds hold their fraction (RFC 9562 6.2, method 3), counted up when two would be
    equal or the clock goes back, so that identifiers of one source are in the order in which they were made.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def uuid7(self) -> uuid.UUID:
        """A UUID of version 7, greater than every one before it from this source."""
        milliseconds, rest = divmod(time.time_ns(), _NS_PER_MS)
        tick = (milliseconds << _FRACTION_BITS) | ((rest << _FRACTION_BITS) // _NS_PER_MS)
        if tick <= self._last:
            tick = self._last + 1
        self._last = tick
        random_bits = int.from_bytes(os.urandom(8)) & _RANDOM_MASK
        high = ((tick >> _FRACTION_BITS) << 80) | ((tick & 0xFFF) << 64)
        return uuid.UUID(int=high | _VERSION_7 | _VARIANT | random_bits)

    def token(self) -> str:
        """32 hexadecimal characters that nobody can guess."""
        return secrets.token_hex(16)
