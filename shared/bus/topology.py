"""What stands on the broker: names and arguments of exchanges and queues, in one place.

* ``<namespace>.events``: topic exchange, routing key = event type. A type that nobody subscribes to is no error.
* Wake-up queues: exclusive to one process, short, dropping their oldest, so that they never hold the relay up.
* Work queues ``<namespace>.work.<name>``: quorum queues with a delivery limit and at-least-once dead-lettering, which
  needs ``x-overflow: reject-publish``. They have no length limit: a full queue would stop the relay for everybody.
* ``<namespace>.dead``: fanout exchange and the one quorum queue behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from pamqp.common import FieldValue

from shared.bus.interface import WAKEUP_LENGTH
from shared.errors import InvalidInput
from shared.events.patterns import to_regex

_QUEUE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
MAX_PREFETCH = 1000
MAX_DELIVERY_LIMIT = 100


def check_subscription(types: Sequence[str]) -> tuple[str, ...]:
    """The patterns, each checked.

    Raises:
        InvalidInput: There is none, or one is malformed.
    """
    if not types:
        raise InvalidInput("a subscription needs at least one pattern over event types; # takes all")
    for pattern in types:
        to_regex(pattern)
    return tuple(types)


def check_work_queue(queue: str, prefetch: int, delivery_limit: int) -> None:
    """Refuse what the broker would refuse later, or what would never end.

    Raises:
        InvalidInput: The name, the prefetch or the delivery limit is out of bounds.
    """
    if _QUEUE_NAME.fullmatch(queue) is None:
        raise InvalidInput(f"{queue[:80]!r} is no queue name: lower-case letters, digits and underscores, at most 64")
    if not 1 <= prefetch <= MAX_PREFETCH:
        raise InvalidInput(f"prefetch must be between 1 and {MAX_PREFETCH}, not {prefetch}")
    if not 1 <= delivery_limit <= MAX_DELIVERY_LIMIT:
        raise InvalidInput(f"delivery_limit must be between 1 and {MAX_DELIVERY_LIMIT}, not {delivery_limit}")


@dataclass(frozen=True)
class Topology:
    """Names, all beginning with the namespace."""

    namespace: str = "uneventful"

    @property
    def events(self) -> str:
        """The topic exchange that the relay publishes to."""
        return f"{self.namespace}.events"

    @property
    def dead(self) -> str:
        """The dead-letter exchange, and the queue behind it."""
        return f"{self.namespace}.dead"

    def work_queue(self, name: str) -> str:
        """The full name of a work queue."""
        return f"{self.namespace}.work.{name}"

    def work_arguments(self, delivery_limit: int) -> Mapping[str, FieldValue]:
        """The arguments of a work queue."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": delivery_limit,
            "x-dead-letter-exchange": self.dead,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    async def declare_events(self, channel: AbstractChannel) -> AbstractExchange:
        """The topic exchange."""
        return await channel.declare_exchange(self.events, ExchangeType.TOPIC, durable=True)

    async def declare_dead(self, channel: AbstractChannel) -> AbstractQueue:
        """The dead-letter exchange and its queue."""
        exchange = await channel.declare_exchange(self.dead, ExchangeType.FANOUT, durable=True)
        queue = await channel.declare_queue(self.dead, durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(exchange)
        return queue

    async def declare_work(
        self, channel: AbstractChannel, name: str, types: Sequence[str], delivery_limit: int
    ) -> AbstractQueue:
        """A work queue, bound to the patterns, with its dead letters provided for."""
        await self.declare_dead(channel)
        exchange = await self.declare_events(channel)
        queue = await channel.declare_queue(
            self.work_queue(name), durable=True, arguments=dict(self.work_arguments(delivery_limit))
        )
        for pattern in types:
            await queue.bind(exchange, routing_key=pattern)
        return queue

    async def declare_wakeup(self, channel: AbstractChannel, types: Sequence[str]) -> AbstractQueue:
        """A wake-up queue of this connection."""
        exchange = await self.declare_events(channel)
        queue = await channel.declare_queue(
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": WAKEUP_LENGTH, "x-overflow": "drop-head"},
        )
        for pattern in types:
            await queue.bind(exchange, routing_key=pattern)
        return queue
