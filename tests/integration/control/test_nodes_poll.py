"""Control beside a real update_check: what operators are shown is what nodes that poll get."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from services.event_log.mover import Mover
from services.update_check.app import make_app
from services.update_check.settings import Settings
from shared.settings import Secret
from shared.testing.rollouts import OMAHA_ID, pretend_analysis_keeps_up

sys.path.insert(0, str(Path(__file__).parents[1]))
from omaha_node import Node


@pytest.fixture
async def update_check(database_url, pool, tmp_path) -> AsyncIterator[str]:
    """Where nodes poll."""
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
    settings = Settings(
        database_url=Secret(database_url),
        distribution_url="http://127.0.0.1:9",
        spool_dir=str(tmp_path / "spool"),
        contact_flush_s=0.05,
    )
    server = TestServer(make_app(settings))
    await server.start_server(access_log=None)
    yield str(server.make_url("/v1/update/"))
    await server.close()


@pytest.fixture
async def flatcar(operator):
    """An application with a group for everything."""
    await operator.post("/applications", {"name": "flatcar", "omaha_id": OMAHA_ID})
    await operator.post("/channels", {"application": "flatcar", "name": "stable", "arch": "amd64"})
    return await operator.group("all", app="flatcar")


async def polled_until(node: Node, operator, node_id: str, **wanted: str) -> dict[str, object]:
    """Poll until the node is shown as it is wanted."""
    deadline = time.monotonic() + 20
    while True:
        await node.poll()
        shown: dict[str, object] = await operator.get(f"/nodes/{node_id}")
        if all(shown[name] == value for name, value in wanted.items()):
            return shown
        assert time.monotonic() < deadline, (shown["group_name"], shown["last_answer"], wanted)
        await asyncio.sleep(0.1)


async def answered_anew(node: Node, operator, node_id: str, pool) -> None:
    """Until the ledger has told update_check what was imported, and a poll after that is written."""
    async with pool.acquire() as connection:
        mover = Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
        while await mover.step():
            pass
    before = (await operator.get(f"/nodes/{node_id}"))["last_answer_at"]
    deadline = time.monotonic() + 20
    while (await operator.get(f"/nodes/{node_id}"))["last_answer_at"] == before:
        assert time.monotonic() < deadline
        await node.poll()
        await asyncio.sleep(0.1)


async def all_polls_are_written(node: Node, operator, node_id: str) -> None:
    """Contacts are written a moment after their poll, each with the group that its node was in when it polled."""
    polled_at = datetime.now(UTC)
    await node.poll()
    deadline = time.monotonic() + 20
    while datetime.fromisoformat((await operator.get(f"/nodes/{node_id}"))["last_answer_at"]) < polled_at:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def found(operator, machine: str) -> str:
    deadline = time.monotonic() + 20
    while True:
        items = (await operator.get("/nodes", machine=machine))["items"]
        if items:
            return str(items[0]["node_id"])
        assert time.monotonic() < deadline, "the node was not recorded"
        await asyncio.sleep(0.05)


async def test_groups_are_the_same_for_operators_and_polls(operator, flatcar, update_check, session, pool):
    """By told facts, by imported ones, by name: control moves the node at once, and its next polls leave it there."""
    node = Node(session, update_check, machine_id="m1")
    await node.poll()
    node_id = await found(operator, "m1")
    await polled_until(node, operator, node_id, group_name="all", last_answer="no_rollout")
    racks = await operator.group("racks", app="flatcar", selector={"rack": ["r1"], "oem": ["ami"]})
    imported = {"application": "flatcar", "nodes": [{"machine": "m1", "facts": {"rack": "r1", "oem": "ec2"}}]}
    assert (await operator.post("/nodes/import", imported))["moved"] == 1
    await answered_anew(node, operator, node_id, pool)
    await polled_until(node, operator, node_id, group_name="racks")
    await all_polls_are_written(node, operator, node_id)
    named = await operator.group("named", app="flatcar", explicit_only=True, nodes=["m1"])
    assert (await operator.get(f"/nodes/{node_id}"))["group_id"] == named
    await polled_until(node, operator, node_id, group_name="named")
    why = await operator.get(f"/nodes/{node_id}/why")
    assert (why["answer"], why["findings"][0]["reason"]) == ("no_rollout", "no_rollout")
    (await operator.ask("DELETE", f"/groups/{named}", {"reason": "no more"})).ok()
    await polled_until(node, operator, node_id, group_name="racks")
    assert racks


async def test_gone_and_forgotten_nodes_come_back_when_they_poll(operator, flatcar, update_check, session, store):
    """One that was gone is there again; one that was forgotten is a new node."""
    node = Node(session, update_check, machine_id="m1")
    await node.poll()
    node_id = await found(operator, "m1")
    await operator.post(f"/nodes/{node_id}/gone", {"reason": "scaled in"})
    assert (await operator.get("/nodes", gone="true"))["items"] != []
    deadline = time.monotonic() + 20
    while (await operator.get("/nodes", gone="true"))["items"]:
        assert time.monotonic() < deadline
        await node.poll()
        await asyncio.sleep(0.1)
    await store.nodes.sweep(0)
    assert (await operator.get(f"/nodes/{node_id}"))["gone_at"] is None
    await operator.post(f"/nodes/{node_id}/forget", {"reason": "sold"})
    assert (await operator.get("/nodes"))["items"] == []
    deadline = time.monotonic() + 20
    while not (await operator.get("/nodes"))["items"]:
        assert time.monotonic() < deadline
        await node.poll()
        await asyncio.sleep(0.1)


async def test_real_polls_are_watched(operator, flatcar, update_check, session):
    """From the node's words to the operator's line, of an application that nobody knows too."""
    headers = {"Authorization": f"Bearer {operator.token}"}
    url = f"{operator.url}/api/v1/polls/stream"
    known = Node(session, update_check, machine_id="m1")
    stranger = known.request(check=True).replace(OMAHA_ID.encode(), b"00000000-0000-4000-8000-000000000000")
    answers: dict[str, str] = {}
    async with asyncio.timeout(40), session.get(url, params={"seconds": "60"}, headers=headers) as stream:
        while {"no_rollout", "unknown_application"} - answers.keys():
            await known.poll()
            await known.send(stranger)
            line = await stream.content.readline()
            if line.strip():
                poll = json.loads(line)
                answers[poll["answer"]] = poll["address"]
    assert answers["unknown_application"] == "127.0.0.1"
