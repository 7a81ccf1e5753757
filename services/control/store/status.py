"""Everything that an operator wants to know at once, as of one snapshot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from services.control import completion, requests
from services.control.store.applications import Applications
from services.control.store.base import Database, Row, one, rows_of
from services.control.store.global_gate import GlobalGate
from services.control.store.rollouts import Rollouts
from services.control.waiting import waiting
from shared.db import Queries

QUERIES: Final = Queries.load("services.control.store", "status.sql")
STUCK_AFTER: Final = timedelta(days=7)
"""A node that has been staged for so long does not reboot by itself any more."""
_LATELY: Final = timedelta(hours=1)
_COMPLETED_SHOWN: Final = timedelta(days=1)


class Status:
    """What waits for whom, how rollouts get on, and whether the ledger and the analysis keep up."""

    def __init__(self, database: Database, gate: GlobalGate, applications: Applications, rollouts: Rollouts) -> None:
        self._database = database
        self._gate = gate
        self._applications = applications
        self._rollouts = rollouts

    async def get(self, asked: requests.StatusQuery) -> Row:
        """One screen of it.

        Raises:
            NotFound: There is no such application.
        """
        application_id = await self._applications.id_of(asked.application)
        now = self._database.clock.now()
        async with (
            self._database.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            ids = [
                row["rollout_id"]
                for row in await connection.fetch(
                    QUERIES["shown_rollouts"], application_id, now - _COMPLETED_SHOWN, asked.rollouts
                )
            ]
            active = await connection.fetchval(QUERIES["shown_rollouts_count"], application_id)
            rollouts = [await self._rollouts.look(connection, rollout_id, now) for rollout_id in ids]
            everything = await self._gate.get(connection)
            approvals = [] if asked.application else rows_of(await connection.fetch(QUERIES["open_approvals"], now))
            changesets = rows_of(await connection.fetch(QUERIES["stopped_changesets"], application_id))
            holds = rows_of(await connection.fetch(QUERIES["holds_in_force"], application_id))
            nodes: dict[str, Any] = {
                **one(await connection.fetchrow(QUERIES["node_counts"], application_id, now - completion.SILENT_AFTER)),
                **one(await connection.fetchrow(QUERIES["attempt_counts"], application_id, now - STUCK_AFTER)),
                "quarantined": await connection.fetchval(QUERIES["quarantined"], application_id),
                "on_withdrawn": await connection.fetchval(QUERIES["on_withdrawn"], application_id),
                "will_boot_stopped": await connection.fetchval(QUERIES["will_boot_stopped"], application_id),
            }
            ledger = one(await connection.fetchrow(QUERIES["ledger_state"]))
            followers = rows_of(await connection.fetch(QUERIES["followers"]))
            blind = rows_of(await connection.fetch(QUERIES["blind"]))
            floods = rows_of(await connection.fetch(QUERIES["floods"], application_id, now - _LATELY))
        return {
            "at": now,
            "everything": everything,
            "waiting": waiting(
                everything=everything,
                approvals=approvals,
                changesets=changesets,
                holds=holds,
                rollouts=rollouts,
                blind=blind,
            ),
            "rollouts": rollouts,
            "rollouts_active": active,
            "stopped": changesets,
            "holds": holds,
            "nodes": nodes,
            "ledger": {**ledger, "followers": followers},
            "blind": blind,
            "floods": floods,
        }
