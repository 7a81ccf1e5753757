"""Bodies and queries about nodes."""

from __future__ import annotations

import uuid

from services.control.requests.fields import NodeState, Page, Reason, Reference, Request, Version


class Lift(Request, frozen=True, kw_only=True):
    """Which changeset may be offered to the node again, and why."""

    changeset: uuid.UUID
    reason: Reason


class NodesQuery(Page, frozen=True, kw_only=True):
    """``state`` is that of the node's last attempt."""

    application: Reference | None = None
    group: uuid.UUID | None = None
    version: Version | None = None
    machine: Reference | None = None
    state: NodeState | None = None
    cloned: bool | None = None
