"""What a bus is to its users: news by pattern, and work queues. RabbitMQ, the ledger and the twin are one each."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.events import Envelope, decode

DELIVERY_LIMIT = 5
PREFETCH = 20
WAKEUP_LENGTH = 100

Callback = Callable[[str, bytes], None]


class Message(Protocol):
    """What goes over the bus; a ``LedgerEntry`` is one."""

    @property
    def seq(self) -> int:
        """Place in the ledger."""

    @property
    def event_id(self) -> uuid.UUID:
        """The event's id, by which a consumer knows what it saw before."""

    @property
    def type(self) -> str:
        """The event's type, which is the routing key."""

    @property
    def subject(self) -> str:
        """What the event is about."""

    @property
    def partition_key(self) -> str:
        """Messages of one key come in order."""

    @property
    def correlation_id(self) -> str | None:
        """The attempt or rollout that the event belongs to."""

    @property
    def raw(self) -> bytes:
        """The canonical CloudEvent."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A message handed to a work queue's handler.

    Attributes:
        deliveries: How often it has been handed out, this time included.
    """

    event_id: str
    type: str
    raw: bytes
    deliveries: int

    @functools.cached_property
    def envelope(self) -> Envelope:
        """The decoded envelope.

        Raises:
            EventInvalid: The bytes are no event of ours.
        """
        return decode(self.raw)


Handler = Callable[[Delivery], Awaitable[None]]


class Subscription(Protocol):
    """A subscription that lives until it is closed; it outlives the broker's restarts."""

    async def active(self) -> None:
        """Wait until messages reach it."""

    async def close(self) -> None:
        """Stop; a handler that runs is awaited, what it had not finished is delivered again."""


class Wakeups(Protocol):
    """News: from now on, at most once, and the oldest are dropped when they come too fast."""

    def subscribe(self, types: Sequence[str], callback: Callback) -> Subscription:
        """Call ``callback(type, canonical bytes)`` for every message whose type fits one of the patterns.

        Returns at once and connects beside; what depends on the news must also look by itself now and then. Meant for
        what is rare (verdicts, policy changes): what follows every event follows the ledger.

        Raises:
            InvalidInput: A pattern is malformed or fits no type.
        """


class WorkQueues(Protocol):
    """Work: at least once, in order, given up after a number of failures."""

    def consume(
        self,
        queue: str,
        types: Sequence[str],
        handler: Handler,
        *,
        prefetch: int = PREFETCH,
        delivery_limit: int = DELIVERY_LIMIT,
    ) -> Subscription:
        """Hand the messages of a durable queue to a handler, one at a time.

        The queue gets what is published from its first subscription on. A handler that raises gets the message again,
        ``delivery_limit`` times; then it becomes a dead letter. A message may come twice: handlers are idempotent.

        Args:
            queue: The queue's name, lower-case words with underscores.
            types: Patterns over event types.
            handler: Returns when the work is durable; raises to be asked again.
            prefetch: How many messages may wait in this process. 1 keeps the order of a key through failures.
            delivery_limit: How often a message is delivered again.

        Raises:
            InvalidInput: The name, a pattern or a limit is out of bounds.
        """


class Bus(Wakeups, WorkQueues, Protocol):
    """Both, and an end."""

    async def ping(self) -> None:
        """Raise unless messages flow.

        Raises:
            Unavailable: The broker cannot be reached.
        """

    async def close(self) -> None:
        """Close all subscriptions."""
