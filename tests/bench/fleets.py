"""Fills a database with nodes, as if they had polled before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
from sources import boot_id, machine_id

from shared.domain.identity import node_id_for
from shared.testing.rollouts import World

FACTS = {"arch": "amd64", "track": "stable", "oem": "ami", "alephversion": "3033.2.0", "platform": "CoreOS"}


async def add_nodes(
    connection: asyncpg.Connection[Any], world: World, numbers: range, *, version: str, chunk: int = 50_000
) -> None:
    """Insert the nodes with these numbers into the world's group, on ``version``, in their first boot."""
    now = datetime.now(UTC)

    def rows(part: range) -> Iterator[tuple[object, ...]]:
        for number in part:
            machine = machine_id(number)
            node_id = node_id_for(world.application_id, machine)
            yield (
                node_id,
                world.application_id,
                machine,
                world.group_id,
                version,
                "amd64",
                boot_id(number),
                now,
                FACTS,
                "127.0.0.1",
                now,
                now,
            )

    for start in range(0, len(numbers), chunk):
        await connection.copy_records_to_table(
            "nodes",
            schema_name="fleet",
            columns=(
                "node_id",
                "application_id",
                "machine_id",
                "group_id",
                "version",
                "arch",
                "boot_id",
                "boot_seen_at",
                "facts",
                "address",
                "first_seen_at",
                "last_contact_at",
            ),
            records=rows(numbers[start : start + chunk]),
        )
    await connection.execute("VACUUM ANALYZE fleet.nodes")
