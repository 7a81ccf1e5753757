"""Subscriptions on RabbitMQ that outlive its restarts, and the relay's connection.

Plain connections, not aio-pika's robust ones: after a loss everything is declared and consumed anew by the loop here,
so there is one place where recovery happens and nothing depends on weak references.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

from shared.bus.interface import DELIVERY_LIMIT, PREFETCH, Callback, Delivery, Handler
from shared.bus.lifetime import check_alive, say_how_it_ended, until_active
from shared.bus.publisher import PipelinedPublisher
from shared.bus.topology import Topology, check_subscription, check_work_queue
from shared.errors import Unavailable
from shared.observability import counter

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
REDELIVERY_PAUSE_S = (0.0, 0.05, 0.2, 1.0)
WAKEUP_PREFETCH = 50

# What a restart, an alarm or a closed channel looks like from here.
BROKER_ERRORS = (
    OSError,
    TimeoutError,
    aio_pika.exceptions.AMQPError,
    aio_pika.exceptions.ChannelInvalidStateError,
    Unavailable,
)

_log = structlog.stdlib.get_logger(__name__)
_failures = counter("uneventful_bus_handler_failures", "Deliveries that a handler refused.", ("queue",))
_losses = counter("uneventful_bus_connection_losses", "Times a subscription lost its channel.")


async def open_connection(url: str, name: str) -> AbstractConnection:
    """Connect once.

    Raises:
        Unavailable: The broker cannot be reached or refuses us.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await aio_pika.connect(url, client_properties={"connection_name": name})
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as fault:
        # The URL holds a password; the fault's own text does not.
        raise Unavailable(f"RabbitMQ cannot be reached: {fault!r}", retry_after_s=1.0) from fault


async def _close_quietly(resource: AbstractConnection | AbstractChannel) -> None:
    with suppress(*BROKER_ERRORS, asyncio.InvalidStateError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await resource.close()


@asynccontextmanager
async def relay_publisher(url: str, topology: Topology) -> AsyncIterator[PipelinedPublisher]:
    """A connection for publishing alone, the topology declared on it, and a publisher.

    Raises:
        Unavailable: The broker cannot be reached, or does not take the topology.
    """
    connection = await open_connection(url, "event_log relay")
    try:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                channel = await connection.channel(publisher_confirms=True)
                await topology.declare_dead(channel)
                await topology.declare_events(channel)
                publisher = await PipelinedPublisher.on(channel, topology.events)
        except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as fault:
            raise Unavailable(f"RabbitMQ does not take our exchanges: {fault!r}", retry_after_s=5.0) from fault
        yield publisher
    finally:
        await _close_quietly(connection)


async def _not_cancelled_by_others(work: Awaitable[None]) -> None:
    """Await, taking aiormq's cancellation of what waited on a closed channel for the loss that it is."""
    try:
        await work
    except asyncio.CancelledError as fault:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unavailable("the channel to RabbitMQ ended", retry_after_s=1.0) from fault


class RabbitSubscription:
    """A subscription: a channel, a consumer on it, and the loop that begins again when either ends."""

    def __init__(self, bus: RabbitBus, name: str, prefetch: int) -> None:
        self._bus = bus
        bus.remember(self)
        self._name = name
        self._prefetch = prefetch
        self._active = asyncio.Event()
        self._stop = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"bus {name}")
        self.task.add_done_callback(say_how_it_ended)

    async def active(self) -> None:
        """Wait until messages reach it."""
        await until_active(self._active, self.task)

    async def close(self) -> None:
        """Stop; what was not acknowledged is delivered again."""
        self._stop.set()
        await asyncio.wait((self.task,))
        self._bus.forget(self)

    async def _run(self) -> None:
        attempt = 0
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                try:
                    await _not_cancelled_by_others(self._consume_until_lost(stopped))
                    attempt = 0
                except BROKER_ERRORS as fault:
                    if attempt == 0:
                        _log.warning("no channel to the broker, trying again", queue=self._name, error=repr(fault))
                    attempt += 1
                finally:
                    self._active.clear()
                if not self._stop.is_set():
                    _losses.add(1)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S[min(attempt, len(RETRY_S) - 1)]):
                            await self._stop.wait()
        finally:
            stopped.cancel()

    async def _consume_until_lost(self, stopped: asyncio.Task[Any]) -> None:
        connection, channel = await self._bus.open_channel()
        lost = asyncio.Event()

        def on_lost(*_: object) -> None:
            lost.set()

        channel.close_callbacks.add(on_lost)
        connection.close_callbacks.add(on_lost)
        if channel.is_closed or connection.is_closed:
            raise Unavailable("the channel ended while it was opened", retry_after_s=1.0)
        worker: asyncio.Task[None] | None = None
        losing = asyncio.create_task(lost.wait())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await channel.set_qos(prefetch_count=self._prefetch)
                queue = await self.declare(channel)
                waiting: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

                async def arrived(message: AbstractIncomingMessage) -> None:
                    waiting.put_nowait(message)

                tag = await queue.consume(arrived)
            self._active.set()
            worker = asyncio.create_task(self._work(waiting))
            await asyncio.wait((losing, stopped, worker), return_when=asyncio.FIRST_COMPLETED)
            if worker.done():
                await _not_cancelled_by_others(worker)
            if self._stop.is_set() and not lost.is_set():
                await self._stop_consuming(queue, tag)
        finally:
            losing.cancel()
            connection.close_callbacks.discard(on_lost)
            channel.close_callbacks.discard(on_lost)
            if worker is not None:
                await self._end(worker)
            await _close_quietly(channel)

    async def _stop_consuming(self, queue: AbstractQueue, tag: str) -> None:
        with suppress(*BROKER_ERRORS):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await queue.cancel(tag)

    async def _end(self, worker: asyncio.Task[None]) -> None:
        worker.cancel()
        with suppress(asyncio.CancelledError, *BROKER_ERRORS):
            await worker

    async def _work(self, waiting: asyncio.Queue[AbstractIncomingMessage]) -> None:
        while True:
            message = await waiting.get()
            # A shielded task, so that closing waits for a handler that runs instead of cutting it.
            handling = asyncio.create_task(self.handle(message))
            try:
                await asyncio.shield(handling)
            except asyncio.CancelledError:
                with suppress(*BROKER_ERRORS):
                    await handling
                raise

    async def declare(self, channel: AbstractChannel) -> AbstractQueue:
        """Declare the queue to consume."""
        raise NotImplementedError

    async def handle(self, message: AbstractIncomingMessage) -> None:
        """Do the work of one message and acknowledge or reject it."""
        raise NotImplementedError


class _WakeupSubscription(RabbitSubscription):
    def __init__(self, bus: RabbitBus, types: Sequence[str], callback: Callback) -> None:
        self._types = types
        self._callback = callback
        super().__init__(bus, f"wake-up {' '.join(types)}", WAKEUP_PREFETCH)

    async def declare(self, channel: AbstractChannel) -> AbstractQueue:
        return await self._bus.topology.declare_wakeup(channel, self._types)

    async def handle(self, message: AbstractIncomingMessage) -> None:
        try:
            self._callback(message.type or message.routing_key or "", message.body)
        except Exception:  # noqa: BLE001 - see below
            # News only: whoever needs it for sure looks by itself. A callback that raises is a bug that must be seen,
            # and must not take the others' news away.
            _failures.add(1, ("wake-up",))
            _log.exception("a wake-up callback raised", type=message.type)
        await message.ack()


class _WorkSubscription(RabbitSubscription):
    def __init__(  # noqa: PLR0917 - private, called once
        self, bus: RabbitBus, queue: str, types: Sequence[str], handler: Handler, prefetch: int, delivery_limit: int
    ) -> None:
        self._queue = queue
        self._types = types
        self._handler = handler
        self._delivery_limit = delivery_limit
        super().__init__(bus, queue, prefetch)

    async def declare(self, channel: AbstractChannel) -> AbstractQueue:
        return await self._bus.topology.declare_work(channel, self._queue, self._types, self._delivery_limit)

    async def handle(self, message: AbstractIncomingMessage) -> None:
        before = message.headers.get("x-delivery-count", 0)
        earlier = before if isinstance(before, int) else 0
        delivery = Delivery(
            event_id=message.message_id or "",
            type=message.type or message.routing_key or "",
            raw=message.body,
            deliveries=earlier + 1,
        )
        try:
            await self._handler(delivery)
        except Exception as fault:  # noqa: BLE001 - whatever it was: again up to the limit, then a dead letter
            # Rejected, not negatively acknowledged: from RabbitMQ 4.3 only a reject counts toward the delivery limit.
            _failures.add(1, (self._queue,))
            _log.warning(
                "a handler refused a message",
                queue=self._queue,
                event_id=delivery.event_id,
                type=delivery.type,
                deliveries=delivery.deliveries,
                error=repr(fault),
            )
            await asyncio.sleep(REDELIVERY_PAUSE_S[min(earlier, len(REDELIVERY_PAUSE_S) - 1)])
            await message.reject(requeue=True)
        else:
            await message.ack()


class RabbitBus:
    """Subscriptions on RabbitMQ. One connection for all of them; publishing has its own elsewhere.

    Args:
        url: ``amqp://`` or ``amqps://``, with user and password.
        topology: The names on the broker.
        name: Shown as the connection's name on the broker.
    """

    def __init__(self, url: str, topology: Topology | None = None, *, name: str = "uneventful") -> None:
        self._url = url
        self.topology = Topology() if topology is None else topology
        self._name = name
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._subscriptions: set[RabbitSubscription] = set()

    async def open_channel(self) -> tuple[AbstractConnection, AbstractChannel]:
        """The open connection, made when there is none, and a new channel on it.

        Raises:
            Unavailable: The broker cannot be reached.
        """
        async with self._connecting:
            connection = await self._open_connection()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return connection, await connection.channel(publisher_confirms=False)
            except RuntimeError as fault:
                # aiormq's word for a connection that ended and has not said so yet: give it up for a new one.
                self._connection = None
                await _close_quietly(connection)
                raise Unavailable(f"the connection to RabbitMQ ended: {fault}", retry_after_s=1.0) from fault

    async def _open_connection(self) -> AbstractConnection:
        if self._connection is None or self._connection.is_closed:
            self._connection = await open_connection(self._url, self._name)
        return self._connection

    def subscribe(self, types: Sequence[str], callback: Callback) -> RabbitSubscription:
        """News; see ``Wakeups.subscribe``."""
        return _WakeupSubscription(self, check_subscription(types), callback)

    def consume(
        self,
        queue: str,
        types: Sequence[str],
        handler: Handler,
        *,
        prefetch: int = PREFETCH,
        delivery_limit: int = DELIVERY_LIMIT,
    ) -> RabbitSubscription:
        """Work; see ``WorkQueues.consume``."""
        check_work_queue(queue, prefetch, delivery_limit)
        return _WorkSubscription(self, queue, check_subscription(types), handler, prefetch, delivery_limit)

    def remember(self, subscription: RabbitSubscription) -> None:
        """Keep a subscription until it is closed."""
        self._subscriptions.add(subscription)

    def forget(self, subscription: RabbitSubscription) -> None:
        """Drop a closed subscription."""
        self._subscriptions.discard(subscription)

    async def ping(self) -> None:
        """Raise ``Unavailable`` unless the broker answers and every subscription lives."""
        check_alive(subscription.task for subscription in self._subscriptions)
        _, channel = await self.open_channel()
        await _close_quietly(channel)

    async def close(self) -> None:
        """Close all subscriptions, then the connection."""
        await asyncio.gather(*(subscription.close() for subscription in list(self._subscriptions)))
        if self._connection is not None:
            await _close_quietly(self._connection)
