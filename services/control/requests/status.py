"""Queries about the whole."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.control.requests.fields import Reference, Request


class StatusQuery(Request, frozen=True, kw_only=True):
    """``application`` is a name or an id; so many ``rollouts`` at most, those that need somebody first."""

    application: Reference | None = None
    rollouts: Annotated[int, msgspec.Meta(ge=0, le=200)] = 30
