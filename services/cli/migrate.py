"""``uneventful migrate``."""

from __future__ import annotations

import asyncio

import click

from services.cli.command import json_option
from services.cli.errors import Ended, Refused, Unreachable
from services.cli.output import Output
from services.cli.target import Options
from shared.db.migrate import Applied, migrate
from shared.errors import Unavailable, UneventfulError


@click.command("migrate")
@click.option(
    "--database-url",
    envvar="UNEVENTFUL_DATABASE_URL",
    required=True,
    metavar="URL",
    help="postgresql://user:password@host:port/database; better by UNEVENTFUL_DATABASE_URL: arguments are no secret.",
)
@click.option("--pre-only", is_flag=True, help="Leave what must wait until the old version is gone.")
@json_option
@click.pass_obj
def migrate_database(options: Options, *, database_url: str, pre_only: bool, as_json: bool) -> None:
    """Bring the database's schema up to date."""
    output = Output(as_json=as_json or options.as_json)

    def told(applied: Applied) -> None:
        if not output.as_json:
            output.say(f"applied {applied.filename}")

    try:
        done = asyncio.run(migrate(database_url, pre_only=pre_only, on_progress=told))
    except UneventfulError as error:
        kind: type[Ended] = Unreachable if isinstance(error, Unavailable) else Refused
        end = kind(error.message, problem={"code": error.code})
        end.as_json = output.as_json
        raise end from error
    if output.as_json:
        output.json({"applied": [applied.filename for applied in done]})
    else:
        output.say(f"{len(done)} applied; the schema is up to date." if done else "The schema is up to date.")
