"""Group commit: one flush at a time, of what arrived during the last one."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.db.group_commit import GroupCommit
from shared.errors import Fault, TooLarge, Unavailable


class Store:
    """A flush that waits at a gate and remembers its batches."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.in_flight = 0
        self.most_in_flight = 0
        if is_open:
            self.gate.set()

    async def flush(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.entered.release()
        try:
            await self.gate.wait()
            return [item * 10 for item in batch]
        finally:
            self.in_flight -= 1


def start(commit: GroupCommit[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(commit.submit(item)) for item in items]


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_item_is_flushed_at_once():
    """There is no window to wait for."""
    store = Store(is_open=True)
    commit = GroupCommit(store.flush, max_batch=10, max_waiting=10)

    assert await commit.submit(4) == 40
    assert store.batches == [[4]]


async def test_what_arrives_during_a_flush_goes_together_in_the_next():
    """In order, and only one flush is in flight."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=10, max_waiting=10)
    first = start(commit, 1)
    await store.entered.acquire()

    rest = start(commit, 2, 3, 4)
    await settle()
    assert commit.waiting == 3
    store.gate.set()

    assert await asyncio.gather(*first, *rest) == [10, 20, 30, 40]
    assert store.batches == [[1], [2, 3, 4]]
    assert store.most_in_flight == 1
    assert commit.waiting == 0


async def test_a_batch_has_at_most_max_batch_items():
    """What is left waits for the flush after."""
    store = Store(is_open=True)
    commit = GroupCommit(store.flush, max_batch=3, max_waiting=100)

    assert await asyncio.gather(*start(commit, *range(8))) == [item * 10 for item in range(8)]
    assert store.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_when_too_many_wait_the_next_is_refused():
    """With a time to retry; those that wait are not harmed, and there is room again afterwards."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=2, max_waiting=2)
    in_flight = start(commit, 1)
    await store.entered.acquire()
    waiting = start(commit, 2, 3)
    await settle()

    with pytest.raises(Unavailable, match="2 items wait") as caught:
        await commit.submit(4)

    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 30
    store.gate.set()
    assert await asyncio.gather(*in_flight, *waiting) == [10, 20, 30]
    assert await commit.submit(5) == 50


async def test_an_exception_goes_to_everybody_of_that_batch_only():
    """Those of the next batch, which waited meanwhile, get their results."""

    async def flush(batch: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if 1 in batch:
            raise OSError("disk")
        return batch

    commit = GroupCommit(flush, max_batch=2, max_waiting=10)

    outcomes = await asyncio.gather(*start(commit, 1, 2, 3, 4), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes[:2]] == [OSError, OSError]
    assert outcomes[2:] == [3, 4]
    assert await commit.submit(5) == 5


async def test_who_is_cancelled_while_waiting_takes_the_item_along():
    """It is never flushed; the others are."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=10, max_waiting=10)
    first = start(commit, 1)
    await store.entered.acquire()
    gone, stays = start(commit, 2, 3)
    await settle()

    gone.cancel()
    store.gate.set()

    assert await asyncio.gather(*first, stays) == [10, 30]
    assert gone.cancelled()
    assert store.batches == [[1], [3]]
    assert commit.waiting == 0


async def test_who_is_cancelled_during_the_flush_breaks_nothing():
    """The batch goes through; the others of it get their results."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=10, max_waiting=10)
    gone, stays = start(commit, 1, 2)
    await store.entered.acquire()

    gone.cancel()
    await settle()
    store.gate.set()

    assert await stays == 20
    assert gone.cancelled()
    assert store.batches == [[1, 2]]


async def test_if_all_that_wait_are_cancelled_nothing_is_flushed():
    """An empty batch is none."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=10, max_waiting=10)
    first = start(commit, 1)
    await store.entered.acquire()
    (gone,) = start(commit, 2)
    await settle()
    gone.cancel()
    store.gate.set()

    assert await asyncio.gather(*first) == [10]
    await commit.close()
    assert store.batches == [[1]]


async def test_close_drains_and_then_refuses():
    """What came before is flushed; what comes after is told to go elsewhere."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=1, max_waiting=10)
    tasks = start(commit, 1, 2)
    await store.entered.acquire()

    closing = asyncio.create_task(commit.close())
    await settle()
    assert not closing.done()
    with pytest.raises(Unavailable, match="shutting down"):
        await commit.submit(3)
    store.gate.set()
    await closing

    assert [task.result() for task in tasks] == [10, 20]
    assert store.batches == [[1], [2]]
    await commit.close()


async def test_close_that_is_cancelled_does_not_cancel_the_flush():
    """A stop that runs out of time leaves the write alone."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=1, max_waiting=10)
    tasks = start(commit, 1)
    await store.entered.acquire()
    closing = asyncio.create_task(commit.close())
    await settle()

    closing.cancel()
    await settle()
    store.gate.set()

    assert await asyncio.gather(*tasks) == [10]


async def test_many_items_come_back_in_order():
    """In one batch where they fit one, beside those of others."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=5, max_waiting=20)
    first = start(commit, 0)
    await store.entered.acquire()
    three = asyncio.create_task(commit.submit_many([1, 2, 3]))
    four = asyncio.create_task(commit.submit_many([4, 5, 6, 7]))
    one = start(commit, 8)
    await settle()
    store.gate.set()

    assert await three == [10, 20, 30]
    assert await four == [40, 50, 60, 70]
    assert await asyncio.gather(*first, *one) == [0, 80]
    assert store.batches == [[0], [1, 2, 3], [4, 5, 6, 7, 8]]


async def test_more_items_than_a_batch_are_split():
    """And their results joined."""
    store = Store(is_open=True)
    commit = GroupCommit(store.flush, max_batch=3, max_waiting=20)

    assert await commit.submit_many(list(range(7))) == [item * 10 for item in range(7)]
    assert store.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert await commit.submit_many([]) == []


async def test_many_items_are_taken_all_or_none():
    """Refused for now where others wait, and for good where they can never fit."""
    store = Store()
    commit = GroupCommit(store.flush, max_batch=2, max_waiting=4)
    first = start(commit, 1)
    await store.entered.acquire()
    waiting = start(commit, 2, 3)
    await settle()

    with pytest.raises(Unavailable):
        await commit.submit_many([4, 5, 6])
    with pytest.raises(TooLarge, match="5 items never fit"):
        await commit.submit_many([4, 5, 6, 7, 8])
    assert commit.waiting == 2
    store.gate.set()
    await asyncio.gather(*first, *waiting)
    assert store.batches == [[1], [2, 3]]


async def test_one_failed_part_of_many_fails_the_call():
    """Parts that were written stay written; that is why reports are idempotent."""
    seen: list[list[int]] = []

    async def flush(batch: list[int]) -> list[int]:
        seen.append(batch)
        if 2 in batch:
            raise OSError("disk")
        return batch

    commit = GroupCommit(flush, max_batch=2, max_waiting=10)

    with pytest.raises(OSError, match="disk"):
        await commit.submit_many([0, 1, 2, 3, 4])
    assert seen == [[0, 1], [2, 3], [4]]


async def test_a_flush_that_loses_results_is_a_fault():
    """Nobody gets another one's result."""

    async def flush(batch: list[int]) -> list[int]:
        return batch[1:]

    commit = GroupCommit(flush, max_batch=10, max_waiting=10)

    outcomes = await asyncio.gather(*start(commit, 1, 2), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Fault, Fault]


async def test_a_cancelled_flush_cancels_who_waits():
    """When the loop is torn down nobody is left hanging."""

    async def flush(batch: list[int]) -> list[int]:
        raise asyncio.CancelledError

    commit = GroupCommit(flush, max_batch=1, max_waiting=10)

    outcomes = await asyncio.gather(*start(commit, 1, 2), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert commit.waiting == 0


async def test_a_flush_has_a_context_of_its_own():
    """It does not run in the trace of whoever came first."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    async def flush(batch: list[int]) -> list[int]:
        seen.append(variable.get())
        return batch

    variable.set("mine")
    commit = GroupCommit(flush, max_batch=1, max_waiting=1)
    await commit.submit(1)

    assert seen == ["none"]


@pytest.mark.parametrize(("max_batch", "max_waiting"), [(0, 1), (1, 0)])
def test_limits_are_at_least_one(max_batch, max_waiting):
    """Zero would never flush."""
    with pytest.raises(ValueError, match="at least 1"):
        GroupCommit(Store().flush, max_batch=max_batch, max_waiting=max_waiting)


@given(
    st.lists(st.lists(st.integers(), min_size=1, max_size=6), max_size=30),
    st.integers(1, 8),
    st.integers(0, 5),
)
def test_every_item_is_flushed_once_in_order(groups, max_batch, pauses):
    """However they arrive, in whatever batches."""

    async def play() -> None:
        flushed: list[int] = []

        async def flush(batch: list[int]) -> list[int]:
            assert 1 <= len(batch) <= max_batch
            for _ in range(pauses):
                await asyncio.sleep(0)
            flushed.extend(batch)
            return [-item for item in batch]

        commit = GroupCommit(flush, max_batch=max_batch, max_waiting=1000)
        tasks = []
        for number, group in enumerate(groups):
            tasks.append(asyncio.create_task(commit.submit_many(group)))
            if number % 3 == 0:
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks)

        assert results == [[-item for item in group] for group in groups]
        assert flushed == [item for group in groups for item in group]

    asyncio.run(play())
