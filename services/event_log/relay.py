"""The relay: publishes the ledger by seq, with confirms, from its own checkpoint."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import structlog

from services.event_log.leadership import RETRY_S
from shared.bus.publisher import PipelinedPublisher
from shared.bus.rabbitmq import relay_publisher
from shared.bus.topology import Topology
from shared.errors import Unavailable
from shared.ledger import LedgerFollower, advance, checkpoint
from shared.observability import counter, gauge

FOLLOWER = "relay"

_log = structlog.stdlib.get_logger(__name__)
_relayed = counter("uneventful_event_log_relayed", "Events confirmed by the broker.")
_connected = gauge("uneventful_event_log_relay_connected", "1 while this process publishes to the broker.")
_lag = gauge("uneventful_event_log_relay_position", "The seq up to which the broker confirmed.")


class Relay:
    """Publishes at least once, in the order of seq; moves its checkpoint after the confirms.

    Args:
        pool: For reading the ledger.
        amqp_url: The broker.
        topology: The names on the broker.
        batch: The most events between two checkpoints.
        wake: Set when the ledger grows.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        amqp_url: str,
        *,
        topology: Topology | None = None,
        batch: int,
        wake: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._amqp_url = amqp_url
        self._topology = Topology() if topology is None else topology
        self._batch = batch
        self._wake = wake

    async def run(self, connection: asyncpg.Connection[Any]) -> None:
        """Relay until the connection ends. A broker that is away is waited for: the ledger keeps everything.

        Args:
            connection: Holds the leader's lock; the checkpoint moves on it.

        Raises:
            Conflict: Another relay moved the checkpoint.
        """
        # A checkpoint that is lost in a crash means that some events are published again, which consumers expect.
        await connection.execute("SET synchronous_commit TO off")
        attempt = 0
        while True:
            # Also looked at while the broker is away, so that the lock's connection is seen to end.
            position = await checkpoint(connection, FOLLOWER)
            try:
                async with relay_publisher(self._amqp_url, self._topology) as publisher:
                    attempt = 0
                    _connected.set(1)
                    await self._publish_from(position, connection, publisher)
            except Unavailable as fault:
                if attempt == 0:
                    _log.warning("the broker is away, the ledger waits for it", error=fault.message, position=position)
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
            finally:
                _connected.set(0)

    async def _publish_from(
        self, position: int, connection: asyncpg.Connection[Any], publisher: PipelinedPublisher
    ) -> None:
        _lag.set(position)
        follower = LedgerFollower(self._pool, after=position, batch=self._batch, wake=self._wake)
        async for entries in follower:
            await publisher.publish(entries)
            await advance(connection, FOLLOWER, old=position, new=entries[-1].seq)
            position = entries[-1].seq
            _relayed.add(len(entries))
            _lag.set(position)
