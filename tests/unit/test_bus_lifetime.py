"""A subscription that ended is seen."""

from __future__ import annotations

import asyncio

import pytest

from shared.bus.lifetime import check_alive, say_how_it_ended, until_active
from shared.errors import Unavailable


async def test_an_ended_subscription_makes_the_bus_unwell():
    """Its task's error is logged, ``ping`` and ``active`` raise."""

    async def breaks() -> None:
        raise ValueError("a bug")

    task = asyncio.create_task(breaks(), name="wake-up #")
    task.add_done_callback(say_how_it_ended)
    with pytest.raises(Unavailable, match="wake-up #"):
        await until_active(asyncio.Event(), task)
    with pytest.raises(Unavailable, match="wake-up #"):
        check_alive([task])


async def test_a_living_one_does_not():
    """Active is active, whatever comes later."""
    active = asyncio.Event()
    task = asyncio.create_task(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(active.set)
    await until_active(active, task)
    check_alive([task])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    say_how_it_ended(task)
