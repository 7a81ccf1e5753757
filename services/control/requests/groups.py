"""Bodies and queries about groups."""

from __future__ import annotations

import msgspec

from services.control.requests.fields import Name, Page, PolicyValues, Rank, Reference, Request, Selector


class NewGroup(Request, frozen=True, kw_only=True):
    """Groups are tried in the order of ``position``; without one the group goes behind the others."""

    application: Reference
    name: Name
    channel: Name
    selector: Selector = msgspec.field(default_factory=dict)
    policy: PolicyValues = msgspec.field(default_factory=dict)
    position: Rank | None = None
    updates_enabled: bool = True


class GroupPatch(Request, frozen=True, kw_only=True):
    """What is given changes; within ``policy`` a null takes a value back to its default (RFC 7396)."""

    channel: Name | msgspec.UnsetType = msgspec.UNSET
    selector: Selector | msgspec.UnsetType = msgspec.UNSET
    policy: PolicyValues | msgspec.UnsetType = msgspec.UNSET
    position: Rank | msgspec.UnsetType = msgspec.UNSET
    updates_enabled: bool | msgspec.UnsetType = msgspec.UNSET


class GroupsQuery(Page, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    application: Reference | None = None
    name: Name | None = None
    channel: Name | None = None
