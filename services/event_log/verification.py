"""The ``verify`` command: the chain from the first entry to the head, one JSON line, status 0 only if it holds."""

from __future__ import annotations

import sys

import orjson

from shared.db import connect
from shared.ledger import VerifyResult, verify_chain


async def verify(database_url: str, *, after: int = 0) -> VerifyResult:
    """Verify the chain of a database."""
    connection = await connect(database_url, application_name="event_log verify")
    try:
        return await verify_chain(connection, after=after)
    finally:
        await connection.close()


def report(result: VerifyResult) -> int:
    """Write the result as one line of JSON; returns the exit status."""
    line = {
        "ok": result.ok,
        "checked": result.checked,
        "last_seq": result.last_seq,
        "last_hash": result.last_hash.hex(),
        "broken_at": result.broken_at,
        "reason": result.reason,
    }
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 0 if result.ok else 1
