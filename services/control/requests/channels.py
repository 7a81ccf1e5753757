"""Bodies and queries about channels."""

from __future__ import annotations

import uuid

from services.control.requests.fields import Arch, Limit, Name, Page, Reason, Reference, Request


class NewChannel(Request, frozen=True, kw_only=True):
    """A channel has one arch; channels of one name and several archs are followed together."""

    application: Reference
    name: Name
    arch: Arch


class Promotion(Request, frozen=True, kw_only=True):
    """``changeset`` is an id."""

    changeset: uuid.UUID
    reason: Reason | None = None


class ChannelsQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference | None = None
    name: Name | None = None
    arch: Arch | None = None


class HistoryQuery(Request, frozen=True, kw_only=True):
    """The newest promotions first."""

    limit: Limit = 100
