"""What the command ends with: 1 refused, 2 wrongly used, 3 unreachable, 4 waiting for another one's approval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import click
import orjson

from services.cli.text import printable

HINTS: dict[str, str] = {
    "not_authenticated": "Name the file with your token by --token-file or UNEVENTFUL_TOKEN_FILE; "
    "`python -m services.control token --name NAME` makes one.",
    "not_permitted": "`uneventful token list`, by an admin, shows what each token may do.",
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


class Waits(Ended):
    """Nothing was done: somebody else has to allow it first.

    Args:
        approval: As the server answered it.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, approval: Mapping[str, Any]) -> None:
        approval_id = approval["approval_id"]
        if approval["state"] == "approved":
            message = f"nothing was done: approval {approval_id} allows it, and has to come with it"
            hint = f"Repeat the command as `uneventful --approval {approval_id} ...`."
        else:
            message = f"nothing was done: {approval['action']} of {approval['subject']} needs another pair of eyes"
            hint = (
                f"An approver runs `uneventful approval approve {approval_id} --reason ...`; "
                f"then repeat the command as `uneventful --approval {approval_id} ...`, until {approval['expires_at']}."
            )
        super().__init__(message, problem={**approval, "code": "approval_needed"}, hint=hint)


def from_problem(status: int, problem: Mapping[str, Any]) -> Refused:
    """The error for a server's answer."""
    code = str(problem.get("code", ""))
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    return Refused(detail, problem=problem, hint=HINTS.get(code))
