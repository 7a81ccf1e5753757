"""What telemetry reads in Postgres; what it writes goes through ``shared.fleet``."""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg

from shared.db.queries import Queries

QUERIES = Queries.load("services.telemetry")


async def read_applications(pool: asyncpg.Pool[Any]) -> dict[str, uuid.UUID]:
    """Applications by id, Omaha id and name; a name that looks like another's id loses."""
    rows = await pool.fetch(QUERIES["applications"])
    found: dict[str, uuid.UUID] = {}
    for column in ("name", "omaha_id", "application_id"):
        for row in rows:
            if row[column] is not None:
                found[str(row[column])] = uuid.UUID(int=row["application_id"].int)
    return found


async def ping(pool: asyncpg.Pool[Any]) -> None:
    """Return if Postgres answers."""
    await pool.fetchval(QUERIES["ping"])
