"""The bus: news and work queues on RabbitMQ, or by following the ledger where there is no broker."""

from __future__ import annotations

from typing import Any

import asyncpg

from shared.bus.following import FollowingBus
from shared.bus.interface import Bus, Callback, Delivery, Handler, Message, Subscription, Wakeups, WorkQueues
from shared.bus.rabbitmq import RabbitBus
from shared.bus.topology import Topology
from shared.settings import Secret

__all__ = [
    "Bus",
    "Callback",
    "Delivery",
    "FollowingBus",
    "Handler",
    "Message",
    "RabbitBus",
    "Subscription",
    "Topology",
    "Wakeups",
    "WorkQueues",
    "connect_bus",
]


def connect_bus(
    amqp_url: str | Secret | None,
    pool: asyncpg.Pool[Any],
    *,
    name: str = "uneventful",
    topology: Topology | None = None,
) -> Bus:
    """The bus that the settings ask for; call it in the running loop, close it at the end.

    Connects when the first subscription needs it, and for ever after: a broker that is away is no error here.

    Args:
        amqp_url: The broker; None follows the ledger instead.
        pool: For following the ledger.
        name: Shown as the connection's name on the broker.
        topology: The names on the broker.
    """
    if amqp_url is None:
        return FollowingBus(pool)
    return RabbitBus(amqp_url.reveal() if isinstance(amqp_url, Secret) else amqp_url, topology, name=name)
