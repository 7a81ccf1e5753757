"""Queries about approvals."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.control.approving import ApprovalState
from services.control.requests.fields import Page
from shared.domain.policy import Action


class ApprovalsQuery(Page, frozen=True, kw_only=True):
    """The filters hold together; ``subject`` is written as in events, like ``channels/<id>``."""

    state: ApprovalState | None = None
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*\Z")] | None = None
    action: Action | None = None
