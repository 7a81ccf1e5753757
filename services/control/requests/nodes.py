"""Bodies and queries about nodes."""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, TypeAlias

import msgspec

from services.control.requests.fields import (
    Arch,
    Cursor,
    FactName,
    FactValue,
    Limit,
    MachineId,
    NodeState,
    Reason,
    Reference,
    Request,
    Seq,
    SortedPage,
    Version,
)

FactFilter: TypeAlias = Annotated[
    str, msgspec.Meta(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}=[^\x00-\x1f\x7f]{1,128}\Z")
]


class NodeSort(enum.StrEnum):
    """By what a list of nodes is sorted."""

    NODE_ID = "node_id"
    LAST_CONTACT = "last_contact"
    VERSION = "version"
    MACHINE = "machine"


class Dialect(enum.StrEnum):
    """How a node asks for updates."""

    OMAHA = "omaha"
    NATIVE = "native"
    CINCINNATI = "cincinnati"


class Lift(Request, frozen=True, kw_only=True):
    """Which changeset may be offered to the node again, and why."""

    changeset: uuid.UUID
    reason: Reason


class NodesQuery(SortedPage, frozen=True, kw_only=True):
    """The filters hold together.

    ``state`` is that of the node's last attempt. ``fact`` is ``name=value``; several must all hold. ``stuck`` are
    those ``staged`` for over a week, ``silent`` for over a day, ``stranded`` with nothing left to offer, or ``parked``.
    ``prefix`` is how the machine id or the alias begins; ``machine`` and ``alias`` are exact.
    """

    application: Reference | None = None
    group: uuid.UUID | None = None
    version: Version | None = None
    arch: Arch | None = None
    machine: MachineId | None = None
    alias: MachineId | None = None
    prefix: MachineId | None = None
    state: NodeState | None = None
    dialect: Dialect | None = None
    cloned: bool | None = None
    gone: bool | None = None
    quarantined: bool | None = None
    quarantined_for: uuid.UUID | None = None
    stuck: bool = False
    staged: bool = False
    silent: bool = False
    stranded: bool = False
    parked: bool = False
    fact: Annotated[tuple[FactFilter, ...], msgspec.Meta(max_length=8)] = ()
    sort: NodeSort = NodeSort.NODE_ID


class NodeHistoryQuery(Request, frozen=True, kw_only=True):
    """The newest first; ``cursor`` is the ``next`` of the page before."""

    limit: Limit = 100
    cursor: Seq | None = None


class NodeName(Request, frozen=True, kw_only=True):
    """What operators call the node; null takes the name away."""

    alias: MachineId | None
    reason: Reason = "named by an operator"


class NodesGone(Request, frozen=True, kw_only=True):
    """Machines that were taken away on purpose, as by an autoscaler."""

    application: Reference
    machines: Annotated[tuple[MachineId, ...], msgspec.Meta(min_length=1, max_length=2_000)]
    reason: Reason


class ImportedNode(Request, frozen=True, kw_only=True):
    """What is said of one machine: facts that it does not tell itself (null takes one away), and its name."""

    machine: MachineId
    facts: Annotated[dict[FactName, FactValue | None], msgspec.Meta(max_length=32)] = msgspec.field(
        default_factory=dict
    )
    alias: Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*\Z")] | None = None


class NodesImport(Request, frozen=True, kw_only=True):
    """Facts of many machines; one transaction. Machines that were never heard of are counted and left out."""

    application: Reference
    nodes: Annotated[tuple[ImportedNode, ...], msgspec.Meta(min_length=1, max_length=2_000)]
    reason: Reason = "facts imported"


class QuarantinesQuery(Request, frozen=True, kw_only=True):
    """``group`` and ``changeset`` are ids."""

    limit: Limit = 100
    cursor: Cursor | None = None
    application: Reference | None = None
    group: uuid.UUID | None = None
    changeset: uuid.UUID | None = None


class QuarantinesLift(Request, frozen=True, kw_only=True):
    """Lifts the quarantine of a changeset from the machines named, or with none named from up to 2,000 of all."""

    application: Reference
    changeset: uuid.UUID
    machines: Annotated[tuple[MachineId, ...], msgspec.Meta(max_length=2_000)] = ()
    reason: Reason


class StagedButHaltedQuery(Request, frozen=True, kw_only=True):
    """``group`` and ``changeset`` are ids."""

    application: Reference | None = None
    group: uuid.UUID | None = None
    changeset: uuid.UUID | None = None
