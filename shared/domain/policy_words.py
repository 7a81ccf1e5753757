"""A policy in words: what every field of it means, what it is now, and what it would be by default."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

import msgspec

from shared.domain.policy import Policy

SENTENCES: Final = MappingProxyType(
    {
        "allowed_bad_rate": "A changeset is halted once the evidence says that its nodes roll back or fall "
        "silent more often than this share.",
        "false_halt_chance": "The chance that a changeset which keeps to the allowed rate is halted all the "
        "same, over its whole life.",
        "concurrency": "The most nodes in flight with one changeset, over all groups; null: 500, or 5 % of "
        "the fleet where that is more.",
        "fleet_fraction": "The most nodes in flight as a share of the fleet; where concurrency is given too, "
        "the smaller holds.",
        "hold_budget": "The bad nodes in flight that are accepted before anything is known; null: 10, or "
        "0.05 % of the fleet where that is more.",
        "group_concurrency": "The most nodes of this group in flight; null: no further limit.",
        "poll_interval_s": "How often nodes are told to poll, in seconds; stock clients only let it slow them down.",
        "contact_overdue_s": "A staged node that has not been heard for this many seconds counts as having "
        "begun its reboot.",
        "silence_deadline_s": "A node that has begun its reboot and has not been heard for this many seconds "
        "counts as bad.",
        "offer_deadline_s": "An offer without progress for this many seconds is taken back; it counts neither way.",
        "park_after_s": "A staged node that has awaited its reboot for this many seconds leaves the pace.",
        "max_attempts": "How often a node is offered a changeset that it fails to fetch or to install.",
        "retry_after_s": "The pause in seconds after a failed attempt; doubles with each further one.",
        "probation_s": "How many seconds a node of our own agent proves itself in the new slot before it commits.",
        "waves": "Shares of the group that are offered a changeset one after the other, each with the time "
        "that it soaks; none: the whole group from the start.",
        "gates": "What must have soaked on which other groups before a rollout to this one begins; none: it "
        "begins at once.",
        "windows": "When updates are offered, in which time zone, and on which days never; none: always.",
        "approval": "Whether a rollout waits until an approver lets it begin.",
        "order": "The fact and its values by which nodes come one after the other; null: in no order.",
        "failure_domain": "A fact of which at most one node with the same value is in flight; null: no such limit.",
        "download_rate": "Bytes per second that each node may download at; null: as fast as it can.",
        "ondemand_jumps_waves": "Whether a check by hand on the node passes waves and windows; it never passes a halt.",
        "downgrade": "Whether nodes on a withdrawn changeset are brought back to the one before it.",
        "severity": "How loudly a halt is told: page, ticket or notice.",
        "four_eyes": "What an operator may not do without an approver.",
        "expedition": "How far a security fix may be expedited: which share of soak stays, how wide it "
        "begins, and whether windows are passed.",
    }
)
"""A sentence for every field of `Policy`."""


def explain(policy: Policy) -> dict[str, dict[str, Any]]:
    """Every field with its value, its default, whether it differs from that, and what it means."""
    values: dict[str, Any] = msgspec.to_builtins(policy)
    defaults: dict[str, Any] = msgspec.to_builtins(Policy())
    return {
        name: {
            "value": value,
            "default": defaults[name],
            "changed": value != defaults[name],
            "means": SENTENCES[name],
        }
        for name, value in values.items()
    }
