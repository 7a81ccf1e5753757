"""What distribution reads in Postgres; it writes nothing there."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from services.distribution.access import Attempt, Closure, Listing, RefusalCode
from shared.db.queries import Queries
from shared.web import Principal, Role

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

QUERIES = Queries.load("services.distribution")


@dataclass(frozen=True, slots=True)
class Gates:
    """What shuts payloads off, as of one statement; ``stamp`` names the set of published changesets."""

    closed: Mapping[uuid.UUID, Closure]
    suspended: Mapping[str, str]
    everything_halted: str | None
    stamp: str


async def read_gates(connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any]) -> Gates:
    """Read all gates that are not open."""
    row = await connection.fetchrow(QUERIES["gates"])
    assert row is not None, "control.global_gate always has its row"  # noqa: S101  # a schema invariant
    return Gates(
        closed={uuid.UUID(who): Closure(RefusalCode(state), reason) for who, state, reason in row["closed"]},
        suspended=row["suspended"],
        everything_halted=None if row["open"] else row["reason"],
        stamp=row["stamp"],
    )


async def read_listings(
    connection: asyncpg.Connection[Any] | PoolConnectionProxy[Any],
) -> dict[str, tuple[Listing, ...]]:
    """Read where each digest is listed."""
    listings: dict[str, tuple[Listing, ...]] = {}
    for sha256, name, changeset_id in await connection.fetch(QUERIES["listings"]):
        listings[sha256] = (*listings.get(sha256, ()), Listing(_plain(changeset_id), name))
    return listings


async def read_attempt(pool: asyncpg.Pool[Any], token: str) -> Attempt | None:
    """The attempt that has this token."""
    row = await pool.fetchrow(QUERIES["attempt_by_token"], token)
    return None if row is None else Attempt(_plain(row["changeset_id"]), row["state"])


async def principal_of(pool: asyncpg.Pool[Any], token: str) -> Principal | None:
    """Whose token this is, looked up by its hash."""
    row = await pool.fetchrow(QUERIES["token_by_hash"], hashlib.sha256(token.encode()).digest())
    return None if row is None else Principal(row["name"], Role(row["role"]))


async def ping(pool: asyncpg.Pool[Any]) -> None:
    """Return if Postgres answers."""
    await pool.fetchval(QUERIES["ping"])


def _plain(value: uuid.UUID) -> uuid.UUID:
    """The standard library's UUID: asyncpg's own compares equal to it and is slower to hash."""
    return uuid.UUID(int=value.int)
