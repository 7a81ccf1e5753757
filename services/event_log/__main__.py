"""Runs event_log; ``python -m services.event_log verify`` verifies the ledger's chain instead."""

from __future__ import annotations

import asyncio
import os
import sys

from services.event_log.app import make_app
from services.event_log.settings import Settings
from services.event_log.verification import report, verify
from shared.errors import UneventfulError
from shared.settings import load
from shared.web import main

USAGE = "usage: python -m services.event_log [verify [after_seq]]\n"


def verify_command(arguments: list[str]) -> int:
    """Run ``verify``; returns the exit status: 0 holds, 1 broken, 2 could not look."""
    if len(arguments) > 1 or any(not argument.isdecimal() for argument in arguments):
        sys.stderr.write(USAGE)
        return 2
    try:
        settings = load(Settings, os.environ)
        after = int(arguments[0]) if arguments else 0
        return report(asyncio.run(verify(settings.database_url.reveal(), after=after)))
    except UneventfulError as fault:
        sys.stderr.write(f"event_log verify: {fault}\n")
        return 2


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main(make_app, Settings, name="event_log")
        case ["verify", *rest]:
            sys.exit(verify_command(rest))
        case _:
            sys.stderr.write(USAGE)
            sys.exit(2)
