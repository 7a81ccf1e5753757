"""Queries about rollouts."""

from __future__ import annotations

import uuid

from services.control.requests.fields import Page
from shared.domain.rollout import RolloutState


class RolloutsQuery(Page, frozen=True, kw_only=True):
    """``active``: only those that are not completed, aborted or superseded."""

    state: RolloutState | None = None
    group: uuid.UUID | None = None
    changeset: uuid.UUID | None = None
    active: bool | None = None
