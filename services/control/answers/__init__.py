"""The schemas of what the API answers, by name; a module per noun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.control.answers import (
    applications,
    approvals,
    changesets,
    channels,
    global_gate,
    groups,
    holds,
    keys,
    ledger,
    node_tokens,
    nodes,
    polls,
    reports,
    rollouts,
    service,
    status,
    tokens,
)
from services.control.answers.fields import Schema
from shared.errors import Fault

__all__ = ["ANSWERS", "merge"]


def merge(*parts: Mapping[str, Schema]) -> dict[str, Schema]:
    """All schemas in one.

    Raises:
        Fault: A name is defined twice.
    """
    merged: dict[str, Schema] = {}
    for part in parts:
        twice = sorted(merged.keys() & part.keys())
        if twice:
            raise Fault(f"the answer {twice[0]} is defined twice: give one of them another name")
        merged |= part
    return merged


ANSWERS: Final = merge(
    service.ANSWERS,
    global_gate.ANSWERS,
    applications.ANSWERS,
    changesets.ANSWERS,
    keys.ANSWERS,
    channels.ANSWERS,
    groups.ANSWERS,
    rollouts.ANSWERS,
    nodes.ANSWERS,
    holds.ANSWERS,
    polls.ANSWERS,
    node_tokens.ANSWERS,
    ledger.ANSWERS,
    reports.ANSWERS,
    status.ANSWERS,
    approvals.ANSWERS,
    tokens.ANSWERS,
)
