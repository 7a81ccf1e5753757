"""Gates: a rollout waits until its changeset has soaked elsewhere."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

GroupName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class GateMode(enum.StrEnum):
    """What a gate asks for."""

    PROOF = "proof"
    """Promotion evidence: enough good nodes to exclude that the rate of bad ones reaches ``max_bad_rate``."""
    TIME = "time"
    """So long, on so many nodes, none bad; says little, so that the rollout behind it starts at a pace of 1."""


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must have happened on other groups before a rollout to this one begins.

    Attributes:
        groups: Groups of the same application whose nodes count together: the canaries of all clusters, say.
        soak_s: How long, in seconds, since the first of those nodes committed it.
        nodes: On how many committed nodes at least.
        max_bad_rate: p1, the rate of bad outcomes that mode ``proof`` has to exclude (E' >= 20).
        predecessor: Whether soaking of the predecessor by the version scheme counts (beta M.1.x for stable M.2.0).
    """

    groups: Annotated[tuple[GroupName, ...], msgspec.Meta(min_length=1, max_length=64)]
    soak_s: Annotated[float, msgspec.Meta(ge=0, le=90 * 86_400)] = 86_400.0
    nodes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    mode: GateMode = GateMode.PROOF
    max_bad_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    predecessor: bool = True
