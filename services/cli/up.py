"""``uneventful up``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from services.cli.command import json_option
from services.cli.target import READY_NAME, Options
from services.standalone.settings import Bus, Settings, default_data_directory
from services.standalone.up import parse_extra, run
from shared.errors import UneventfulError
from shared.settings import PREFIX, load

OF_THE_COMMAND = frozenset({f"{PREFIX}URL", f"{PREFIX}TOKEN_FILE", f"{PREFIX}DISTRIBUTION_URL"})
"""Variables that are for this command as a client, and nothing to what it starts."""


@click.command()
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Directory for everything that is kept.")
@click.option("--base-port", type=click.IntRange(0, 65_000), help="First port (8700); 0 takes free ones.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Gets what runs, as JSON, once all serves; else ready.json in the data directory.",
)
@click.option("--bus", type=click.Choice([str(bus) for bus in Bus]), help="Whether there is a broker (auto).")
@click.option("--set", "assignments", multiple=True, metavar="SERVICE.NAME=VALUE", help="A setting of one service.")
@json_option
@click.pass_obj
def up(
    options: Options,
    *,
    data: Path | None,
    base_port: int | None,
    ready_file: Path | None,
    bus: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run everything on this machine, until Ctrl-C or SIGTERM."""
    environ = {name: value for name, value in os.environ.items() if name not in OF_THE_COMMAND}
    data = data or options.data
    ready_file = ready_file or options.ready_file
    if ready_file is None and not environ.get(f"{PREFIX}READY_FILE"):
        named = environ.get(f"{PREFIX}DATA")
        ready_file = (data or (Path(named) if named else default_data_directory(os.environ))) / READY_NAME
    given = {"DATA": data, "BASE_PORT": base_port, "READY_FILE": ready_file, "BUS": bus}
    environ |= {PREFIX + name: str(value) for name, value in given.items() if value is not None}
    try:
        settings = load(Settings, environ)
        extra = parse_extra(assignments)
    except UneventfulError as error:
        raise click.UsageError(str(error)) from error
    sys.exit(run(settings, extra=extra, as_json=as_json or options.as_json))
