"""Bodies and queries about channels."""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, TypeAlias

import msgspec

from services.control.requests.fields import (
    Arch,
    Limit,
    Name,
    Reason,
    Reference,
    Request,
    SortedPage,
    Stability,
    TestName,
)

Demands: TypeAlias = Annotated[tuple[TestName, ...], msgspec.Meta(max_length=32)]


class NewChannel(Request, frozen=True, kw_only=True):
    """A channel has one arch; channels of one name and several archs are followed together.

    ``position`` is its stability, a lower one is less stable; left out it follows from the name: alpha 0, beta 1,
    lts 3, all others 2. ``required_attestations`` names the tests that must have passed before a promotion.
    """

    application: Reference
    name: Name
    arch: Arch
    position: Stability | msgspec.UnsetType = msgspec.UNSET
    required_attestations: Demands | msgspec.UnsetType = msgspec.UNSET


class ChannelPatch(Request, frozen=True, kw_only=True):
    """What is given changes."""

    position: Stability | msgspec.UnsetType = msgspec.UNSET
    required_attestations: Demands | msgspec.UnsetType = msgspec.UNSET


class Promotion(Request, frozen=True, kw_only=True):
    """``changeset`` is an id.

    ``override_reason``: promote although attestations are missing; by approvers. With ``force_scheme`` also a version
    that its scheme calls less stable than the channel.
    """

    changeset: uuid.UUID
    reason: Reason | None = None
    override_reason: Reason | None = None
    force_scheme: bool = False


class ChannelSort(enum.StrEnum):
    """What channels are sorted by; by position, the least stable is first."""

    POSITION = "position"
    NAME = "name"
    CHANGED = "changed"


class ChannelsQuery(SortedPage, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    sort: ChannelSort = ChannelSort.POSITION
    application: Reference | None = None
    name: Name | None = None
    arch: Arch | None = None


class HistoryQuery(Request, frozen=True, kw_only=True):
    """The newest promotions first."""

    limit: Limit = 100
