"""A rollout as people watch it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from services.cli.text import ATTEMPT_STATES, cell, tally

ENDED: Final = frozenset({"completed", "aborted", "superseded"})
STOPPED: Final = ENDED | {"halted"}


def is_over(item: Mapping[str, Any]) -> bool:
    """Whether watching it further shows nothing without an operator."""
    return item["state"] in STOPPED


def number(value: Any) -> float | None:
    """A float of a verdict, which gives it as ``{"hex": ..., "repr": ...}``; plain numbers too."""
    if isinstance(value, Mapping) and isinstance(value.get("hex"), str):
        try:
            return float.fromhex(value["hex"])
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def evidence_line(item: Mapping[str, Any]) -> str:
    """The evidence: what halted it, or what the analysis counted last."""
    evidence = item["gate"].get("evidence") or {}
    ln_e, threshold = number(evidence.get("ln_e")), number(evidence.get("threshold"))
    if ln_e is not None and threshold is not None:
        return (
            f"ln E = {ln_e:.2f} against {threshold:.2f}: {cell(evidence.get('bad'))} bad of "
            f"{cell(evidence.get('started'))} started"
        )
    live = item.get("evidence")
    if not live or not live["started"]:
        return "nothing has started yet"
    return (
        f"ln E = {live['ln_e']:.2f} against {live['threshold']:.2f}: {live['started']} started, {live['good']} good, "
        f"{live['bad']} bad, {live['pending']} pending; bad rate {live['rate_lower']:.1%} to {live['rate_upper']:.1%}"
    )


def nodes_line(item: Mapping[str, Any]) -> str:
    """How many nodes have it, and of the others what keeps them."""
    nodes = item["nodes"]
    apart = [f"{nodes[name]} {name}" for name in ("quarantined", "silent", "cloned") if nodes[name]]
    return ", ".join(
        [f"{nodes['on_target']} of {nodes['total']} on {cell(item['version'])}", f"{nodes['left']} left", *apart]
    )


def pace_line(item: Mapping[str, Any]) -> str:
    """What is in flight against the paces."""
    gate = item["gate"]
    return (
        f"{item['group_in_flight']} of {item['pace']} in the group, "
        f"{item['changeset_in_flight']} of {gate['pace']} of the changeset"
    )


def lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, for one screen."""
    gate = item["gate"]
    gate_said = gate["reason"] or gate["braked_reason"]
    shown = [
        ("rollout", f"{cell(item['version'])} ({cell(item['arch'])}) to {cell(item['group_name'])}"),
        ("id", str(item["rollout_id"])),
        ("state", cell(item["state"]) + (f": {cell(item['reason'])}" if item["reason"] else "")),
        (
            "gate",
            cell(gate["state"])
            + (", braked" if gate["braked_reason"] else "")
            + (f": {cell(gate_said)}" if gate_said else ""),
        ),
        ("nodes", nodes_line(item)),
        ("in flight", pace_line(item) + (f", {item['parked']} parked" if item["parked"] else "")),
        ("attempts", tally(item["attempts"], ATTEMPT_STATES)),
        ("evidence", evidence_line(item)),
    ]
    if item["standstill"] is not None:
        shown.append(("stands still", f"{item['standstill']}: {item['explanation']}"))
    return shown


def news(item: Mapping[str, Any]) -> str:
    """One line that changes when something happened, for logs."""
    return f"{cell(item['state'])}: {nodes_line(item)}; in flight {pace_line(item)}; {evidence_line(item)}"
