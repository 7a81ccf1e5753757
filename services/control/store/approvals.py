"""Approvals: what needs four eyes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from services.control import requests
from services.control.acting import ACTING, Acting, about
from services.control.approving import (
    ApprovalState,
    ApprovalWanted,
    Ask,
    check_decidable,
    check_usable,
    needs_approval,
    state_of,
)
from services.control.store.base import Connection, Database, Row, one, rows_of, value_of
from shared.db import Queries
from shared.domain.policy import Action
from shared.errors import Conflict, NotFound
from shared.events import types
from shared.ledger import append

QUERIES: Final = Queries.load("services.control.store", "approvals.sql")
VALID_FOR: Final = timedelta(hours=24)
"""From the asking to the use."""


class Approvals:
    """What one asked for and another one has to allow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, wanted: ApprovalWanted) -> Row:
        """Keep what the request at hand asks for, with its event; the same asked twice is one approval."""
        acting = ACTING.get()
        if acting is None:
            raise Conflict("only a request can ask for an approval")
        ask = _ask(acting, wanted.action.value, wanted.subject)
        now = self._database.clock.now()
        async with self._database.plain() as connection:
            known = await connection.fetchval(
                QUERIES["approval_asked"], ask.action, ask.subject, ask.asked_by, ask.request, now
            )
            if known is not None:
                return await self.get(known, connection)
            approval_id = self._database.ids.uuid7()
            await connection.execute(
                QUERIES["add_approval"],
                approval_id,
                ask.subject,
                ask.action,
                ask.request,
                wanted.reason,
                ask.asked_by,
                now,
                now + VALID_FOR,
            )
            data = types.ApprovalMoved(
                approval_id=str(approval_id),
                subject=ask.subject,
                action=ask.action,
                by=ask.asked_by,
                reason=wanted.reason,
            )
            asked = self._database.event(data, f"approvals/{approval_id}", type="approval.asked.v1")
            await append(connection, [asked])
            return await self.get(approval_id, connection)

    async def decide(self, approval_id: uuid.UUID, *, allow: bool, reason: str, by: str) -> Row:
        """Allow or refuse what somebody else asked for.

        Raises:
            NotFound: There is no such approval.
            Conflict: It is decided or expired, or ``by`` asked for it.
        """
        about(f"approvals/{approval_id}")
        verdict = ApprovalState.APPROVED if allow else ApprovalState.REFUSED
        async with self._database.plain() as connection:
            row = await connection.fetchrow(QUERIES["lock_approval"], approval_id)
            if row is None:
                raise NotFound(f"there is no approval {approval_id}")
            check_decidable(asked_by=row["asked_by"], decided_by=by, state=self._state(row))
            await connection.execute(QUERIES["decide_approval"], approval_id, verdict.value, by, reason)
            data = types.ApprovalMoved(
                approval_id=str(approval_id),
                subject=row["subject"],
                action=row["action"],
                by=by,
                reason=reason,
                verdict=verdict.value,
            )
            decided = self._database.event(data, f"approvals/{approval_id}", type="approval.decided.v1")
            await append(connection, [decided])
            return await self.get(approval_id, connection)

    async def get(self, approval_id: uuid.UUID, connection: Connection | None = None) -> Row:
        """One approval.

        Raises:
            NotFound: There is none.
        """
        place = self._database.pool if connection is None else connection
        row = await place.fetchrow(QUERIES["approval"], approval_id, self._database.clock.now())
        if row is None:
            raise NotFound(f"there is no approval {approval_id}")
        return one(row)

    async def listing(self, asked: requests.ApprovalsQuery) -> list[Row]:
        """Approvals, the newest first."""
        return rows_of(
            await self._database.pool.fetch(
                QUERIES["approvals"],
                asked.cursor,
                asked.limit,
                self._database.clock.now(),
                value_of(asked.state),
                asked.subject,
                None if asked.action is None else asked.action.value,
            )
        )

    def _state(self, row: Mapping[str, Any]) -> ApprovalState:
        return state_of(verdict=row["verdict"], expires_at=row["expires_at"], now=self._database.clock.now())


async def four_eyes(
    database: Database,
    connection: Connection,
    action: Action,
    policies: Iterable[Mapping[str, Any]],
    subject: str,
    *,
    reason: str | None,
) -> str | None:
    """Stop here unless the request at hand may do this alone, or brings an approval for it.

    Call it in the transaction of the change, before anything is changed: an approval is used up in the same
    transaction as what it allows.

    Args:
        database: The store's.
        connection: In a transaction of `Database.change` or `Database.plain`.
        action: What is to be done.
        policies: Those of all groups that it touches, as they are stored.
        subject: What it is about, as events name it.
        reason: Why.

    Returns:
        Who approved it; None where nobody had to.

    Raises:
        ApprovalWanted: It needs an approval, and the request brings none. The middleware asks for one.
        Conflict: The approval that it brings does not allow it.
    """
    acting = ACTING.get()
    if acting is None or not needs_approval(action, policies):
        return None
    if acting.dry_run:
        acting.would.append({"type": "approval.asked.v1", "subject": subject})
        return None
    if acting.approval is None:
        raise ApprovalWanted(action, subject, reason or "")
    row = await connection.fetchrow(QUERIES["lock_approval"], acting.approval)
    if row is None:
        raise Conflict(f"there is no approval {acting.approval}: ask again without it")
    there = Ask(action=row["action"], subject=row["subject"], request=row["request"], asked_by=row["asked_by"])
    state = state_of(verdict=row["verdict"], expires_at=row["expires_at"], now=database.clock.now())
    check_usable(there, _ask(acting, action.value, subject), state)
    await connection.execute(QUERIES["use_approval"], acting.approval)
    decided_by: str = row["decided_by"]
    return decided_by


async def policies_of_changeset(connection: Connection, changeset_id: uuid.UUID) -> list[Row]:
    """The policies, as they are stored, of all groups that have or had a rollout of a changeset."""
    return [row["policy"] for row in await connection.fetch(QUERIES["policies_of_changeset"], changeset_id)]


async def policies_of_rollout(connection: Connection, rollout_id: uuid.UUID) -> list[Row]:
    """The policy, as it is stored, of a rollout's group, in a list of one."""
    return [row["policy"] for row in await connection.fetch(QUERIES["policies_of_rollout"], rollout_id)]


def _ask(acting: Acting, action: str, subject: str) -> Ask:
    return Ask(action=action, subject=subject, request=acting.request, asked_by=acting.principal.name)
