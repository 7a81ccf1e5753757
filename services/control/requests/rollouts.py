"""Bodies and queries about rollouts."""

from __future__ import annotations

import enum
import uuid
from typing import Annotated

import msgspec

from services.control.requests.fields import Because, Reference, SortedPage
from shared.domain.rollout import Purpose, RolloutState


class RolloutSort(enum.StrEnum):
    """What rollouts are sorted by."""

    CREATED = "created"
    CHANGED = "changed"
    GROUP = "group"


class RolloutsQuery(SortedPage, frozen=True, kw_only=True):
    """``active``: only those that are not completed, aborted or superseded."""

    sort: RolloutSort = RolloutSort.CREATED
    application: Reference | None = None
    state: RolloutState | None = None
    group: uuid.UUID | None = None
    changeset: uuid.UUID | None = None
    active: bool | None = None
    purpose: Purpose | None = None


class NodesThatTookIt(enum.StrEnum):
    """What becomes of the nodes that took an aborted rollout's changeset."""

    KEEP = "keep"
    REVERT = "revert"


class Abort(Because, frozen=True, kw_only=True):
    """``revert`` brings the nodes that took it back to what their channel had before, as a rollout of its own."""

    nodes: NodesThatTookIt = NodesThatTookIt.KEEP


class Widening(Because, frozen=True, kw_only=True):
    """``fraction``: the share of the group to let in; without one the next wave begins."""

    fraction: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


class PaceCap(Because, frozen=True, kw_only=True):
    """``pace``: the most nodes of the group in flight, below what the analysis allows; null takes the cap away."""

    pace: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None


class OneNode(Because, frozen=True, kw_only=True):
    """``node``: its id, or its machine id."""

    node: Reference
