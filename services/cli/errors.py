"""What the command ends with: 1 refused, 2 wrongly used, 3 unreachable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import click
import orjson

from services.cli.text import printable

HINTS: dict[str, str] = {
    "not_authenticated": "Name the file with your token by --token-file or UNEVENTFUL_TOKEN_FILE; "
    "`python -m services.control token --name NAME` makes one.",
    "not_permitted": "Ask for a token with the role admin.",
    "unavailable": "Try again in a moment; the server's /readyz says what it waits for.",
    "fault": "The log of the service has the details.",
}


class Ended(click.ClickException):
    """Ends the command with a message for people on stderr, or the problem as JSON.

    Args:
        message: What is wrong.
        problem: The RFC 9457 problem, where a server sent one.
        hint: What to do, where the message does not say.
    """

    exit_code: ClassVar[int] = 1
    as_json = False

    def __init__(self, message: str, *, problem: Mapping[str, Any] | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.hint = hint

    def show(self, file: Any = None) -> None:  # noqa: ARG002  # click's signature; errors go to stderr
        """Print it."""
        if self.as_json:
            problem = self.problem or {"code": "unreachable" if self.exit_code == 3 else "failed"}
            click.echo(orjson.dumps({"detail": self.message, **problem}).decode(), err=True)
            return
        click.echo(f"Error: {printable(self.message)}", err=True)
        if self.hint is not None:
            click.echo(self.hint, err=True)


class Refused(Ended):
    """The server understood and will not."""


class Unreachable(Ended):
    """The server does not answer, or it is not known where it is."""

    exit_code: ClassVar[int] = 3


def from_problem(status: int, problem: Mapping[str, Any]) -> Refused:
    """The error for a server's answer."""
    code = str(problem.get("code", ""))
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    return Refused(detail, problem=problem, hint=HINTS.get(code))
