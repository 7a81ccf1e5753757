"""The end of a subscription's task: said aloud, and seen by the bus's ping."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

from shared.errors import Unavailable

_log = structlog.stdlib.get_logger(__name__)


def say_how_it_ended(task: asyncio.Task[Any]) -> None:
    """Log the error that ended a subscription; a done callback."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a subscription ended", subscription=task.get_name(), error=repr(error), exc_info=error)


def check_alive(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Refuse to call a bus healthy whose subscription ended by an error.

    Raises:
        Unavailable: One has ended.
    """
    for task in tasks:
        if task.done():
            raise Unavailable(f"the subscription {task.get_name()} has ended: restart the service and see its log")


async def until_active(active: asyncio.Event, task: asyncio.Task[Any]) -> None:
    """Wait until a subscription gets messages.

    Raises:
        Unavailable: It ended before.
    """
    waiting = asyncio.create_task(active.wait())
    try:
        await asyncio.wait((waiting, task), return_when=asyncio.FIRST_COMPLETED)
        if not active.is_set():
            check_alive([task])
    finally:
        waiting.cancel()
