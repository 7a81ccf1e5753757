"""Dead letters: copied from the broker into ``event_log.dead_letters``, where the replay tools find them."""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from shared.bus.interface import Delivery
from shared.bus.rabbitmq import RabbitBus, RabbitSubscription
from shared.db.pool import is_transient
from shared.db.queries import Queries
from shared.errors import Unavailable
from shared.ledger.store import Connection

QUERIES = Queries.load("shared.bus")
MAX_HEADER_BYTES = 16 * 1024


async def bury(connection: Connection, queue: str, delivery: Delivery, reason: str, headers: object = None) -> None:
    """Keep a dead letter in the caller's transaction, once per queue and event."""
    raw_headers = orjson.dumps({} if headers is None else headers, default=str)
    await connection.execute(
        QUERIES["bury"],
        queue,
        delivery.event_id,
        delivery.type,
        reason,
        delivery.deliveries,
        delivery.raw,
        raw_headers.decode() if len(raw_headers) <= MAX_HEADER_BYTES else "{}",
    )


class DeadLetterCopier(RabbitSubscription):
    """Consumes ``<namespace>.dead``; a letter is acknowledged after its copy is committed."""

    def __init__(self, bus: RabbitBus, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        super().__init__(bus, "dead letters", 20)

    async def declare(self, channel: AbstractChannel) -> AbstractQueue:
        """The queue behind the dead-letter exchange."""
        return await self._bus.topology.declare_dead(channel)

    async def handle(self, message: AbstractIncomingMessage) -> None:
        """Copy one letter. While Postgres is away it stays where it is: the channel closes and begins again."""
        deaths = message.headers.get("x-death")
        death: dict[str, Any] = deaths[0] if isinstance(deaths, list) and deaths else {}  # type: ignore[assignment]
        counted = message.headers.get("x-delivery-count")
        queue = str(death.get("queue", "")).removeprefix(self._bus.topology.work_queue(""))
        letter = Delivery(
            event_id=message.message_id or "",
            type=message.type or message.routing_key or "",
            raw=message.body,
            deliveries=counted if isinstance(counted, int) else 0,
        )
        try:
            async with self._pool.acquire() as connection:
                await bury(connection, queue, letter, str(death.get("reason", "unknown")), dict(message.headers))
        except Exception as fault:
            if not is_transient(fault):
                raise
            raise Unavailable(f"a dead letter cannot be copied now: {fault!r}", retry_after_s=1.0) from fault
        await message.ack()
