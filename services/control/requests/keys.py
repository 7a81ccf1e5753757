"""Queries about signing keys."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.control.requests.fields import Limit, Request


class KeyListsQuery(Request, frozen=True, kw_only=True):
    """Lists with a version greater than ``after``."""

    after: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] = 0
    limit: Limit = 100
