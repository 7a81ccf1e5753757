"""Queries about the ledger."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.control.requests.fields import Request, Seq


class EventsQuery(Request, frozen=True, kw_only=True):
    """Events with a seq greater than ``after``; the filters hold together."""

    after: Seq = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    type: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=128)], ...], msgspec.Meta(max_length=32)] = ()
    subject: Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")] | None = None
    correlation: Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")] | None = None


class VerifyQuery(Request, frozen=True, kw_only=True):
    """Verifies the chain from the event after ``after`` on."""

    after: Seq = 0
