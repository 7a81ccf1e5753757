"""The bus where there is no broker: the same subscriptions, by following the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import asyncpg
import structlog

from shared.bus.dead_letters import QUERIES, bury
from shared.bus.interface import DELIVERY_LIMIT, PREFETCH, WAKEUP_LENGTH, Callback, Delivery, Handler
from shared.bus.lifetime import check_alive, say_how_it_ended, until_active
from shared.bus.topology import check_subscription, check_work_queue
from shared.db.pool import is_transient
from shared.errors import Conflict
from shared.events.patterns import to_regex
from shared.ledger import LedgerEntry, LedgerSignal, advance, checkpoint, head, read
from shared.ledger.entry import entry_from_row
from shared.observability import counter

POLL_S = 1.0
RETRY_S = 0.5
REDELIVERY_PAUSE_S = (0.0, 0.05, 0.2, 1.0)

_log = structlog.stdlib.get_logger(__name__)
_failures = counter("uneventful_following_handler_failures", "Deliveries that a handler refused.", ("queue",))


class FollowingSubscription:
    """A loop over what is new, woken by the signal and once a second in any case."""

    def __init__(self, bus: FollowingBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._wake = bus.signal.event()
        self._stop = asyncio.Event()
        self._active = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"following {name}")
        self.task.add_done_callback(say_how_it_ended)

    async def active(self) -> None:
        """Wait until messages reach it."""
        await until_active(self._active, self.task)

    async def close(self) -> None:
        """Stop after the handler that runs."""
        self._stop.set()
        self._wake.set()
        await asyncio.wait((self.task,))
        self._bus.forget(self)

    async def _run(self) -> None:
        began = False
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if not began:
                    await self.begin()
                    began = True
                    self._active.set()
                more = await self.step()
            except Exception as fault:
                if not is_transient(fault):
                    raise
                _log.warning("the ledger cannot be followed, trying again", queue=self._name, error=repr(fault))
                await asyncio.sleep(RETRY_S)
                continue
            if not more and not self._stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()

    async def begin(self) -> None:
        """Find where to begin; called until it succeeds once."""
        raise NotImplementedError

    async def step(self) -> bool:
        """Do what is there; True when there may be more."""
        raise NotImplementedError


class _WakeupFollowing(FollowingSubscription):
    def __init__(self, bus: FollowingBus, types: Sequence[str], callback: Callback) -> None:
        self._types = types
        self._callback = callback
        self._position = 0
        super().__init__(bus, f"wake-up {' '.join(types)}")

    async def begin(self) -> None:
        async with self._bus.pool.acquire() as connection:
            self._position, _, _ = await head(connection)

    async def step(self) -> bool:
        async with self._bus.pool.acquire() as connection:
            until, _, _ = await head(connection)
            if until == self._position:
                return False
            rows = await connection.fetch(
                QUERIES["newest"], self._position, until, [to_regex(each) for each in self._types], WAKEUP_LENGTH
            )
        self._position = until
        for entry in reversed([entry_from_row(row) for row in rows]):
            try:
                self._callback(entry.type, entry.raw)
            except Exception:  # noqa: BLE001 - news only; a bug here must be seen and must not stop the news
                _failures.add(1, ("wake-up",))
                _log.exception("a wake-up callback raised", type=entry.type)
        return False


class _WorkFollowing(FollowingSubscription):
    def __init__(  # noqa: PLR0917 - private, called once
        self, bus: FollowingBus, queue: str, types: Sequence[str], handler: Handler, prefetch: int, delivery_limit: int
    ) -> None:
        self._queue = queue
        self._follower = f"queue:{queue}"
        self._types = types
        self._handler = handler
        self._prefetch = prefetch
        self._delivery_limit = delivery_limit
        super().__init__(bus, queue)

    async def begin(self) -> None:
        async with self._bus.pool.acquire() as connection:
            await connection.execute(QUERIES["begin_queue"], self._follower)

    async def step(self) -> bool:
        async with self._bus.pool.acquire() as connection:
            position = await checkpoint(connection, self._follower)
            until, _, _ = await head(connection)
            if until == position:
                return False
            entries = await read(connection, after=position, until=until, limit=self._prefetch, types=self._types)
        reached = until if len(entries) < self._prefetch else entries[-1].seq
        try:
            for entry in entries:
                dead = await self._hand_out(entry)
                if dead is not None:
                    position = await self._move(position, entry.seq, dead)
                elif self._stop.is_set():
                    await self._move(position, entry.seq)
                    return False
            await self._move(position, reached)
        except Conflict:
            _log.info("another process works on this queue", queue=self._queue)
            return True
        return reached < until

    async def _move(self, position: int, seq: int, dead: Delivery | None = None) -> int:
        if seq == position:
            return position
        async with self._bus.pool.acquire() as connection, connection.transaction():
            if dead is not None:
                await bury(connection, self._queue, dead, "delivery_limit")
            await advance(connection, self._follower, old=position, new=seq)
        return seq

    async def _hand_out(self, entry: LedgerEntry) -> Delivery | None:
        """Returns the last delivery when it was given up."""
        delivery = Delivery(event_id=str(entry.event_id), type=entry.type, raw=entry.raw, deliveries=1)
        while True:
            try:
                await self._handler(delivery)
            except Exception as fault:  # noqa: BLE001 - whatever it was: again up to the limit, then a dead letter
                _failures.add(1, (self._queue,))
                _log.warning(
                    "a handler refused a message",
                    queue=self._queue,
                    event_id=delivery.event_id,
                    type=delivery.type,
                    deliveries=delivery.deliveries,
                    error=repr(fault),
                )
            else:
                return None
            if delivery.deliveries > self._delivery_limit:
                return delivery
            await asyncio.sleep(REDELIVERY_PAUSE_S[min(delivery.deliveries - 1, len(REDELIVERY_PAUSE_S) - 1)])
            delivery = replace(delivery, deliveries=delivery.deliveries + 1)


class FollowingBus:
    """Subscriptions that follow the ledger; for one machine, without a broker.

    Args:
        pool: Where connections come from; one is held for LISTEN once there is a subscription.
    """

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self.pool = pool
        self.signal = LedgerSignal(pool)
        self._subscriptions: set[FollowingSubscription] = set()

    def subscribe(self, types: Sequence[str], callback: Callback) -> FollowingSubscription:
        """News; see ``Wakeups.subscribe``."""
        return self._keep(_WakeupFollowing(self, check_subscription(types), callback))

    def consume(
        self,
        queue: str,
        types: Sequence[str],
        handler: Handler,
        *,
        prefetch: int = PREFETCH,
        delivery_limit: int = DELIVERY_LIMIT,
    ) -> FollowingSubscription:
        """Work; see ``WorkQueues.consume``."""
        check_work_queue(queue, prefetch, delivery_limit)
        return self._keep(_WorkFollowing(self, queue, check_subscription(types), handler, prefetch, delivery_limit))

    def _keep(self, subscription: FollowingSubscription) -> FollowingSubscription:
        self.signal.start()
        self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: FollowingSubscription) -> None:
        """Drop a closed subscription."""
        self._subscriptions.discard(subscription)

    async def ping(self) -> None:
        """Raise ``Unavailable`` when a subscription ended; Postgres is pinged elsewhere."""
        check_alive(subscription.task for subscription in self._subscriptions)

    async def close(self) -> None:
        """Close all subscriptions."""
        await asyncio.gather(*(subscription.close() for subscription in list(self._subscriptions)))
        await self.signal.stop()
