"""``python -m services.standalone``: the same as ``uneventful up``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from services.standalone.settings import Bus, Settings
from services.standalone.up import parse_extra, run
from shared.errors import UneventfulError
from shared.settings import describe, load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="uneventful up",
        description="Runs all of Uneventful on this machine: an embedded PostgreSQL, a private RabbitMQ node where one "
        "is installed, and every service.",
        epilog="Also from the environment: " + ", ".join(doc.name for doc in describe(Settings)),
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="directory for everything that is kept")
    parser.add_argument("--base-port", type=int, metavar="N", help="first port (8700); 0 takes free ones")
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="gets what runs, as JSON, once all serves")
    parser.add_argument("--bus", choices=[str(bus) for bus in Bus], help="whether there is a broker (auto)")
    parser.add_argument("--json", action="store_true", help="what runs as one line of JSON on standard output")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SERVICE.NAME=VALUE", help="a setting of one service"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the options and the environment, and runs until told to stop."""
    options = _parser().parse_args(argv)
    given = {
        f"UNEVENTFUL_{name.upper()}": str(value)
        for name in ("data", "base_port", "ready_file", "bus")
        if (value := getattr(options, name)) is not None
    }
    try:
        settings = load(Settings, {**os.environ, **given})
        extra = parse_extra(tuple(options.set))
    except UneventfulError as error:
        sys.stderr.write(f"uneventful up: {error}\n")
        return 2
    return run(settings, extra=extra, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
