"""What can go wrong while starting the programs that standalone looks after."""

# ruff: noqa: N818  # the names say what is wrong
from __future__ import annotations

from typing import ClassVar

from shared.errors import UneventfulError


class StartFailed(UneventfulError):
    """A program did not start; the message ends with the tail of its log."""

    code: ClassVar[str] = "start_failed"
    status: ClassVar[int] = 503
    title: ClassVar[str] = "A program did not start"


class ProgramMissing(StartFailed):
    """A program that is needed is not installed; the message names the Debian package that has it."""

    code: ClassVar[str] = "program_missing"
    title: ClassVar[str] = "A program is not installed"


class AlreadyRunning(StartFailed):
    """Something else already runs on the same data directory."""

    code: ClassVar[str] = "already_running"
    status: ClassVar[int] = 409
    title: ClassVar[str] = "Already running"
