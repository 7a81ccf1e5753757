"""Bodies and queries about holds."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec

from services.control.requests.fields import FactName, FactValue, Page, Reason, Reference, Request


class NewHold(Request, frozen=True, kw_only=True):
    """No more of the changeset for the nodes of a segment, those included that do not tell one of its facts."""

    segment: Annotated[dict[FactName, FactValue], msgspec.Meta(min_length=1, max_length=8)]
    reason: Reason


class HoldsQuery(Page, frozen=True, kw_only=True):
    """``in_force`` leaves out those that were released."""

    application: Reference | None = None
    changeset: uuid.UUID | None = None
    in_force: bool | None = None
