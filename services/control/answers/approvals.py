"""Schemas of answers about approvals."""

from __future__ import annotations

from typing import Final

from services.control.answers.fields import ANY, ID, TEXT, TIME, Schema, object_of, or_null, words
from services.control.approving import ApprovalState
from shared.domain.policy import Action

ANSWERS: Final[dict[str, Schema]] = {
    "Approval": object_of(
        "What one asked for and another one has to allow; `request` is what may be done once it is approved.",
        approval_id=ID,
        subject=TEXT,
        action=words(*(action.value for action in Action)),
        request=ANY,
        reason=TEXT,
        asked_by=TEXT,
        asked_at=TIME,
        expires_at=TIME,
        state=words(*(state.value for state in ApprovalState)),
        decided_by=or_null(TEXT),
        decided_at=or_null(TIME),
        decision_reason=or_null(TEXT),
    ),
}
