"""Schemas of answers about rollouts."""

from __future__ import annotations

from typing import Final

from services.control import requests
from services.control.answers.fields import (
    ANY,
    COUNT,
    COUNTS,
    ID,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    object_of,
    or_null,
    ref,
    words,
)
from services.control.standstill import Standstill

_ROLLOUT_COMMON: Final[Schema] = {
    "rollout_id": ID,
    "group_id": ID,
    "group_name": TEXT,
    "changeset_id": ID,
    "version": TEXT,
    "arch": TEXT,
    "application_id": ID,
    "application": TEXT,
    "channel_id": or_null(ID),
    "state": words(*(state.value for state in requests.RolloutState)),
    "pace": COUNT,
    "reason": or_null(TEXT),
    "created_at": TIME,
    "changed_at": TIME,
    "attempts": COUNTS,
}
ANSWERS: Final[dict[str, Schema]] = {
    "RolloutListed": object_of(
        "One changeset to one group.",
        **_ROLLOUT_COMMON,
        gate_state=TEXT,
        braked_reason=or_null(TEXT),
        gate_pace=COUNT,
    ),
    "Rollout": object_of(
        "One changeset to one group; `in_flight` counts its own nodes, the others what the paces bound.",
        **_ROLLOUT_COMMON,
        policy=ANY,
        parameters=ref("RolloutParameters"),
        in_flight=COUNT,
        parked=COUNT,
        group_in_flight=COUNT,
        changeset_in_flight=COUNT,
        nodes=object_of(
            "The group's nodes of the arch: all, on the version, and of the others those that could still take it, are "
            "quarantined, silent, or cloned.",
            total=COUNT,
            on_target=COUNT,
            left=COUNT,
            quarantined=COUNT,
            silent=COUNT,
            cloned=COUNT,
        ),
        gate=ref("ChangesetGate"),
        verdict=or_null(ref("Verdict")),
        halt_verdict=or_null(ref("Verdict")),
        evidence=or_null(ref("Evidence")),
        standstill=or_null(words(*(word.value for word in Standstill))),
        explanation=or_null(TEXT),
    ),
    "Evidence": {
        **object_of(
            "What the analysis holds of the changeset now, over all groups: halted once `ln_e` reaches `threshold`.",
            started=COUNT,
            good=COUNT,
            bad=COUNT,
            pending=COUNT,
            ln_e=NUMBER,
            threshold=NUMBER,
            rate_lower=NUMBER,
            rate_upper=NUMBER,
        ),
        "additionalProperties": True,
    },
    "Verdict": object_of(
        "What the analysis decided at a place of the ledger; floats are given exactly, in hex too.",
        seq=COUNT,
        kind=TEXT,
        verdict=ANY,
        decided_at=TIME,
    ),
}
