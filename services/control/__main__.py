"""``python -m services.control`` serves; ``python -m services.control token --name N --role R`` makes a token."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec

from services.control.app import make_app
from services.control.settings import Settings
from services.control.store import Store
from services.control.tokens import Role, make_token, token_hash
from shared.clock import SystemClock
from shared.db import create_pool
from shared.errors import UneventfulError
from shared.ids import SystemIds
from shared.settings import PREFIX, Secret, load
from shared.web import main as serve


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What making a token needs."""

    database_url: Annotated[
        Secret, msgspec.Meta(description="Postgres, as postgresql://user:password@host:port/database.")
    ]


async def keep_token(database_url: str, *, name: str, role: Role, replace: bool = False) -> str:
    """Make a token and keep its hash. Returns the token, which is nowhere else.

    Raises:
        Conflict: There is a token of that name, and ``replace`` is not set.
    """
    pool = await create_pool(database_url, application_name="uneventful control token", max_size=1)
    try:
        token = make_token()
        store = Store(pool, ids=SystemIds(), clock=SystemClock())
        await store.tokens.add(name, token_hash(token), role, replace=replace)
        return token
    finally:
        await pool.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve, or make a token and print it once."""
    parser = argparse.ArgumentParser(prog="services.control", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    token = commands.add_parser("token", help="make a bearer token and print it once")
    token.add_argument("--name", required=True, help="who it is for; stands in events as `by`")
    token.add_argument("--role", type=Role, choices=list(Role), default=Role.ADMIN)
    token.add_argument("--replace", action="store_true", help="make the token of that name worthless")
    given = parser.parse_args(arguments)
    if given.command is None:
        serve(make_app, Settings, name="control")
        return
    own = (f"{PREFIX}DATABASE_URL", f"{PREFIX}DATABASE_URL_FILE")
    try:
        settings = load(TokenSettings, {name: os.environ[name] for name in own if name in os.environ})
        made = asyncio.run(
            keep_token(settings.database_url.reveal(), name=given.name, role=given.role, replace=given.replace)
        )
    except UneventfulError as error:
        sys.stderr.write(f"control: {error}\n")
        raise SystemExit(1) from None
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
