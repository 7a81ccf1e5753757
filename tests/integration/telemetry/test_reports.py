"""Reports over HTTP into a real Postgres: durable before the 202, once whatever is repeated, forward only."""

from __future__ import annotations

import asyncio
import io
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import orjson
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

import services.telemetry
from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.telemetry.app import make_app
from services.telemetry.settings import Settings
from shared.db import create_pool, migrate
from shared.fleet.node_tokens import NodeTokenKind, make_node_token, node_token_hash
from shared.settings import Secret

WAY = ["download_started", "downloaded", "staged", "booted", "committed"]
RANK = ["offered", "downloading", "staged", "awaiting_reboot", "rebooting", "probation", "committed"]


async def post(client, body, **headers) -> tuple[int, dict]:
    async with client.post(
        "/v1/reports", data=orjson.dumps(body), headers={"Content-Type": "application/json", **headers}
    ) as response:
        return response.status, orjson.loads(await response.read())


async def taken(client, body) -> dict:
    status, answer = await post(client, body)
    assert status == 202, answer
    return answer


async def inbox(pool) -> list[asyncpg.Record]:
    return await pool.fetch("SELECT * FROM event_log.inbox ORDER BY position")


async def state_of(pool, fleet, number: int) -> str:
    return await pool.fetchval("SELECT state FROM fleet.attempts WHERE node_id = $1", fleet.node_id(number))


async def test_a_report_is_committed_before_its_202(client, grow, pool):
    """The attempt has moved, its event is in the inbox with all that was said, and the caller's trace with it."""
    fleet = await grow(1)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    report = fleet.report(0, "download_started", seconds=1)
    status, answer = await post(client, report, traceparent=trace)
    assert (status, answer) == (202, {"accepted": 1, "duplicates": 0, "errors": []})
    assert await state_of(pool, fleet, 0) == "downloading"
    (event,) = await inbox(pool)
    assert event["type"] == "update.download_started.v1"
    assert str(event["event_id"]) == report["event_id"]
    assert event["traceparent"] == trace
    assert event["occurred_at"] == fleet.granted_at + timedelta(seconds=1)
    data = event["data"]
    assert (data["applied"], data["source"], data["site"]) == (True, "native", "fra1")
    assert (data["state_before"], data["state_after"]) == ("offered", "downloading")


async def test_the_whole_way_commits(client, grow, pool):
    """Every step in one request, in order."""
    fleet = await grow(1)
    answer = await taken(client, {"reports": [fleet.report(0, kind, seconds=i) for i, kind in enumerate(WAY)]})
    assert answer["accepted"] == len(WAY)
    assert await state_of(pool, fleet, 0) == "committed"
    assert [event["type"] for event in await inbox(pool)] == [f"update.{kind}.v1" for kind in WAY]


async def test_what_is_sent_twice_at_once_counts_once(client, grow, pool):
    """200 posts of the same 20 reports, all at once: each event is there once, and one post says it was first."""
    fleet = await grow(20)
    reports = [fleet.report(i, "download_started") for i in range(20)]
    answers = await asyncio.gather(*(taken(client, report) for report in reports * 10))
    assert sum(answer["accepted"] for answer in answers) == 20
    assert sum(answer["duplicates"] for answer in answers) == 180
    batch = await taken(client, reports * 2)
    assert batch == {"accepted": 0, "duplicates": 40, "errors": []}
    assert len(await inbox(pool)) == 20


async def test_replicas_that_get_the_same_reports_count_them_once(database_url, grow, pool):
    """Three services on one database, the same reports of the same nodes in different orders: no loss, no deadlock."""
    fleet = await grow(50)
    reports = [fleet.report(i, kind, seconds=s) for i in range(50) for s, kind in enumerate(WAY[:3])]
    settings = Settings(database_url=Secret(database_url))

    async def replica(seed: int) -> int:
        order = random.Random(seed)
        accepted = 0
        async with TestClient(TestServer(make_app(settings), access_log=None, auto_decompress=False)) as client:
            shuffled = order.sample(reports, len(reports))
            for start in range(0, len(shuffled), 25):
                accepted += (await taken(client, shuffled[start : start + 25]))["accepted"]
        return accepted

    assert sum(await asyncio.gather(*(replica(seed) for seed in range(3)))) == len(reports)
    events = await inbox(pool)
    assert sorted(str(event["event_id"]) for event in events) == sorted(report["event_id"] for report in reports)


async def test_errors_are_told_one_by_one(client, grow, pool):
    """What is wrong is named by its place; the rest of the request is taken."""
    fleet = await grow(2)
    answer = await taken(
        client,
        [
            fleet.report(0, "staged"),
            {"kind": "staged"},
            fleet.report(0, "staged", application="nobody"),
            fleet.report(0, "staged", at=(datetime.now(UTC) + timedelta(hours=1)).isoformat()),
            fleet.report(1, "staged"),
        ],
    )
    assert answer["accepted"] == 2
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (1, "invalid_input"),
        (2, "application_unknown"),
        (3, "at_in_future"),
    ]
    assert len(await inbox(pool)) == 2


async def test_only_errors_is_still_a_202(client, grow):
    """Nothing is left to send again."""
    await grow(1)
    assert (await taken(client, [{}, {}]))["accepted"] == 0


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_input"),
        (b"[]", "application/json", 400, "invalid_input"),
        (b"<xml/>", "application/xml", 415, "unsupported_type"),
        (b"[" + b" " * 2**20 + b"]", "application/json", 413, "too_large"),
        (orjson.dumps([{}] * 1001), "application/json", 413, "too_large"),
    ],
    ids=["malformed", "empty", "xml", "large", "many"],
)
async def test_a_body_that_is_wholly_wrong_is_a_problem(client, body, content_type, status, code):
    """Problem bodies, though this route runs without middlewares."""
    async with client.post("/v1/reports", data=io.BytesIO(body), headers={"Content-Type": content_type}) as response:
        assert response.status == status
        assert response.content_type == "application/problem+json"
        assert (await response.json(content_type=None))["code"] == code


async def test_applications_are_found_by_name_id_and_omaha_id(client, grow, pool):
    """One that was made a moment ago is found as well."""
    fleet = await grow(1)
    for name in (fleet.name, str(fleet.application_id), f"{{{str(fleet.application_id).upper()}}}"):
        assert (await taken(client, fleet.report(0, "ping", application=name)))["errors"] == []
    await pool.execute("INSERT INTO control.applications (application_id, name) VALUES ($1, 'new')", uuid.uuid4())
    assert (await taken(client, fleet.report(5, "ping", application="new")))["errors"] == []


async def test_a_node_never_heard_of_is_enrolled(client, grow, pool):
    """Its first word makes its row, and an event of its own before that of the report."""
    fleet = await grow(0)
    await taken(client, [fleet.report(9, "staged", arch="arm64"), fleet.report(9, "ping", arch="arm64")])
    row = await pool.fetchrow("SELECT * FROM fleet.nodes")
    assert (row["machine_id"], row["version"], row["arch"], row["group_id"]) == ("m9", "1.0", "arm64", None)
    assert [event["type"] for event in await inbox(pool)] == ["node.enrolled.v1", "update.staged.v1"]


@pytest.mark.parametrize("overrides", [{"max_waiting": 10}])
async def test_when_full_it_says_when_to_come_again(client, grow, pool):
    """With Postgres held up, what does not fit gets 503 with Retry-After, and is not in the inbox afterwards."""
    fleet = await grow(40)
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK fleet.nodes IN ACCESS EXCLUSIVE MODE")
        posts = [asyncio.create_task(post(client, fleet.report(i, "staged"))) for i in range(40)]
        done, _ = await asyncio.wait(posts, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done
        await transaction.rollback()
    answers = await asyncio.gather(*posts)
    refused = [answer for status, answer in answers if status == 503]
    assert refused
    assert all(answer["code"] == "unavailable" for answer in refused)
    assert len(await inbox(pool)) == sum(status == 202 for status, _ in answers)


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_moves_an_attempt_only_forward(client, grow, pool, seed):
    """Reports repeated and out of order, in requests of one or two: the state never goes back, and ends committed."""
    order = random.Random(seed)
    fleet = await grow(3)
    reports = [fleet.report(i, kind, seconds=s) for i in range(3) for s, kind in enumerate(WAY)]
    reports += order.choices(reports, k=10)
    # Each node's own last word comes first or last or in between.
    order.shuffle(reports)
    ranks = [0, 0, 0]
    while reports:
        size = order.randint(1, 2)
        await taken(client, reports[:size])
        del reports[:size]
        for i in range(3):
            rank = RANK.index(await state_of(pool, fleet, i))
            assert rank >= ranks[i]
            ranks[i] = rank
    assert [RANK[rank] for rank in ranks] == ["committed"] * 3
    moved = [event["data"]["state_after"] for event in await inbox(pool) if event["data"]["applied"]]
    assert moved.count("committed") == 3


async def test_a_lie_after_the_end_changes_nothing(client, grow, pool):
    """A failed attempt stays failed whatever else is said of it; what is said is recorded as not applied."""
    fleet = await grow(1)
    await taken(client, fleet.report(0, "failed", seconds=1, error_code=9, error_class="network"))
    for kind in ("download_started", "staged", "booted", "committed"):
        await taken(client, fleet.report(0, kind, seconds=2))
    assert await state_of(pool, fleet, 0) == "failed"
    events = await inbox(pool)
    assert [event["data"]["applied"] for event in events] == [True, False, False, False, False]
    assert events[0]["data"]["error_code"] == 9


async def test_a_rollback_quarantines(client, grow, pool):
    """The node is not offered the changeset again."""
    fleet = await grow(1)
    await taken(client, [fleet.report(0, "staged", seconds=1), fleet.report(0, "booted", seconds=2)])
    await taken(client, fleet.report(0, "rolled_back", seconds=3, boot_id="b2", reason="health check"))
    assert await state_of(pool, fleet, 0) == "rolled_back"
    assert await pool.fetchval("SELECT changeset_id FROM fleet.quarantine") == fleet.changeset_id
    assert [event["type"] for event in await inbox(pool)][-2:] == ["update.rolled_back.v1", "node.quarantined.v1"]


async def test_ten_thousand_reports(client, grow, pool):
    """Prints how many reports a second are acknowledged, alone and in requests of 100."""
    fleet = await grow(2000)
    before = len(await inbox(pool))
    for size, kind in ((100, "download_started"), (1, "staged")):
        reports = [fleet.report(i, kind, seconds=RANK.index("staged")) for i in range(2000)]
        requests = iter([reports[i : i + size] for i in range(0, 2000, size)])
        started = time.perf_counter()

        async def work(requests=requests):
            for request in requests:
                await taken(client, request)

        await asyncio.gather(*(work() for _ in range(100)))
        print(f"requests of {size}: {2000 / (time.perf_counter() - started):.0f} reports/s, client and service in one")  # noqa: T201  # a figure to look at
    assert len(await inbox(pool)) == before + 4000


async def test_the_routes_are_those_of_openapi(client):
    """Every route is described, and nothing else is."""
    text = Path(services.telemetry.__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    described = {
        (method.upper(), path) for path, operations in yaml.safe_load(text)["paths"].items() for method in operations
    }
    assert {(route.method, route.resource.canonical) for route in client.server.app.router.routes()} == described


@pytest.mark.processes
async def test_what_was_acknowledged_survives_postgres(tmp_path_factory, grow):
    """Postgres is killed while reports come: 503 meanwhile, and every 202 is in the inbox once afterwards."""
    directory = tmp_path_factory.mktemp("postgres")
    directory.chmod(0o711)
    server = PostgresServer(directory, port=free_ports(1)[0])
    await server.start()
    try:
        await server.create_database("telemetry")
        url = server.url("telemetry")
        await migrate(url)
        pool = await create_pool(url, application_name="test")
        fleet = await grow(300, pool=pool)
        settings = Settings(database_url=Secret(url), flush_timeout_s=3.0)
        acknowledged: set[str] = set()
        statuses: set[int] = set()
        async with TestClient(TestServer(make_app(settings), access_log=None, auto_decompress=False)) as client:
            killed = asyncio.Event()

            async def agent(number: int) -> None:
                """Sends a node's whole way, each report until it is acknowledged."""
                for seconds, kind in enumerate(WAY):
                    report = fleet.report(number, kind, seconds=seconds)
                    while True:
                        status, _ = await post(client, report)
                        statuses.add(status)
                        if status == 202:
                            acknowledged.add(report["event_id"])
                            break
                        assert status == 503
                        await asyncio.sleep(0.1)
                    if number >= 100 and kind == "downloaded":
                        await killed.wait()

            agents = [asyncio.create_task(agent(number)) for number in range(300)]
            while len(acknowledged) < 400:  # noqa: ASYNC110  # counted by 300 agents
                await asyncio.sleep(0.005)
            server.kill()
            await server.wait()
            killed.set()
            assert (await post(client, fleet.report(0, "ping")))[0] == 503
            await server.start()
            await asyncio.gather(*agents)
            assert 503 in statuses
        events = await inbox(pool)
        assert len(acknowledged) == 300 * len(WAY)
        assert sorted(str(event["event_id"]) for event in events) == sorted(acknowledged)
        states = await pool.fetch("SELECT state, count(*) FROM fleet.attempts GROUP BY state")
        assert [tuple(row) for row in states] == [("committed", 300)]
        pool.terminate()
    finally:
        await server.stop()


@pytest.fixture
async def token_of(pool):
    """Gives a node its own token, as enrolling does."""

    async def give(fleet, number: int) -> str:
        token = make_node_token(NodeTokenKind.NODE)
        await pool.execute(
            "INSERT INTO control.node_tokens (token_id, application_id, kind, machine_id, token_sha256, created_by) "
            "VALUES ($1, $2, 'node', $3, $4, 'test')",
            uuid.uuid4(),
            fleet.application_id,
            f"m{number}",
            node_token_hash(token),
        )
        return token

    return give


async def test_a_nodes_token_speaks_for_that_node_alone(client, grow, pool, token_of):
    """What it says about another one moves nothing; a token that is none is refused whole."""
    fleet = await grow(2)
    token = await token_of(fleet, 0)
    both = [fleet.report(0, "staged"), fleet.report(1, "rolled_back")]

    status, answer = await post(client, both, Authorization=f"Bearer {token}")
    assert status == 202
    assert answer["accepted"] == 1
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [(1, "not_permitted")]
    assert await state_of(pool, fleet, 0) == "staged"
    assert await state_of(pool, fleet, 1) == "offered"
    status, answer = await post(client, both, Authorization="Bearer unn_" + 43 * "x")
    assert (status, answer["code"]) == (401, "not_authenticated")


@pytest.mark.parametrize("overrides", [{"require_node_tokens": True}])
async def test_where_tokens_are_required_none_is_refused(client, grow, pool, token_of):
    """Nothing of the request is taken; with the token it is."""
    fleet = await grow(1)
    status, answer = await post(client, fleet.report(0, "staged"))
    assert (status, answer["code"]) == (401, "not_authenticated")
    assert await state_of(pool, fleet, 0) == "offered"

    status, answer = await post(client, fleet.report(0, "staged"), Authorization=f"Bearer {await token_of(fleet, 0)}")
    assert (status, answer["accepted"]) == (202, 1)
    assert await pool.fetchval("SELECT dialect FROM fleet.nodes WHERE node_id = $1", fleet.node_id(0)) == "native"
