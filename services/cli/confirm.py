"""Asking before something is done that moves nodes."""

from __future__ import annotations

import sys

import click

from services.cli.errors import Refused
from services.cli.output import Output

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(output: Output, question: str, *, yes: bool) -> None:
    """Go on only where the operator says so; a program has to say so beforehand.

    Raises:
        Refused: Nobody is there to be asked, or the answer was no.
    """
    if yes:
        return
    if output.as_json or not sys.stdin.isatty():
        raise Refused(f"{question} Nothing was changed: say --yes")
    if not click.confirm(question, err=True):
        raise Refused("nothing was changed")
