"""Who plays in the demo: how many canaries in which clusters, and what their gate can prove. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.domain import promotion
from shared.domain.gate import GateMode

CANARIES: Final = "canaries"
PRODUCTION: Final = "production"
CLUSTERS: Final = ("fra", "ams", "sin")
JUDGED_ALONE: Final = 64
"""From so many nodes on, the analysis judges a group's bad outcomes; a smaller one is braked at the first of them."""
_PROVABLE: Final = (0.1, 0.15, 0.2, 0.25, 0.3)
"""Bad rates that a gate of the demo may exclude, the best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The nodes, and the gate between the canaries and production.

    Attributes:
        canaries: By cluster.
        production: By cluster.
        gate: As a group's policy has it.
        gate_said: What the gate asks for, for people.
    """

    canaries: Mapping[str, int]
    production: Mapping[str, int]
    gate: Mapping[str, Any]
    gate_said: str

    @property
    def canary_nodes(self) -> int:
        """Canaries of all clusters."""
        return sum(self.canaries.values())

    @property
    def production_nodes(self) -> int:
        """Nodes of production in all clusters."""
        return sum(self.production.values())

    @property
    def nodes(self) -> int:
        """All of them."""
        return self.canary_nodes + self.production_nodes

    @property
    def halted_by_evidence(self) -> bool:
        """Whether the canaries are enough for a halt; fewer are braked by the first bad one, until somebody looks."""
        return self.canary_nodes >= JUDGED_ALONE


def cast(nodes: int, *, soak_s: float) -> Cast:
    """Divide a fleet into canaries and production, over three clusters, and choose the gate that so many can open.

    Args:
        nodes: All of them, at least 20.
        soak_s: How long a release soaks on the canaries, in seconds.
    """
    # In a small fleet half of it, so that a bad release hardly misses all of them.
    pooled = max(JUDGED_ALONE + 2, nodes * 22 // 100) if nodes >= 200 else max(nodes * 3 // 10, min(nodes // 2, 20))
    # Some of them may be bad or late: what takes nearly all of them would wait for the last one.
    rate = next((p1 for p1 in _PROVABLE if (promotion.nodes_needed(0, p1) or nodes) <= 0.85 * pooled), None)
    gate: dict[str, Any] = {"groups": [CANARIES], "soak_s": soak_s}
    if rate is not None:
        needed = promotion.nodes_needed(0, rate)
        gate |= {"mode": GateMode.PROOF.value, "max_bad_rate": rate, "nodes": needed}
        said = (
            f"evidence against a bad rate of {rate:.0%} ({needed} good canaries of {pooled}) and a soak of {soak_s:g} s"
        )
    else:
        enough = max(1, pooled // 2)
        gate |= {"mode": GateMode.TIME.value, "nodes": enough}
        said = (
            f"a soak of {soak_s:g} s on {enough} canaries and no bad one: {pooled} canaries are too few to prove much, "
            f"they exclude only bad rates above {promotion.excluded_rate(enough):.0%}"
        )
    return Cast(canaries=_over_clusters(pooled), production=_over_clusters(nodes - pooled), gate=gate, gate_said=said)


def _over_clusters(nodes: int) -> dict[str, int]:
    share, rest = divmod(nodes, len(CLUSTERS))
    return {name: share + (number < rest) for number, name in enumerate(CLUSTERS)}
