"""Queries for reports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

from services.control.requests.fields import Name, Reference, Request, Seq

Days: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=3_650)]
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class ComplianceQuery(Request, frozen=True, kw_only=True):
    """``application`` is a name or an id; ``latency_days`` is how far back commits are looked at."""

    within_days: Days = 14
    latency_days: Days = 90
    application: Reference | None = None


class AuditQuery(Request, frozen=True, kw_only=True):
    """From ``since`` on, before ``until``, by ledger time; ``by`` is one operator's name."""

    since: Moment | None = None
    until: Moment | None = None
    by: Name | None = None
    after: Seq = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 500
