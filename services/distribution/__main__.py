"""``python -m services.distribution``: serve; with ``verify``: re-hash the store, exit with 1 where it is damaged."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from services.distribution.app import NAME, make_app
from services.distribution.payload_files import PayloadFiles
from services.distribution.settings import Settings
from shared.errors import SettingsInvalid
from shared.settings import load
from shared.web import main as serve_main

USAGE = "usage: python -m services.distribution [verify]\n"


def verify(root: Path, out: TextIO) -> int:
    """Re-hash every payload below ``root`` and say what was found.

    Returns:
        0 where every file is what its name says, else 1.
    """
    payloads = damaged = total = 0
    for checked in PayloadFiles(root).verify():
        total += checked.size
        if checked.error is None:
            payloads += 1
        else:
            damaged += 1
            out.write(f"{checked.path}: {checked.error}\n")
    out.write(f"{payloads} payloads are sound, {damaged} are not; {total} bytes read\n")
    return 1 if damaged else 0


def main(arguments: Sequence[str] = sys.argv[1:], environ: Mapping[str, str] = os.environ) -> None:
    """Serve, or verify the store."""
    if not arguments:
        # The stock loop: uvloop has no sendfile.
        serve_main(make_app, Settings, name=NAME, uvloop=False, environ=environ)
        return
    if list(arguments) != ["verify"]:
        sys.stderr.write(USAGE)
        raise SystemExit(2)
    try:
        settings = load(Settings, environ)
    except SettingsInvalid as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        raise SystemExit(2) from None
    raise SystemExit(verify(Path(settings.store_dir), sys.stdout))


if __name__ == "__main__":
    main()
