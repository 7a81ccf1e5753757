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
    apart = [f"{nodes[name]} {name}" for name in ("quarantined", "excluded", "silent", "cloned") if nodes[name]]
    return ", ".join(
        [f"{nodes['on_target']} of {nodes['total']} on {cell(item['version'])}", f"{nodes['left']} left", *apart]
    )


def pace_line(item: Mapping[str, Any]) -> str:
    """What is in flight against the paces."""
    gate = item["gate"]
    capped = item["pace"] if item["pace_cap"] is None else min(item["pace"], item["pace_cap"])
    return (
        f"{item['group_in_flight']} of {capped} in the group, "
        f"{item['changeset_in_flight']} of {gate['pace']} of the changeset"
    )


def lines(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, for one screen."""
    gate = item["gate"]
    gate_said = gate["reason"] or gate["braked_reason"]
    shown = [
        ("rollout", f"{cell(item['version'])} ({cell(item['arch'])}) to {cell(item['group_name'])}"),
        ("id", str(item["rollout_id"])),
        ("state", cell(item["shown"]) + (f": {cell(item['reason'])}" if item["reason"] else "")),
        *_purpose(item),
        *_waiting(item),
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
        *_stopped(item),
    ]
    if item["standstill"] is not None:
        shown.append(("stands still", f"{item['standstill']}: {item['explanation']}"))
    return shown


def whom(item: Mapping[str, Any]) -> str:
    """Whom to tell of a halt, and how loudly."""
    named = " ".join(cell(part) for part in (item["group_owner"], item["group_contact"]) if part) or "nobody is named"
    return f"{named}, {cell(item['severity'])}" if item["severity"] else named


def _stopped(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a rollout that is halted or braked: whom to tell and how loudly, and what will boot it all the same."""
    gate = item["gate"]
    if gate["state"] == "open" and not gate["braked_reason"] and item["shown"] not in ("halted", "held", "braked"):
        return []
    found = [("tell", whom(item))]
    if item["staged_but_halted"]:
        found.append(("will boot it", f"{item['staged_but_halted']} nodes, at their next reboot"))
    return found


def _purpose(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    if item["purpose"] == "update":
        return []
    leaves = f", from {cell(item['leaves_version'])}" if item["leaves_version"] else ""
    machines = f", only {cell(item['only_machines'])}" if item["only_machines"] else ""
    return [("purpose", cell(item["purpose"]) + leaves + machines)]


def _waiting(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    if item["fraction"] < 1:
        found.append(("wave", f"{item['wave'] + 1}, {item['fraction']:.0%} of the group"))
    if item["waits_for"]:
        found.append(("waits for", "; ".join(cell(reason) for reason in item["waits_for"])))
    if item["until"] is not None:
        found.append(("until", f"{cell(item['until'])} at the earliest"))
    if item["eta"] is not None:
        found.append(("done by", f"{cell(item['eta'])}, as it went lately"))
    if item["expedited_by"] is not None:
        found.append(("expedited", f"by {cell(item['expedited_by'])}: {cell(item['expedite_reason'])}"))
    if item["approved_by"] is not None:
        found.append(("approved", f"by {cell(item['approved_by'])}"))
    if item["excluded"]:
        found.append(("excluded", cell([node["machine_id"] or node["node_id"] for node in item["excluded"]])))
    return found


GATE_COLUMNS: Final[Mapping[str, Any]] = {
    "gate": lambda gate: "open" if gate["open"] else "shut",
    "looks at": "subject",
    "has seen": "seen",
    "waits for": lambda gate: "; ".join(gate["waits_for"]),
    "until": "until",
    "evidence": lambda gate: (
        gate["excludes"]
        if gate["ln_e"] is None
        else f"{gate['excludes']}: ln E' {gate['ln_e']:.2f} against {gate['threshold']:.2f}"
    ),
}
"""What a gate has seen, what it waits for, and until when."""


def would(event: Mapping[str, Any]) -> str:
    """An event that a dry run would have made."""
    return f"would: {cell(event['type'])} {cell(event['subject'])}"


def news(item: Mapping[str, Any]) -> str:
    """One line that changes when something happened, for logs."""
    waits = f"; waits for {'; '.join(cell(reason) for reason in item['waits_for'])}" if item["waits_for"] else ""
    return f"{cell(item['shown'])}: {nodes_line(item)}; in flight {pace_line(item)}; {evidence_line(item)}{waits}"
