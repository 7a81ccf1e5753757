"""Who asks: tokens looked up by their hash, remembered for a few seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from services.control.tokens import Role, is_token, token_hash
from shared.clock import Clock
from shared.web import Principal

MAX_REMEMBERED: Final = 1_000

Lookup = Callable[[bytes], Awaitable[tuple[str, Role] | None]]


class TokenCheck:
    """Verifies tokens; what was found valid is not looked up again for a few seconds.

    A revoked token is valid for at most that long. Tokens that are not valid are never remembered.

    Args:
        lookup: Finds the name and role of a token's hash.
        clock: Measures how long a token is remembered.
        remember_s: For how many seconds.
    """

    def __init__(self, lookup: Lookup, *, clock: Clock, remember_s: float) -> None:
        self._lookup = lookup
        self._clock = clock
        self._remember_s = remember_s
        self._known: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def verify(self, token: str) -> Principal | None:
        """Whom a token belongs to; None where it is not valid."""
        if not is_token(token):
            return None
        hashed = token_hash(token)
        known = self._known.get(hashed)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        self._known.pop(hashed, None)
        found = await self._lookup(hashed)
        if found is None:
            return None
        principal = Principal(found[0], found[1].value)
        self._known[hashed] = (self._clock.monotonic() + self._remember_s, principal)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return principal
