"""Bearer tokens (RFC 6750): who asks. What they may do is the routes' own rule."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from shared.errors import NotAuthenticated
from shared.web.problems import Handler

# RFC 6750 2.1, b64token, of a length that no honest token exceeds: signed ones hold claims.
_BEARER: Final = re.compile(r"bearer +(?P<token>[A-Za-z0-9\-._~+/]{1,8000}=*)", re.IGNORECASE)


class Role(enum.StrEnum):
    """What somebody may do; each role may do all that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what ``needed`` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a token belongs to.

    Attributes:
        name: For the record of who did what.
        role: What it may do.
        applications: The ids of the applications that it is for; None: all.
    """

    name: str
    role: Role = Role.VIEWER
    applications: frozenset[str] | None = None


PRINCIPAL: Final = web.RequestKey("PRINCIPAL", Principal)


def bearer_auth_middleware(
    verify: Callable[[str], Awaitable[Principal | None]],
    *,
    is_public: Callable[[web.Request], bool] | None = None,
) -> Middleware:
    """Lets a request pass whose token ``verify`` knows, with ``request[PRINCIPAL]`` set.

    Args:
        verify: Gets the token, returns whom it belongs to or None; it may raise NotAuthenticated where it can say more.
            It must compare in constant time: by ``hmac.compare_digest``, or by looking up the token's hash.
        is_public: Requests for which no token is asked.
    """

    @web.middleware
    async def bearer_auth(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_public is not None and is_public(request):
            return await handler(request)
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is None:
            raise NotAuthenticated("send a token as `Authorization: Bearer <token>`")
        match = _BEARER.fullmatch(header.strip())
        principal = None if match is None else await verify(match["token"])
        if principal is None:
            raise NotAuthenticated("this token is not valid here; see that it is complete and not revoked")
        request[PRINCIPAL] = principal
        return await handler(request)

    return bearer_auth
