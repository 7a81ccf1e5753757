"""Bodies and queries about groups."""

from __future__ import annotations

import enum
from typing import Annotated, TypeAlias

import msgspec

from services.control.requests.fields import (
    Limit,
    MachineId,
    Name,
    PolicyValues,
    Rank,
    Reason,
    Reference,
    Request,
    Selector,
    SortedPage,
    Version,
)

Contact: TypeAlias = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Machines: TypeAlias = Annotated[tuple[MachineId, ...], msgspec.Meta(max_length=5_000)]


class NewGroup(Request, frozen=True, kw_only=True):
    """Groups are tried in the order of ``position``; without one the group goes before the one that takes every node.

    It follows ``channel``, or ``pinned_version`` where one is given. ``nodes`` belong to it whatever their facts are;
    with ``explicit_only`` they are its only ones.
    """

    application: Reference
    name: Name
    channel: Name | None = None
    pinned_version: Version | None = None
    selector: Selector = msgspec.field(default_factory=dict)
    explicit_only: bool = False
    nodes: Machines = ()
    policy: PolicyValues = msgspec.field(default_factory=dict)
    position: Rank | None = None
    updates_enabled: bool = True
    owner: Contact = ""
    contact: Contact = ""


class Choosing(Request, frozen=True, kw_only=True):
    """What decides which nodes a group has; what is not given stays as it is."""

    selector: Selector | msgspec.UnsetType = msgspec.UNSET
    explicit_only: bool | msgspec.UnsetType = msgspec.UNSET
    position: Rank | msgspec.UnsetType = msgspec.UNSET
    add_nodes: Machines = ()
    remove_nodes: Machines = ()


class GroupPatch(Choosing, frozen=True, kw_only=True):
    """What is given changes; within ``policy`` a null takes a value back to its default (RFC 7396).

    A null takes ``pinned_version`` or ``channel`` away; one of the two must stay.
    """

    channel: Name | msgspec.UnsetType | None = msgspec.UNSET
    pinned_version: Version | msgspec.UnsetType | None = msgspec.UNSET
    policy: PolicyValues | msgspec.UnsetType = msgspec.UNSET
    updates_enabled: bool | msgspec.UnsetType = msgspec.UNSET
    owner: Contact | msgspec.UnsetType = msgspec.UNSET
    contact: Contact | msgspec.UnsetType = msgspec.UNSET


class GroupOrder(Request, frozen=True, kw_only=True):
    """All groups of an application, by name or id, in the order in which they are to be tried."""

    application: Reference
    groups: Annotated[tuple[Reference, ...], msgspec.Meta(min_length=1, max_length=1_000)]


class GroupRemoval(Request, frozen=True, kw_only=True):
    """Why a group goes; stands in the event."""

    reason: Reason


class GroupSort(enum.StrEnum):
    """What groups are sorted by."""

    CREATED = "created"
    NAME = "name"
    POSITION = "position"


class GroupsQuery(SortedPage, frozen=True, kw_only=True):
    """``application`` is a name or an id."""

    sort: GroupSort = GroupSort.CREATED
    application: Reference | None = None
    name: Name | None = None
    channel: Name | None = None
    owner: Contact | None = None


class NamedNodesQuery(Request, frozen=True, kw_only=True):
    """``cursor`` is the ``next`` of the page before."""

    limit: Limit = 100
    cursor: MachineId | None = None
