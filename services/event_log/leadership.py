"""One leader per task: a session advisory lock on the very connection that writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg
import structlog

from shared.db import connect, is_transient
from shared.db.queries import Queries
from shared.errors import Conflict, Unavailable
from shared.observability import gauge

QUERIES = Queries.load("services.event_log")
RETRY_S = (0.1, 0.2, 0.5, 1.0)
CLOSE_TIMEOUT_S = 2.0

_log = structlog.stdlib.get_logger(__name__)
_leads = gauge("uneventful_event_log_leads", "1 while this process leads the task.", ("task",))

Lead: TypeAlias = "Callable[[asyncpg.Connection[Any]], Awaitable[None]]"


async def lead_for_ever(database_url: str, task: str, lead: Lead, *, standby_s: float) -> None:
    """Run ``lead`` whenever this process holds the task's lock; stand by otherwise.

    The lock belongs to the connection that ``lead`` gets: when the process or the connection dies, Postgres gives the
    lock to a standby, and nothing that the dead leader had not committed remains. Losses of the connection and of the
    leadership (``Conflict``) begin anew; every other error ends the service.

    Args:
        database_url: Where to connect.
        task: Names the lock.
        lead: Gets the connection; does all of its writing on it.
        standby_s: Seconds between looks at a lock that another holds. Waiting in Postgres would hold a snapshot open,
            and with it the rows that vacuum must clean.
    """
    attempt = 0
    while True:
        try:
            connection = await connect(database_url, application_name=f"event_log {task}")
            try:
                while not await connection.fetchval(QUERIES["try_lead"], f"event_log.{task}"):
                    attempt = 0
                    await asyncio.sleep(standby_s)
                _leads.set(1, (task,))
                _log.info("leading", task=task)
                attempt = 0
                await lead(connection)
            finally:
                _leads.set(0, (task,))
                await _close(connection)
        except Exception as fault:
            if not (is_transient(fault) or isinstance(fault, Conflict | Unavailable)):
                raise
            _log.warning("leadership lost or not to be had, trying again", task=task, error=repr(fault))
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1


async def _close(connection: asyncpg.Connection[Any]) -> None:
    try:
        await connection.close(timeout=CLOSE_TIMEOUT_S)
    except Exception as fault:
        connection.terminate()
        if not is_transient(fault):
            raise
