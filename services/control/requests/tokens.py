"""Bodies and queries about operators' tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

from services.control.requests.fields import Limit, Reason, Reference, Request
from shared.web import Role

# Stands in paths and in events; names of OIDC principals have a colon, so that no token can pass for one.
TokenName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")]
# Those made before names were bounded, and on the server's own command line.
TokenReference: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*\Z")]
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class NewToken(Request, frozen=True, kw_only=True):
    """``applications``: the only ones it may have to do with, by name or id; absent: all."""

    name: TokenName
    role: Role = Role.VIEWER
    applications: Annotated[tuple[Reference, ...], msgspec.Meta(min_length=1, max_length=64)] | None = None
    expires_at: Moment | None = None


class Rotation(Request, frozen=True, kw_only=True):
    """``expires_at``: absent, it ends when it did before."""

    reason: Reason
    expires_at: Moment | None = None


class TokensQuery(Request, frozen=True, kw_only=True):
    """``cursor`` is the ``next`` of the page before."""

    limit: Limit = 100
    cursor: TokenReference | None = None
