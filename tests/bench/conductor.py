"""What control's conductor costs: one look at all rollouts, by the number of groups."""

from __future__ import annotations

import time
import uuid
from typing import Any

import asyncpg
import machine
import msgspec
from report import Result, median, say
from sources import NEW_VERSION, OLD_VERSION
from stack import BenchFailedError, Stack, connected
from worlds import make_application

from services.control.store import Store
from shared.clock import SystemClock
from shared.db import create_pool
from shared.domain.gate import Gate
from shared.domain.policy import Policy, freeze
from shared.domain.waves import Wave
from shared.ids import SystemIds

EVERY_S = 1.0
"""``conduct_every_s`` as it comes: what a look takes is told as a share of that."""
CANARY_GROUPS = 3
CANARIES = 50
WAVES = (Wave(fraction=0.1, soak_s=86_400.0), Wave(fraction=0.5, soak_s=86_400.0), Wave(fraction=1.0))

# A canary group has nodes of the arch that waits; all other nodes are shared out, half of each group of either arch.
_GROUPS = """
INSERT INTO control.groups (group_id, application_id, name, position, channel_name, selector)
SELECT gen_random_uuid(), $1, name || n, row_number() OVER (), 'stable', '{"group": ["nobody"]}'
  FROM (SELECT 'canary-' AS name, generate_series(1, $2::int) AS n
        UNION ALL SELECT 'group-', generate_series(1, $3::int)) named
"""
_CHANGESET = """
INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state, published_at)
VALUES ($1, $2, $3, $4, 'image', 'published', now())
"""
_NODES = """
INSERT INTO fleet.nodes (node_id, application_id, machine_id, group_id, version, arch, boot_id, boot_seen_at, facts,
                         first_seen_at, last_contact_at)
SELECT gen_random_uuid(), $1, md5(g.name || '/' || $3 || '/' || n), g.group_id, $4, $3, 'boot-1', now(),
       '{"oem": "ami", "platform": "CoreOS"}', now(), now()
  FROM control.groups g CROSS JOIN generate_series(1, $5::int) n
 WHERE g.application_id = $1 AND g.name LIKE $2
"""
_ROLLOUTS = """
INSERT INTO control.rollouts (rollout_id, group_id, changeset_id, application_id, arch, state, pace, policy, parameters,
                              running_since, wave_since, fraction)
SELECT gen_random_uuid(), g.group_id, $3, $1, $4, $5, 10, $6, $7, now(), now(), $8
  FROM control.groups g WHERE g.application_id = $1 AND g.name LIKE $2
"""
_COMMITTED = """
WITH taken AS (
    INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id, group_id, arch,
                                from_version, to_version, state, boot_id, granted_at, changed_at, closed_at)
    SELECT gen_random_uuid(), gen_random_uuid()::text, n.node_id, n.application_id, o.changeset_id, o.rollout_id,
           o.group_id, o.arch, n.version, c.version, 'committed', 'boot-1', now(), now(), now()
      FROM control.rollouts o
      JOIN control.changesets c USING (changeset_id)
      JOIN fleet.nodes n ON n.group_id = o.group_id AND n.arch = o.arch
     WHERE o.changeset_id = $1 AND o.state IN ('running', 'completed')
       AND fleet.position_v1(n.machine_id, o.changeset_id) < $2
 RETURNING node_id, to_version)
UPDATE fleet.nodes n SET version = taken.to_version FROM taken WHERE n.node_id = taken.node_id
"""


async def make_groups(connection: asyncpg.Connection[Any], groups: int, nodes: int) -> None:
    """Groups that each wait at a gate with one changeset, and roll out another one in waves (to another arch)."""
    application = await make_application(connection, "flatcar", None)
    waiting, rolling = uuid.uuid4(), uuid.uuid4()
    await connection.execute(_GROUPS, application, CANARY_GROUPS, groups)
    gate = Gate(groups=tuple(f"canary-{n + 1}" for n in range(CANARY_GROUPS)), soak_s=86_400.0, nodes=100)
    each = nodes // groups // 2
    for changeset, arch in ((waiting, "amd64"), (rolling, "arm64")):
        await connection.execute(_CHANGESET, changeset, application, NEW_VERSION, arch)
        await connection.execute(
            "INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, $2)", changeset, nodes
        )
        await connection.execute(_NODES, application, "group-%", arch, OLD_VERSION, each)
    await connection.execute(_NODES, application, "canary-%", "amd64", OLD_VERSION, CANARIES)
    for name, changeset, arch, state, policy, fraction in (
        ("canary-%", waiting, "amd64", "completed", Policy(), 1.0),
        ("group-%", waiting, "amd64", "waiting_for_gate", Policy(gates=(gate,)), 1.0),
        ("group-%", rolling, "arm64", "running", Policy(waves=WAVES), WAVES[0].fraction),
    ):
        parameters = msgspec.to_builtins(freeze(policy, fleet_size=nodes, group_size=each))
        told = msgspec.to_builtins(policy)
        await connection.execute(_ROLLOUTS, application, name, changeset, arch, state, told, parameters, fraction)
    await connection.execute(_COMMITTED, waiting, 1.0)
    await connection.execute(_COMMITTED, rolling, WAVES[0].fraction)
    await connection.execute("VACUUM ANALYZE fleet.nodes, fleet.attempts, control.rollouts, control.groups")


async def look_at(stack: Stack, url: str, *, looks: int) -> list[dict[str, Any]]:
    """Look so many times; the first look, which tells what gates say, is not measured."""
    postgres = (await stack.postgres()).pid
    found = []
    async with await create_pool(url, application_name="control") as pool:
        store = Store(pool, ids=SystemIds(), clock=SystemClock())
        await store.rollouts.conduct_all()
        for _ in range(looks):
            clocks, spent, began = machine.read_clocks({"postgres*": postgres}), time.process_time(), time.monotonic()
            steps = await store.rollouts.conduct_all()
            took, spent = time.monotonic() - began, time.process_time() - spent
            database = machine.read_clocks({"postgres*": postgres})["postgres"] - clocks["postgres"]
            if steps:
                raise BenchFailedError(f"the conductor was to stay where it is, and took {len(steps)} steps")
            found.append({"ms": took * 1e3, "control ms": spent * 1e3, "Postgres ms": database * 1e3})
    return found


async def conductor(stack: Stack, *, quick: bool) -> Result:
    """Looks at three sizes of an installation, none of which finds anything to do: how nearly all of them are."""
    result = Result("conductor", "One look of the conductor, by groups: each waits at a gate and rolls out in waves")
    nodes, looks = (20_000, 5) if quick else (100_000, 15)
    for groups in (10, 100, 400):
        say(f"   {groups} groups, {nodes:,} nodes")
        url = await stack.database(f"conductor_{groups}")
        async with connected(url) as connection:
            await make_groups(connection, groups, nodes)
        found = await look_at(stack, url, looks=looks)
        result.raw[f"{groups}"] = found
        cpu = median(found, "control ms") + median(found, "Postgres ms")
        result.table.append(
            {
                "groups": str(groups),
                "nodes": f"{nodes:,}",
                "ms/look": median(found, "ms"),
                "control CPU ms": median(found, "control ms"),
                "Postgres CPU ms": median(found, "Postgres ms"),
                "CPU, share of a second": cpu / (EVERY_S * 1e3),
            }
        )
        if groups == 100:
            result.at_most("a look at 100 groups, ms", median(found, "ms"), 200)
    result.notes.append("a look that takes more than 5 % of the time is followed by a longer pause, not by more CPU")
    return result
