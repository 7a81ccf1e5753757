"""The bus's twin: in memory, one process, no broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from shared.bus.interface import DELIVERY_LIMIT, PREFETCH, WAKEUP_LENGTH, Callback, Delivery, Handler, Message
from shared.bus.topology import check_subscription, check_work_queue
from shared.events.patterns import matches


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that a work queue gave up on."""

    queue: str
    delivery: Delivery


@dataclass
class _Queue:
    types: tuple[str, ...]
    waiting: deque[Delivery] = field(default_factory=deque)
    grown: asyncio.Event = field(default_factory=asyncio.Event)


class _WakeupSubscription:
    def __init__(self, bus: MemoryBus, types: tuple[str, ...], callback: Callback) -> None:
        self._bus = bus
        self._callback = callback
        self._queue = _Queue(types, deque(maxlen=WAKEUP_LENGTH))
        bus.wakeups.append(self._queue)
        self._task = asyncio.create_task(self._run())

    async def active(self) -> None:
        """At once."""

    async def close(self) -> None:
        """Stop."""
        self._bus.wakeups.remove(self._queue)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            await self._queue.grown.wait()
            self._queue.grown.clear()
            while self._queue.waiting:
                delivery = self._queue.waiting.popleft()
                with suppress(Exception):  # as everywhere: news goes on, whatever one callback does
                    self._callback(delivery.type, delivery.raw)


class _WorkSubscription:
    def __init__(self, bus: MemoryBus, name: str, handler: Handler, delivery_limit: int) -> None:
        self._bus = bus
        self._name = name
        self._handler = handler
        self._delivery_limit = delivery_limit
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def active(self) -> None:
        """At once."""

    async def close(self) -> None:
        """Stop after the handler that runs."""
        self._stop.set()
        self._bus.queues[self._name].grown.set()
        await self._task

    async def _run(self) -> None:
        queue = self._bus.queues[self._name]
        while not self._stop.is_set():
            if not queue.waiting:
                queue.grown.clear()
                await queue.grown.wait()
                continue
            # As a quorum queue does, count before handing out: a crash counts too.
            delivery = replace(queue.waiting[0], deliveries=queue.waiting[0].deliveries + 1)
            queue.waiting[0] = delivery
            try:
                await self._handler(delivery)
            except Exception:  # noqa: BLE001 - whatever it was: again up to the limit, then a dead letter
                if delivery.deliveries > self._delivery_limit:
                    self._bus.dead_letters.append(DeadLetter(queue=self._name, delivery=delivery))
                    queue.waiting.popleft()
            else:
                queue.waiting.popleft()


class MemoryBus:
    """A ``Bus`` with a ``publish`` of its own; ``dead_letters`` holds what was given up."""

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}
        self.wakeups: list[_Queue] = []
        self.dead_letters: list[DeadLetter] = []
        self._subscriptions: list[_WakeupSubscription | _WorkSubscription] = []

    async def publish(self, messages: Sequence[Message]) -> None:
        """Put messages into every queue that wants them; what no queue wants is no error."""
        for message in messages:
            delivery = Delivery(event_id=str(message.event_id), type=message.type, raw=message.raw, deliveries=0)
            for queue in (*self.queues.values(), *self.wakeups):
                if any(matches(pattern, message.type) for pattern in queue.types):
                    queue.waiting.append(delivery)
                    queue.grown.set()

    def subscribe(self, types: Sequence[str], callback: Callback) -> _WakeupSubscription:
        """News; see ``Wakeups.subscribe``."""
        subscription = _WakeupSubscription(self, check_subscription(types), callback)
        self._subscriptions.append(subscription)
        return subscription

    def consume(
        self,
        queue: str,
        types: Sequence[str],
        handler: Handler,
        *,
        prefetch: int = PREFETCH,
        delivery_limit: int = DELIVERY_LIMIT,
    ) -> _WorkSubscription:
        """Work; see ``WorkQueues.consume``."""
        check_work_queue(queue, prefetch, delivery_limit)
        self.queues.setdefault(queue, _Queue(check_subscription(types)))
        subscription = _WorkSubscription(self, queue, handler, delivery_limit)
        self._subscriptions.append(subscription)
        return subscription

    async def ping(self) -> None:
        """Always well."""

    async def close(self) -> None:
        """Close all subscriptions."""
        for subscription in self._subscriptions:
            with suppress(ValueError):
                await subscription.close()
