"""Group commit that clocks itself: one flush at a time, of what arrived during the last one.

There is no window to tune: a lone item is flushed at once, and under load batches grow as long as a flush takes.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from shared.errors import Fault, TooLarge, Unavailable

T = TypeVar("T")
R = TypeVar("R")

MIN_RETRY_AFTER_S: Final = 1.0
MAX_RETRY_AFTER_S: Final = 30.0


class GroupCommit(Generic[T, R]):
    """Gathers items from many tasks and hands them to ``flush`` in batches, in the order in which they came.

    An exception of ``flush`` goes to everybody who waits for that batch and to nobody else. Who is cancelled while
    its item still waits takes it along; once the batch is on its way the item is flushed and the result dropped.

    Args:
        flush: Takes the batch (1 to ``max_batch`` items) and returns one result per item, in order. Only one call
            is in flight at a time.
        max_batch: The most items of one flush.
        max_waiting: The most items that wait for a flush, those in flight not counted.
    """

    __slots__ = ("_closed", "_flush", "_flush_s", "_max_batch", "_max_waiting", "_queue", "_runner", "_waiting")

    def __init__(self, flush: Callable[[list[T]], Awaitable[list[R]]], *, max_batch: int, max_waiting: int) -> None:
        if max_batch < 1 or max_waiting < 1:
            msg = f"max_batch and max_waiting are at least 1, not {max_batch} and {max_waiting}"
            raise ValueError(msg)
        self._flush = flush
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        # Each entry is what one caller brought, at most max_batch items, and is never split.
        self._queue: deque[tuple[list[T], asyncio.Future[list[R]]]] = deque()
        self._waiting = 0
        self._runner: asyncio.Task[None] | None = None
        self._flush_s = 0.0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that wait for a flush; those in flight are not counted."""
        return self._waiting

    async def submit(self, item: T) -> R:
        """Have one item flushed and return its result.

        Raises:
            Unavailable: ``max_waiting`` items wait already, or this is closed; ``retry_after_s`` says when to try.
            Exception: Whatever ``flush`` raised for the batch.
        """
        return (await self._enqueue([item]))[0]

    async def submit_many(self, items: list[T]) -> list[R]:
        """Have several items flushed, in one batch if they fit one, and return their results in order.

        All are taken or none.

        Raises:
            Unavailable: They do not fit beside what waits now.
            TooLarge: They would not fit even if nothing waited.
            Exception: Whatever ``flush`` raised for a batch that they were in; others of them may be written.
        """
        if len(items) > self._max_waiting:
            raise TooLarge(f"{len(items)} items never fit a buffer of {self._max_waiting}; send fewer at a time")
        if len(items) <= self._max_batch:
            return await self._enqueue(list(items)) if items else []
        self._refuse_if_full(len(items))
        chunks = [items[start : start + self._max_batch] for start in range(0, len(items), self._max_batch)]
        results = await asyncio.gather(*(self._enqueue(chunk) for chunk in chunks), return_exceptions=True)
        flat: list[R] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            flat.extend(result)
        return flat

    async def close(self) -> None:
        """Take no more items and wait until all that came are flushed."""
        self._closed = True
        if self._runner is not None:
            await asyncio.shield(self._runner)

    def _refuse_if_full(self, coming: int) -> None:
        if self._closed:
            raise Unavailable("this is shutting down; try again", retry_after_s=MIN_RETRY_AFTER_S)
        if self._waiting + coming > self._max_waiting:
            flushes = -(-self._waiting // self._max_batch) + 1
            after_s = min(max(flushes * self._flush_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
            raise Unavailable(
                f"{self._waiting} items wait to be written, {self._max_waiting} is the most; try again later",
                retry_after_s=after_s,
            )

    def _enqueue(self, items: list[T]) -> asyncio.Future[list[R]]:
        self._refuse_if_full(len(items))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[R]] = loop.create_future()
        self._queue.append((items, future))
        self._waiting += len(items)
        if self._runner is None:
            # In a context of its own: a flush belongs to no single request's trace or log context.
            self._runner = loop.create_task(self._run(), name="group commit", context=contextvars.Context())
        return future

    def _take(self) -> tuple[list[T], list[tuple[int, asyncio.Future[list[R]]]]]:
        batch: list[T] = []
        waiters: list[tuple[int, asyncio.Future[list[R]]]] = []
        queue = self._queue
        while queue:
            items, future = queue[0]
            cancelled = future.done()
            if not cancelled and len(batch) + len(items) > self._max_batch:
                break
            queue.popleft()
            self._waiting -= len(items)
            if not cancelled:
                batch += items
                waiters.append((len(items), future))
        return batch, waiters

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                batch, waiters = self._take()
                if not batch:
                    continue
                started = loop.time()
                count = len(batch)
                try:
                    results = await self._flush(batch)
                    if len(results) != count:
                        _fail(waiters, Fault(f"a flush of {count} items returned {len(results)} results"))
                        continue
                except Exception as error:  # noqa: BLE001  # not swallowed: every waiter of the batch gets it
                    _fail(waiters, error)
                    continue
                except BaseException:
                    _cancel([*waiters, *((len(items), future) for items, future in self._queue)])
                    self._queue.clear()
                    self._waiting = 0
                    raise
                finally:
                    self._flush_s = loop.time() - started
                start = 0
                for size, future in waiters:
                    if not future.done():
                        future.set_result(results[start : start + size])
                    start += size
        finally:
            self._runner = None


def _fail(waiters: list[tuple[int, asyncio.Future[list[R]]]], error: Exception) -> None:
    for _, future in waiters:
        if not future.done():
            future.set_exception(error)


def _cancel(waiters: list[tuple[int, asyncio.Future[list[R]]]]) -> None:
    for _, future in waiters:
        future.cancel()
