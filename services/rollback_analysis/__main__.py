"""``python -m services.rollback_analysis``: judge; ``... replay``: judge the ledger again and compare."""

from __future__ import annotations

import asyncio
import os
import sys

import orjson

from services.rollback_analysis.app import make_app
from services.rollback_analysis.replay import Comparison, compare
from services.rollback_analysis.settings import Settings
from shared.db.pool import connect
from shared.settings import load
from shared.web import main


async def _replay(settings: Settings) -> Comparison:
    connection = await connect(
        settings.database_url.reveal(), application_name="rollback_analysis replay", statement_timeout_s=0
    )
    try:
        return await compare(connection)
    finally:
        await connection.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["replay"]:
        found = asyncio.run(_replay(load(Settings, os.environ)))
        answer = {
            "equal": found.equal,
            "events": found.events,
            "verdicts": found.verdicts,
            "first_difference": found.first_difference,
        }
        sys.stdout.write(orjson.dumps(answer).decode() + "\n")
        raise SystemExit(0 if found.equal else 1)
    main(make_app, Settings, name="rollback_analysis")
