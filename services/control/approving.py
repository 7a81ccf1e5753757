"""Four eyes: what one asks for and another one allows. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.domain.policy import Action
from shared.errors import Conflict


class ApprovalState(enum.StrEnum):
    """Where an approval is: ``open`` waits for a decision, ``approved`` for its use."""

    OPEN = "open"
    APPROVED = "approved"
    REFUSED = "refused"
    USED = "used"
    EXPIRED = "expired"


class ApprovalWanted(Exception):  # noqa: N818  # no error: the request is kept, and answered with 202
    """Ends the transaction of a request that needs another pair of eyes.

    Args:
        action: What may not be done alone.
        subject: What it is about, as events name it.
        reason: Why it is asked for.
    """

    def __init__(self, action: Action, subject: str, reason: str) -> None:
        super().__init__(f"{action.value} of {subject} needs an approval")
        self.action = action
        self.subject = subject
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What was asked for, by whom: an approval allows exactly this."""

    action: str
    subject: str
    request: Mapping[str, Any]
    asked_by: str


def needs_approval(action: Action, policies: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any of the groups' policies, as they are stored, wants four eyes for an action."""
    return any(action.value in policy.get("four_eyes", ()) for policy in policies)


def state_of(*, verdict: str | None, expires_at: datetime, now: datetime) -> ApprovalState:
    """Where an approval is."""
    if verdict in (ApprovalState.REFUSED, ApprovalState.USED):
        return ApprovalState(verdict)
    if expires_at <= now:
        return ApprovalState.EXPIRED
    return ApprovalState.OPEN if verdict is None else ApprovalState(verdict)


_CANNOT_BE_USED = {
    ApprovalState.OPEN: "is not decided yet: an approver decides it with `uneventful approval approve`",
    ApprovalState.REFUSED: "was refused",
    ApprovalState.USED: "was used already: ask again without it",
    ApprovalState.EXPIRED: "has expired: ask again without it",
}


def check_usable(there: Ask, wanted: Ask, state: ApprovalState) -> None:
    """Whether an approval allows what is wanted now.

    Raises:
        Conflict: It is another one's, for something else, or not approved.
    """
    if there.asked_by != wanted.asked_by:
        raise Conflict(f"this approval was asked for by {there.asked_by}: each asks for their own")
    if (there.action, there.subject, there.request) != (wanted.action, wanted.subject, wanted.request):
        raise Conflict(
            f"this approval is for {there.action} of {there.subject}, with other content: "
            "ask again without it, and let that be approved"
        )
    if state is not ApprovalState.APPROVED:
        raise Conflict(f"this approval {_CANNOT_BE_USED[state]}")


def check_decidable(*, asked_by: str, decided_by: str, state: ApprovalState) -> None:
    """Whether somebody may decide an approval.

    Raises:
        Conflict: It is decided or expired, or the same one asked for it.
    """
    if state is not ApprovalState.OPEN:
        raise Conflict(f"this approval is {state.value}: there is nothing left to decide")
    if asked_by == decided_by:
        raise Conflict("you asked for this yourself: another approver decides it")
