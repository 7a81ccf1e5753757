"""Who asks: tokens looked up by their hash, remembered for a few seconds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from services.control.tokens import KnownToken, is_token, principal_of, token_hash
from shared.clock import Clock
from shared.web import Principal

MAX_REMEMBERED: Final = 1_000

Lookup = Callable[[bytes], Awaitable[KnownToken | None]]
Verify = Callable[[str], Awaitable[Principal | None]]


class TokenCheck:
    """Verifies tokens; what was found valid is not looked up again for a few seconds.

    A revoked token is valid for at most that long. Tokens that nobody has are never remembered.

    Args:
        lookup: Finds what is kept of a token, by its hash.
        clock: Measures how long a token is remembered, and tells which have expired.
        remember_s: For how many seconds.
        otherwise: Verifies what has not the form of our own tokens (OIDC); None: nothing does.
    """

    def __init__(self, lookup: Lookup, *, clock: Clock, remember_s: float, otherwise: Verify | None = None) -> None:
        self._lookup = lookup
        self._clock = clock
        self._remember_s = remember_s
        self._otherwise = otherwise
        self._known: OrderedDict[bytes, tuple[float, KnownToken]] = OrderedDict()
        self._used: dict[str, datetime] = {}

    async def verify(self, token: str) -> Principal | None:
        """Whom a token belongs to; None where nobody has it.

        Raises:
            NotAuthenticated: It is revoked or has expired.
        """
        if not is_token(token):
            return None if self._otherwise is None else await self._otherwise(token)
        found = await self._find(token_hash(token))
        if found is None:
            return None
        now = self._clock.now()
        principal = principal_of(found, now)
        self._used[found.name] = now
        return principal

    async def _find(self, hashed: bytes) -> KnownToken | None:
        known = self._known.get(hashed)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        self._known.pop(hashed, None)
        found = await self._lookup(hashed)
        if found is not None:
            self._known[hashed] = (self._clock.monotonic() + self._remember_s, found)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return found

    def take_used(self) -> dict[str, datetime]:
        """When each token was used last, of those used since this was asked last."""
        used, self._used = self._used, {}
        return used
