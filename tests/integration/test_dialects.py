"""Omaha, Cincinnati and native nodes of one rollout, over HTTP, on a real database."""

from __future__ import annotations

import asyncio
import base64
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from services.simulator.fates import Fate
from services.simulator.native_node import NativeNode, Refused
from services.simulator.native_node import Step as NativeStep
from services.simulator.zincati import Step, ZincatiNode
from services.telemetry.app import make_app as make_telemetry
from services.telemetry.settings import Settings as TelemetrySettings
from services.update_check import graph_routes, native_routes
from services.update_check.app import FLOODS, KEEPER, make_app
from services.update_check.dialect_store import tell_floods
from services.update_check.flood import FloodGuard, Rate
from services.update_check.native_routes import POOL
from services.update_check.settings import Settings
from shared.clock import SystemClock
from shared.domain.identity import node_id_for
from shared.fleet.node_tokens import NodeTokenKind, make_node_token, node_token_hash
from shared.omaha.request import Event
from shared.settings import Secret
from shared.testing.rollouts import World, make_world, pretend_analysis_keeps_up

sys.path.insert(0, str(Path(__file__).parent))
from omaha_node import Node

OLD = "3033.2.0"
OLD_CHECKSUM = "0d" * 32
ROLLED_BACK = Event(3, 0, 44)


@asynccontextmanager
async def running(app) -> AsyncIterator[TestServer]:
    server = TestServer(app)
    await server.start_server(access_log=None)
    try:
        yield server
    finally:
        await server.close()


def base(server: TestServer) -> str:
    return str(server.make_url("")).rstrip("/")


@pytest.fixture
def overrides() -> dict[str, object]:
    """Settings that a test changes."""
    return {}


@pytest.fixture
async def world(pool) -> World:
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        return await make_world(connection, pace=100)


@pytest.fixture
async def server(database_url, world, tmp_path, overrides) -> AsyncIterator[TestServer]:
    settings = Settings(
        **{
            "database_url": Secret(database_url),
            "distribution_url": "http://127.0.0.1:9/",
            "spool_dir": str(tmp_path / "spool"),
            "contact_flush_s": 0.05,
            "cincinnati_application": "flatcar",
            **overrides,
        }
    )
    async with running(make_app(settings)) as server:
        yield server


@pytest.fixture
async def telemetry(database_url, world) -> AsyncIterator[str]:
    async with running(make_telemetry(TelemetrySettings(database_url=Secret(database_url)))) as server:
        yield base(server)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def coreos(number: int = 0, **changes) -> ZincatiNode:
    return ZincatiNode(**{"node_uuid": f"{number:032x}", "version": OLD, "payload": OLD_CHECKSUM} | changes)


def native(server: TestServer, telemetry: str = "", number: int = 0, **changes) -> NativeNode:
    return NativeNode(
        **{
            "machine_id": f"native-{number}",
            "application": "flatcar",
            "version": OLD,
            "check_url": base(server),
            "report_url": telemetry,
            "rng": random.Random(number),
        }
        | changes
    )


async def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


async def attempts(pool) -> dict[str, list[str]]:
    """Attempt states by machine id, oldest first."""
    rows = await pool.fetch(
        "SELECT n.machine_id, a.state FROM fleet.attempts a JOIN fleet.nodes n USING (node_id) ORDER BY a.granted_at"
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["machine_id"], []).append(row["state"])
    return found


async def hold(pool, world: World) -> None:
    """No more of it for bare metal."""
    await pool.execute(
        "SELECT control.hold_segment_v1($1, $2, $3, 'r', 'test', NULL, $4, 'test')",
        uuid.uuid4(),
        world.changeset_id,
        {"platform": "metal"},
        uuid.uuid4(),
    )


async def know_older_release(pool, world: World) -> None:
    """A release of before, on the stable stream as the world's is."""
    older, channel = uuid.uuid4(), uuid.uuid4()
    await pool.execute(
        "INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state, published_at) "
        "VALUES ($1, $2, '3033.1.0', 'amd64', 'image', 'published', now())",
        older,
        world.application_id,
    )
    await pool.execute(
        "INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size) "
        "VALUES ($1, 0, 'main', 'update.gz', $2, 'I6DGNAOrJRUxPbCuLw+AITfiVMo=', 1)",
        older,
        "1e" * 32,
    )
    await pool.execute(
        "INSERT INTO control.channels (channel_id, application_id, name, arch) VALUES ($1, $2, 'stable', 'amd64')",
        channel,
        world.application_id,
    )
    await pool.execute(
        "INSERT INTO control.channel_history (channel_id, changeset_id, promoted_by) "
        "SELECT $1, u.id, 'test' FROM unnest($2::uuid[]) AS u(id)",
        channel,
        [older, world.changeset_id],
    )
    await pool.execute("SELECT control.raise_policy_version_v1()")


async def ask_graph(session, server, headers=None, path: str = "/v1/graph", **changes: str) -> tuple[int, dict, dict]:
    query = {**coreos().query(), **changes}
    async with session.get(server.make_url(path), params=query, headers=headers or {}) as answer:
        return answer.status, await answer.json(content_type=None), dict(answer.headers)


async def settle(server: TestServer, pool) -> None:
    """Wait until the service has seen what the test changed; only its own task moves its snapshot."""
    wanted = await pool.fetchval("SELECT control.raise_policy_version_v1()")
    keeper = server.app[KEEPER]
    keeper.wake()

    async def seen() -> bool:
        return keeper.configuration.policy_version >= wanted

    await until(seen)


# All three


async def test_three_dialects_share_one_rollout(session, server, telemetry, pool, world):
    """Each node gets the same release by its own words; what becomes of it is known of all."""
    omaha = [Node(session, base(server) + "/v1/update") for _ in range(3)]
    zincatis = [coreos(number) for number in range(3)]
    natives = [native(server, telemetry, number) for number in range(3)]
    natives[2].fate = Fate.ROLLS_BACK

    for node in omaha:
        assert (await node.poll()).offered
        await node.stage()
        node.reboot(world.version)
        await node.poll(Event(3, 2, None, OLD))
    for node in zincatis:
        assert await node.tick(session, base(server)) is Step.UPDATED
        assert node.payload == world.sha256
        assert await node.tick(session, base(server)) is Step.NO_UPDATE
    assert [await node.tick(session) for node in natives] == [
        NativeStep.COMMITTED, NativeStep.COMMITTED, NativeStep.ROLLED_BACK,
    ]  # fmt: skip

    async def all_known() -> bool:
        states = [state for states in (await attempts(pool)).values() for state in states]
        return sorted(states) == ["committed"] * 8 + ["rolled_back"]

    await until(all_known)
    dialects = await pool.fetch("SELECT dialect, count(*) FROM fleet.nodes GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in dialects] == [("cincinnati", 3), ("native", 3), ("omaha", 3)]
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 1
    # What rolled back is not offered again.
    assert await natives[2].tick(session) is NativeStep.NO_UPDATE


async def test_one_pace_holds_for_all_of_them(session, server, telemetry, pool, world):
    """One node in flight, whatever it speaks, is all that a pace of one allows."""
    await pool.execute("UPDATE control.changeset_gates SET pace = 1")
    await settle(server, pool)

    assert await coreos(0, fate=Fate.SILENT).tick(session, base(server)) is Step.SILENT
    assert await coreos(1).tick(session, base(server)) is Step.NO_UPDATE
    assert (await native(server).check(session))["reason"] == "changeset_pace"
    assert not (await Node(session, base(server) + "/v1/update").poll()).offered
    assert await attempts(pool) == {f"{0:032x}": ["staged"]}


async def test_each_of_them_takes_the_floor_first(session, server, telemetry, pool, world):
    """A barrier in zincati's words: it leads there, then on; the others get the same two releases in turn."""
    async with pool.acquire() as connection:
        floor = await make_world(
            connection, version="3033.2.0.5", payload=b"floor", pace=100, supersede=False, purpose="floor"
        )
        await connection.execute(
            "UPDATE control.changesets SET floor = true, floor_reason = 'new signing key' WHERE changeset_id = $1",
            floor.changeset_id,
        )
    await settle(server, pool)
    node, other = coreos(), native(server, telemetry)

    for version in (floor.version, world.version):
        assert await node.tick(session, base(server)) is Step.UPDATED
        assert node.version == version
        assert await other.tick(session) is NativeStep.COMMITTED
        assert other.version == version
    assert node.last is not None
    barrier = next(one for one in node.last.nodes if one.version == floor.version)
    assert barrier.metadata["org.fedoraproject.coreos.updates.barrier_reason"] == "new signing key"


# Cincinnati


async def test_an_edge_is_a_grant(session, server, pool, world):
    """The edge comes with its event; asked again in the same boot it is there again, and it is no second grant."""
    for _ in range(2):
        status, graph, headers = await ask_graph(session, server)
        assert status == 200
        assert [node["version"] for node in graph["nodes"]] == [OLD, world.version]
        assert graph["nodes"][1]["payload"] == world.sha256
        assert graph["edges"] == [[0, 1]]
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Vary"] == "Accept"
    types = [row[0] for row in await pool.fetch("SELECT type FROM event_log.inbox ORDER BY position")]
    assert types == ["node.enrolled.v1", "update.offered.v1", "update.staged.v1", "update.reboot_awaited.v1"]
    assert await attempts(pool) == {coreos().node_uuid: ["awaiting_reboot"]}
    facts = await pool.fetchval("SELECT facts FROM fleet.nodes")
    assert facts == {"arch": "amd64", "group": "default", "platform": "metal", "track": "stable"}


async def test_what_was_not_taken_gives_way_to_what_is_newer(session, server, pool, world):
    """A node that asks again from its old version is shown the newer release; the attempt before it is over."""
    node = coreos(fate=Fate.ROLLS_BACK)
    assert await node.tick(session, base(server)) is Step.ROLLED_BACK
    assert await node.tick(session, base(server)) is Step.NO_UPDATE
    async with pool.acquire() as connection:
        fixed = await make_world(connection, version="3033.2.2", payload=b"fixed", pace=100)
    await settle(server, pool)
    node.fate = Fate.GOOD

    assert await node.tick(session, base(server)) is Step.UPDATED
    assert node.version == fixed.version
    assert await node.tick(session, base(server)) is Step.NO_UPDATE

    async def over() -> bool:
        return await attempts(pool) == {node.node_uuid: ["failed", "committed"]}

    await until(over)
    assert await pool.fetchval("SELECT reason FROM fleet.attempts WHERE state = 'failed'") == "not_taken"


async def test_a_node_that_goes_back_has_rolled_back(session, server, pool, world):
    """Seen by its version alone; the release is not offered to it again."""
    node = coreos()
    assert await node.tick(session, base(server)) is Step.UPDATED
    assert await node.tick(session, base(server)) is Step.NO_UPDATE
    node.version, node.payload = OLD, OLD_CHECKSUM
    assert await node.tick(session, base(server)) is Step.NO_UPDATE

    async def rolled_back() -> bool:
        return await attempts(pool) == {node.node_uuid: ["rolled_back"]}

    await until(rolled_back)
    assert await node.tick(session, base(server)) is Step.NO_UPDATE
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 1


@pytest.mark.parametrize("stop", ["halt", "pause", "hold"])
async def test_what_is_stopped_has_no_edge(session, server, pool, world, stop):
    """A halt, a pause, a hold of the node's segment: the edge is just not there."""
    if stop == "halt":
        await pool.execute(
            "SELECT control.halt_changeset_v1($1, 'bad', 'test', NULL, $2, 'test')", world.changeset_id, uuid.uuid4()
        )
    elif stop == "pause":
        await pool.execute(
            "SELECT control.transition_rollout_v1($1, 'paused', 'r', 'test', $2, 'test')",
            world.rollout_id,
            uuid.uuid4(),
        )
    else:
        await hold(pool, world)
    await settle(server, pool)

    _, graph, _ = await ask_graph(session, server)
    assert graph["edges"] == []
    _, other, _ = await ask_graph(session, server, platform="aws", node_uuid="another")
    assert other["edges"] == ([[0, 1]] if stop == "hold" else [])
    assert len(await attempts(pool)) == (1 if stop == "hold" else 0)


async def test_a_hold_is_a_conditional_edge_for_whoever_looks(session, server, pool, world):
    """In OpenShift's shape, from the releases that the asking node does not run."""
    await hold(pool, world)
    await know_older_release(pool, world)
    await settle(server, pool)

    _, graph, _ = await ask_graph(session, server)
    assert [node["version"] for node in graph["nodes"]] == ["3033.1.0", OLD, world.version]
    assert graph["edges"] == []
    (held,) = graph["conditionalEdges"]
    assert held["edges"] == [{"from": "3033.1.0", "to": world.version}]
    assert held["risks"][0]["matchingRules"] == [{"type": "Facts", "facts": {"platform": "metal"}}]


async def test_a_wary_node_waits_and_no_node_jumps_its_wave(session, server, pool, world):
    """What it says of its wariness makes it later; earlier only the waves' width does."""
    await pool.execute("UPDATE control.rollouts SET fraction = 0.000001")
    await settle(server, pool)
    assert (await ask_graph(session, server, rollout_wariness="0.000000"))[1]["edges"] == []

    await pool.execute("UPDATE control.rollouts SET fraction = 1")
    await settle(server, pool)
    assert (await ask_graph(session, server, rollout_wariness="1.000000"))[1]["edges"] == [[0, 1]]


async def test_nothing_is_granted_that_a_node_cannot_fetch(session, server, pool, world):
    """A node that fetches from a registry, and a release without a pullspec; then one with it."""
    oci = {"oci": "true", "os_checksum": "quay.io/os@sha256:" + "0" * 64}
    assert (await ask_graph(session, server, **oci))[1]["edges"] == []
    assert await attempts(pool) == {}

    pullspec = "quay.io/fedora/fedora-coreos@sha256:" + "1" * 64
    await pool.execute("UPDATE control.changesets SET source = $1", "docker://" + pullspec)
    await settle(server, pool)
    node = coreos(oci=True, payload=oci["os_checksum"])
    assert await node.tick(session, base(server)) is Step.UPDATED
    assert node.payload == pullspec


@pytest.mark.parametrize("wariness", ["NaN", "-0.000001", "1.5", "inf", "much"])
async def test_a_wariness_that_is_none_is_refused(session, server, pool, wariness):
    """In Cincinnati's words; and nothing is recorded."""
    status, answer, headers = await ask_graph(session, server, rollout_wariness=wariness)
    assert status == 400
    assert answer["kind"] == "invalid_input"
    assert "rollout_wariness" in answer["value"]
    assert headers["Cache-Control"] == "no-store"
    assert await pool.fetchval("SELECT count(*) FROM fleet.nodes") == 0


async def test_what_is_asked_wrongly_is_refused_in_cincinnatis_words(session, server):
    """An application that is not there, a type that is not JSON, a parameter twice."""
    status, answer, _ = await ask_graph(session, server, path="/cincinnati/nobody/v1/graph")
    assert (status, answer["kind"]) == (404, "not_found")
    status, answer, _ = await ask_graph(session, server, headers={"Accept": "text/html"})
    assert (status, answer["kind"]) == (406, "not_acceptable")
    async with session.get(str(server.make_url("/v1/graph?oci=true&oci=true"))) as twice:
        assert (twice.status, (await twice.json())["kind"]) == (400, "invalid_input")


async def test_an_arch_that_nothing_is_rolled_out_to_is_not_looked_up(session, server, pool):
    """Made-up names cost no query; the node finds itself, and nothing leads on."""
    status, graph, _ = await ask_graph(session, server, basearch="made-up")
    assert (status, len(graph["nodes"]), graph["edges"]) == (200, 1, [])
    assert server.app[graph_routes.RELEASES]._known == {}


async def test_openshifts_type_is_answered_in_kind(session, server):
    """Where that alone is taken; an application is named in the path too."""
    accept = {"Accept": "application/vnd.redhat.cincinnati.v1+json"}
    status, _, headers = await ask_graph(session, server, headers=accept, path="/cincinnati/flatcar/v1/graph")
    assert (status, headers["Content-Type"]) == (200, accept["Accept"])


@pytest.mark.parametrize("overrides", [{"omaha_secret": "s3cret-s3cret"}])
async def test_behind_a_secret_the_graph_is_nowhere_else(session, server):
    """As Omaha's endpoint is."""
    assert (await ask_graph(session, server, path="/cincinnati/flatcar/s3cret-s3cret/v1/graph"))[1]["edges"] == [[0, 1]]
    for path in ("/v1/graph", "/cincinnati/flatcar/v1/graph", "/cincinnati/flatcar/another-secret/v1/graph"):
        status, answer, _ = await ask_graph(session, server, path=path)
        assert (status, answer["kind"]) == (404, "path_secret_unknown")


async def test_a_minted_secret_speaks_for_its_machine(session, server, pool, world):
    """In the path of the graph as in Omaha's."""
    secret = make_node_token(NodeTokenKind.PATH)
    await pool.execute(
        "INSERT INTO control.node_tokens (token_id, application_id, kind, machine_id, token_sha256, created_by) "
        "VALUES ($1, $2, 'path', $3, $4, 'test')",
        uuid.uuid4(),
        world.application_id,
        coreos().node_uuid,
        node_token_hash(secret),
    )
    await settle(server, pool)
    path = f"/cincinnati/flatcar/{secret}/v1/graph"
    assert (await ask_graph(session, server, path=path))[1]["edges"] == [[0, 1]]
    status, answer, _ = await ask_graph(session, server, path=path, node_uuid="another")
    assert (status, answer["kind"]) == (403, "path_secret_refused")


# Native


async def test_a_native_node_is_told_all_that_it_needs(session, server, pool, world):
    """Deadline, probation, rate, manifest with signatures, and where each file is."""
    await pool.execute(
        "UPDATE control.changesets SET manifest = 'signed', signatures = $1",
        [{"key_id": "k1", "signature": "c2lnbmF0dXJl"}],
    )
    await pool.execute(
        "INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size, required) "
        "VALUES ($1, 1, 'extra', 'oem.gz', $2, 'I6DGNAOrJRUxPbCuLw+AITfiVMo=', 7, false)",
        world.changeset_id,
        "ee" * 32,
    )
    await pool.execute("UPDATE control.rollouts SET policy = $1", {"probation_s": 60, "download_rate": 4096})
    await settle(server, pool)

    answer = await native(server, facts={"site": "fra1"}).check(session)

    update = answer.pop("update")
    server_time = answer.pop("server_time")
    assert server_time.endswith("Z")
    assert answer == {
        "decision": "update",
        "reason": "granted",
        "words": "It was offered the update.",
        "recall": False,
        "recall_reason": None,
        "poll_interval_s": 2700,
        "poll_jitter": 0.1,
    }
    token = update.pop("attempt")
    where = f"http://127.0.0.1:9/payloads/{world.sha256}/{token}/"
    assert update == {
        "changeset_id": str(world.changeset_id),
        "version": world.version,
        "deadline_s": 9000.0,
        "probation_s": 60.0,
        "download_rate": 4096,
        "manifest": base64.b64encode(b"signed").decode(),
        "signatures": [{"key_id": "k1", "signature": "c2lnbmF0dXJl"}],
        "payloads": [
            {
                "name": "update.gz", "role": "main", "required": True, "sha256": world.sha256, "size": 7,
                "urls": [where + "update.gz"],
            },
            {
                "name": "oem.gz", "role": "extra", "required": False, "sha256": "ee" * 32, "size": 7,
                "urls": [where + "oem.gz"],
            },
        ],
    }  # fmt: skip
    # The same attempt again, until something happens to it.
    assert (await native(server).check(session))["update"]["attempt"] == token
    assert await pool.fetchval("SELECT facts FROM fleet.nodes") == {"arch": "amd64"}


async def test_stop_means_stop(session, server, telemetry, pool, world):
    """A node that has staged what is halted then is told before it reboots, by whatever replica it asks."""
    node = native(server, telemetry)
    token = (await node.check(session))["update"]["attempt"]
    await node.report(session, "staged")
    assert not (await node.check(session, (token, "staged")))["recall"]

    await pool.execute(
        "SELECT control.halt_changeset_v1($1, 'too many rolled back', 'test', NULL, $2, 'test')",
        world.changeset_id,
        uuid.uuid4(),
    )
    answer = await node.check(session, (token, "staged"))
    assert (answer["decision"], answer["update"]) == ("none", None)
    assert (answer["recall"], answer["recall_reason"]) == (True, "too many rolled back")
    other = await native(server, number=2).check(session, (token, "staged"))
    assert (other["recall"], other["recall_reason"]) == (True, "there is no such attempt of this node")


STOPS = {
    "everything": "UPDATE control.global_gate SET open = false",
    "excluded": "INSERT INTO control.rollout_exclusions SELECT rollout_id, node_id, 'r', 'test' "
    "FROM control.rollouts, fleet.nodes",
    "held": "SELECT control.hold_segment_v1(gen_random_uuid(), changeset_id, '{\"arch\": \"amd64\"}', 'r', 'test', "
    "NULL, gen_random_uuid(), 'test') FROM control.changesets",
    "aborted": "SELECT control.transition_rollout_v1(rollout_id, 'aborted', 'r', 'test', gen_random_uuid(), 'test') "
    "FROM control.rollouts",
}


STOPPED_BY = {
    "everything": "everything is halted",
    "excluded": "the node was excluded from the rollout",
    "held": "the changeset is held for nodes like this one",
    "aborted": "the rollout was aborted",
}


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("stop", STOPS)
async def test_what_is_staged_is_recalled_when_the_node_asks_before_its_reboot(session, server, telemetry, pool, stop):
    """Whatever stopped it; asked again, it is told the same, and what it says afterwards is no evidence."""
    node = native(server, telemetry)
    token = (await node.check(session))["update"]["attempt"]
    await node.report(session, "staged")
    await pool.execute(STOPS[stop])
    for _ in range(2):
        answer = await node.check(session, (token, "staged"))
        assert (answer["recall"], answer["recall_reason"]) == (True, STOPPED_BY[stop])
    await node.report(session, "failed")
    assert await attempts(pool) == {node.machine_id: ["recalled"]}
    told = await pool.fetch("SELECT type, data -> 'applied' AS applied FROM event_log.inbox WHERE type LIKE 'update.%'")
    assert [(row["type"], row["applied"]) for row in told][-2:] == [
        ("update.recalled.v1", True),
        ("update.failed.v1", False),
    ]


async def test_a_node_in_probation_goes_back_while_everything_is_halted_and_is_offered_it_anew(
    session, server, telemetry, pool, world
):
    """It was told to let go before it committed: that is neither bad nor a quarantine."""
    node = native(server, telemetry)
    token = (await node.check(session))["update"]["attempt"]
    await node.report(session, "staged")
    former, node.version, node.boot_id = node.boot_id, world.version, str(uuid.uuid4())
    await node.report(session, "booted")
    await pool.execute(STOPS["excluded"])
    assert not (await node.check(session, (token, "probation")))["recall"]
    await pool.execute("DELETE FROM control.rollout_exclusions")
    await pool.execute(STOPS["everything"])
    assert (await node.check(session, (token, "probation")))["recall_reason"] == "everything is halted"
    node.version, node.boot_id = OLD, f"{former}-again"
    await node.report(session, "rolled_back")
    assert await attempts(pool) == {node.machine_id: ["recalled"]}
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 0

    await pool.execute("UPDATE control.global_gate SET open = true")
    await settle(server, pool)

    async def offered_anew() -> bool:
        return (await node.check(session))["decision"] == "update"

    await until(offered_anew)
    assert await attempts(pool) == {node.machine_id: ["recalled", "offered"]}


async def test_an_offer_is_not_repeated_once_everything_is_halted(session, server, pool, world):
    """Omaha gets noupdate and a native node none, also before this replica has heard of it; then they get it anew."""
    omaha, agent = Node(session, base(server) + "/v1/update"), native(server)
    assert (await omaha.poll()).offered
    token = (await agent.check(session))["update"]["attempt"]
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(STOPS["everything"])
        await connection.execute("SELECT control.raise_policy_version_v1()")
        assert await connection.fetchval("SELECT fleet.recall_everything_v1('everything halted', 'control')") == 2
    assert not (await omaha.poll()).offered
    answer = await agent.check(session, (token, "offered"))
    assert (answer["decision"], answer["recall"], answer["recall_reason"]) == ("none", True, "everything halted")

    await pool.execute("UPDATE control.global_gate SET open = true")
    await settle(server, pool)

    async def offered_anew() -> bool:
        return (await omaha.poll()).offered

    await until(offered_anew)
    assert (await attempts(pool))[omaha.machine_id] == ["recalled", "offered"]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"application": "nobody"}, "HTTP 404"),
        ({"machine_id": ""}, "HTTP 400"),
        ({"machine_id": "m" * 129}, "HTTP 400"),
        ({"boot_id": "b\0"}, "HTTP 400"),
        ({"facts": {str(number): "x" for number in range(65)}}, "HTTP 400"),
        ({"facts": {"a": "x" * 40_000}}, "HTTP 413"),
    ],
)
async def test_a_check_is_bounded(session, server, pool, changes, refusal):
    """A clear refusal, and nothing recorded."""
    node = native(server, **{k: v for k, v in changes.items() if k != "boot_id"})
    node.boot_id = changes.get("boot_id", node.boot_id)
    with pytest.raises(Refused, match=refusal):
        await node.check(session)
    assert await pool.fetchval("SELECT count(*) FROM fleet.nodes") == 0


async def test_an_application_has_three_names(session, server, world):
    """Its id, its Omaha id and its name; a check by hand says so."""
    for name in ("flatcar", str(world.application_id), "{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}"):
        assert (await native(server, application=name).check(session))["decision"] == "update"


@pytest.fixture
async def enrolment_token(pool, world) -> str:
    token = make_node_token(NodeTokenKind.ENROLMENT)
    await pool.execute(
        "INSERT INTO control.node_tokens (token_id, application_id, kind, group_id, token_sha256, created_by) "
        "VALUES ($1, $2, 'enrolment', $3, $4, 'test')",
        uuid.uuid4(),
        world.application_id,
        world.group_id,
        node_token_hash(token),
    )
    return token


@pytest.mark.parametrize("overrides", [{"require_node_tokens": True}])
async def test_enrolled_nodes_alone_are_answered_where_that_is_required(session, server, enrolment_token, pool, world):
    """A token of its own for each machine, once; it speaks for that machine and puts it into its group."""
    await pool.execute("UPDATE control.groups SET selector = $1", {"site": ["nowhere"]})
    await settle(server, pool)
    node, stranger = native(server), native(server, number=1)
    with pytest.raises(Refused, match="401"):
        await node.check(session)

    await node.enrol(session, enrolment_token)
    first = node.token
    await node.enrol(session, enrolment_token)
    assert node.token == first
    assert (await node.check(session))["decision"] == "update"

    stranger.token = node.token
    with pytest.raises(Refused, match="403"):
        await stranger.check(session)
    thief = native(server, rng=random.Random(7))
    with pytest.raises(Refused, match="409"):
        await thief.enrol(session, enrolment_token)
    with pytest.raises(Refused, match="401"):
        await stranger.enrol(session, make_node_token(NodeTokenKind.ENROLMENT))
    async with session.post(server.make_url("/v1/enrol"), json={}) as answer:
        assert answer.status == 401
    assert await pool.fetchval("SELECT count(*) FROM control.node_tokens WHERE kind = 'node'") == 1


async def test_while_postgres_is_away_nothing_is_granted_and_nothing_is_called_off(session, server, telemetry, pool):
    """What cannot be known now is answered 503; a graph that was read before is served, without an edge."""
    node = native(server, telemetry)
    token = (await node.check(session))["update"]["attempt"]
    assert (await ask_graph(session, server))[1]["edges"] == [[0, 1]]
    server.app[POOL].terminate()

    with pytest.raises(Refused, match="503"):
        await node.check(session, (token, "staged"))
    with pytest.raises(Refused, match="503"):
        await native(server, token=make_node_token(NodeTokenKind.NODE)).check(session)
    status, graph, _ = await ask_graph(session, server, node_uuid="another")
    assert (status, graph["edges"]) == (200, [])
    server.app[graph_routes.RELEASES]._known.clear()
    status, answer, headers = await ask_graph(session, server)
    assert (status, answer["kind"], headers["Retry-After"]) == (503, "unavailable", "60")
    guard = FloodGuard(machine=Rate(1, 1), address=Rate(0, 1))
    for _ in range(3):
        guard.take(node_id_for(uuid.UUID(int=1), "any"), "m", None, 0.0)
    await tell_floods(server.app[POOL], guard, SystemClock().now())
    assert [flood.dropped for flood in guard.drain()] == [2]


async def test_a_fault_of_ours_is_answered_and_logged(session, server, pool):
    """In each dialect's own words, without a word of what went wrong inside."""
    await pool.execute("ALTER TABLE control.payloads RENAME TO payloads_elsewhere")
    status, answer, _ = await ask_graph(session, server)
    assert (status, answer["kind"]) == (500, "fault")
    with pytest.raises(Refused, match="500"):
        await native(server).check(session)


async def test_only_so_much_is_remembered(pool, world, monkeypatch):
    """Applications, archs and changesets that nobody asks for any more are forgotten."""
    monkeypatch.setattr(graph_routes, "MAX_KINDS", 1)
    monkeypatch.setattr(native_routes, "MAX_CHANGESETS", 1)
    releases, details = graph_routes.ReleaseBook(pool, SystemClock()), native_routes.DetailsBook(pool)
    for arch in ("amd64", "arm64", "amd64"):
        found = (await releases.catalogue(world.application_id, arch, 1)).releases
        assert [one.version for one in found] == ([world.version] if arch == "amd64" else [])
    both = await asyncio.gather(*(releases.catalogue(world.application_id, "amd64", 2) for _ in range(2)))
    assert both[0] is both[1]
    assert (await details.of(world.changeset_id)).payloads[0].sha256 == world.sha256
    assert (await details.of(uuid.uuid4())).payloads == ()
    assert len(releases._known) == len(details._known) == 1


async def test_a_simulated_node_hears_of_a_recall_and_may_fall_silent(session, server, telemetry, pool, world):
    """Before its reboot it lets go; one that goes down for good says nothing more."""
    node = native(server, telemetry)
    check = node.check

    async def halted_meanwhile(session, attempt=None):
        if attempt is not None:
            await pool.execute(
                "SELECT control.halt_changeset_v1($1, 'bad', 'test', NULL, $2, 'test')",
                world.changeset_id,
                uuid.uuid4(),
            )
        return await check(session, attempt)

    silent = native(server, telemetry, 1, fate=Fate.SILENT)
    assert await silent.tick(session) is NativeStep.SILENT
    assert await silent.tick(session) is NativeStep.SILENT
    lost = coreos(7, fate=Fate.SILENT)
    assert await lost.tick(session, base(server)) is Step.SILENT
    assert await lost.tick(session, base(server)) is Step.SILENT
    back = coreos(8, fate=Fate.ROLLS_BACK)
    assert await back.tick(session, base(server)) is Step.ROLLED_BACK
    assert await back.tick(session, base(server)) is Step.NO_UPDATE

    class Interrupted(NativeNode):
        async def check(self, session, attempt=None):
            return await halted_meanwhile(session, attempt)

    interrupted = Interrupted(
        machine_id=node.machine_id, application="flatcar", version=OLD, check_url=node.check_url,
        report_url=node.report_url, rng=random.Random(3), boot_id=node.boot_id,
    )  # fmt: skip
    assert await interrupted.tick(session) is NativeStep.RECALLED
    assert (await attempts(pool))[node.machine_id] == ["recalled"]


# Floods


def forwarded(node: Node, address: str) -> Node:
    """A node whose requests come through a proxy that says from where."""

    async def send(body: bytes):
        headers = {"Content-Type": "text/xml", "X-Forwarded-For": address}
        async with node.session.post(node.url, data=body, headers=headers) as response:
            return type("Sent", (), {"status": response.status, "body": await response.read()})()

    node.send = send
    return node


FLOODING = {"trust_forwarded_for": True, "flood_address_per_minute": 1.0, "flood_address_burst": 20}


@pytest.mark.parametrize("overrides", [FLOODING])
async def test_a_liar_moves_no_evidence_and_is_seen(session, server, pool, world):
    """Rollbacks of machines that have no attempt: recorded as such up to the rate, dropped beyond, told once."""
    honest = Node(session, base(server) + "/v1/update")
    assert (await honest.poll()).offered
    for number in range(50):
        liar = forwarded(Node(session, base(server) + "/v1/update", machine_id=f"made-up-{number}"), "192.0.2.99")
        answer = await liar.send(liar.request(ROLLED_BACK, ping=True, check=True))
        assert answer.status == 200
        assert b'status="error' not in answer.body
        if number >= 20:
            assert b'<updatecheck status="noupdate"' in answer.body

    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 0
    applied = await pool.fetch("SELECT data ->> 'applied' FROM event_log.inbox WHERE type = 'update.rolled_back.v1'")
    assert len(applied) == 20
    assert {row[0] for row in applied} == {"false"}
    assert (await attempts(pool))[honest.machine_id] == ["offered"]

    async def told() -> bool:
        return await pool.fetchval("SELECT count(*) FROM event_log.inbox WHERE type = 'fleet.flooded.v1'") == 1

    await until(told)
    flood = await pool.fetchrow("SELECT kind, source, dropped FROM fleet.floods")
    assert tuple(flood) == ("address", "192.0.2.99", 30)


@pytest.mark.parametrize("overrides", [{"flood_machine_per_minute": 1.0, "flood_machine_burst": 2}])
async def test_a_machine_that_repeats_itself_is_dropped_and_still_polls(session, server, pool):
    """Its polls go on; a report without a check is acknowledged."""
    node = Node(session, base(server) + "/v1/update")
    for _ in range(4):
        assert (await node.event(13)).status == 200
    assert server.app[FLOODS].drain()[0].dropped == 2
    assert (await node.poll()).offered


async def test_omaha_reports_move_open_attempts_only(session, server, pool, world):
    """Of a node that never had one, and of one whose attempt is closed: recorded, and nothing moves."""
    nobody = Node(session, base(server) + "/v1/update")
    await nobody.event(3, 0, 44)
    failed = Node(session, base(server) + "/v1/update")
    assert (await failed.poll()).offered
    await failed.event(3, 0, 9)
    failed.reboot()
    await failed.event(14)
    assert await attempts(pool) == {failed.machine_id: ["failed"]}
    unmoved = await pool.fetchval("SELECT count(*) FROM event_log.inbox WHERE data ->> 'applied' = 'false'")
    assert unmoved == 2
    node_id = node_id_for(world.application_id, nobody.machine_id)
    assert await pool.fetchval("SELECT last_attempt_id FROM fleet.nodes WHERE node_id = $1", node_id) is None
