"""Node tokens and floods: what operators make, see and revoke."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from shared.clock import SystemClock
from shared.errors import NotAuthenticated
from shared.fleet import node_tokens
from shared.fleet.node_tokens import NodeTokenCheck, NodeTokenKind, node_token_hash
from shared.testing.clock import ManualClock

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def group_id(operator, app) -> str:
    await operator.channel()
    return await operator.group("edge")


async def enrol(pool, app, token: str, machine: str, new: str) -> tuple[str, uuid.UUID | None]:
    row = await pool.fetchrow(
        "SELECT status, group_id FROM control.enrol_node_v1($1, $2, $3, $4, $5, '192.0.2.7', $6)",
        uuid.UUID(app["application_id"]),
        node_token_hash(token),
        machine,
        uuid.uuid4(),
        node_token_hash(new),
        uuid.uuid4(),
    )
    return row["status"], row["group_id"]


async def test_a_secret_is_shown_once_and_kept_as_its_hash(operator, app, group_id, pool):
    """The answer to making it holds it; no list does, and the database has 32 bytes."""
    made = await operator.post("/node-tokens", {"application": "os", "kind": "enrolment", "group": "edge"})

    assert made["token"].startswith("unr_")
    assert (made["group_id"], made["group_name"], made["created_by"]) == (group_id, "edge", "operator")
    listed = (await operator.get("/node-tokens", application="os"))["items"]
    assert [{**item, "token": made["token"]} for item in listed] == [made]
    assert await operator.get(f"/node-tokens/{made['token_id']}") == listed[0]
    assert await pool.fetchval("SELECT token_sha256 FROM control.node_tokens") == node_token_hash(made["token"])


async def test_a_machine_enrols_once(operator, app, group_id, pool, events):
    """The same token again is no news; another one for the same machine is refused until the first is revoked."""
    secret = (await operator.post("/node-tokens", {"application": "os", "kind": "enrolment", "group": group_id}))[
        "token"
    ]

    assert await enrol(pool, app, secret, "m1", "t1") == ("enrolled", uuid.UUID(group_id))
    assert await enrol(pool, app, secret, "m1", "t1") == ("again", uuid.UUID(group_id))
    assert await enrol(pool, app, secret, "m1", "t2") == ("taken", uuid.UUID(group_id))
    assert await enrol(pool, app, "unr_wrong", "m2", "t3") == ("refused", None)
    assert await events("node.token_issued") == ["node.token_issued.v1"]

    (token,) = (await operator.get("/node-tokens", kind="node", machine="m1"))["items"]
    await operator.post(f"/node-tokens/{token['token_id']}/revoke", {"reason": "reinstalled"})
    assert await enrol(pool, app, secret, "m1", "t1") == ("refused", None)
    assert await enrol(pool, app, secret, "m1", "t2") == ("enrolled", uuid.UUID(group_id))


async def test_a_revoked_or_expired_enrolment_token_enrols_nobody(operator, app, group_id, pool):
    """Nor does one of another application."""
    body = {"application": "os", "kind": "enrolment", "group": "edge", "expires_in_s": 3600}
    revoked, expired, foreign = [await operator.post("/node-tokens", body) for _ in range(3)]
    await operator.post(f"/node-tokens/{revoked['token_id']}/revoke", {"reason": "leaked"})
    await operator.post(f"/node-tokens/{revoked['token_id']}/revoke", {"reason": "twice is nothing"})
    await pool.execute(
        "UPDATE control.node_tokens SET expires_at = now() WHERE token_id = $1", uuid.UUID(expired["token_id"])
    )

    assert await enrol(pool, app, revoked["token"], "m1", "t1") == ("refused", None)
    assert await enrol(pool, app, expired["token"], "m1", "t1") == ("refused", None)
    other = await operator.post("/applications", {"name": "other"})
    assert await enrol(pool, other, foreign["token"], "m1", "t1") == ("refused", None)
    in_force = (await operator.get("/node-tokens"))["items"]
    assert [item["token_id"] for item in in_force] == [foreign["token_id"]]
    assert len((await operator.get("/node-tokens", revoked=True))["items"]) == 3


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"kind": "enrolment"}, (400, "invalid_input")),
        ({"kind": "enrolment", "group": "edge", "machine": "m"}, (400, "invalid_input")),
        ({"kind": "path", "group": "edge"}, (400, "invalid_input")),
        ({"kind": "node", "machine": "m"}, (400, "invalid_input")),
        ({"kind": "enrolment", "group": "nobody"}, (404, "not_found")),
        ({"kind": "path", "application": "nobody"}, (404, "not_found")),
    ],
)
async def test_what_fits_no_kind_is_refused(operator, app, group_id, body, refusal):
    """And nothing is made."""
    (await operator.ask("POST", "/node-tokens", {"application": "os", **body})).refused(*refusal)
    assert (await operator.get("/node-tokens"))["items"] == []


async def test_an_unknown_token_is_not_found(operator, app):
    """Neither shown nor revoked."""
    (await operator.ask("GET", f"/node-tokens/{UNKNOWN}")).refused(404, "not_found")
    (await operator.ask("POST", f"/node-tokens/{UNKNOWN}/revoke", {"reason": "r"})).refused(404, "not_found")


async def test_a_viewer_makes_no_token(viewer, app):
    """Whoever may only look."""
    (await viewer.ask("POST", "/node-tokens", {"application": "os", "kind": "path"})).refused(403, "not_permitted")


async def test_services_find_tokens_in_force(operator, app, group_id, pool):
    """By their hash; a revoked one is taken for ten seconds at most, an expired one not at all."""
    clock = ManualClock(datetime.now(UTC))
    check = NodeTokenCheck(pool, clock)
    made = await operator.post(
        "/node-tokens", {"application": "os", "kind": "path", "machine": "m1", "expires_in_s": 3600}
    )
    found = await check.find(made["token"])
    assert found is not None
    assert (found.kind, found.machine_id, str(found.application_id)) == (
        NodeTokenKind.PATH, "m1", app["application_id"],
    )  # fmt: skip

    await operator.post(f"/node-tokens/{made['token_id']}/revoke", {"reason": "leaked"})
    assert await check.find(made["token"]) == found
    clock.advance(node_tokens.REMEMBER_S + 1)
    assert await check.find(made["token"]) is None

    another = await operator.post("/node-tokens", {"application": "os", "kind": "path", "expires_in_s": 60})
    assert await check.find(another["token"]) is not None
    clock.advance(61)
    assert await check.find(another["token"]) is None
    assert await check.find("no token") is None


async def test_only_so_many_tokens_are_remembered(operator, app, pool, monkeypatch):
    """Memory does not grow with what comes."""
    monkeypatch.setattr(node_tokens, "MAX_REMEMBERED", 1)
    check = NodeTokenCheck(pool, SystemClock())
    made = [await operator.post("/node-tokens", {"application": "os", "kind": "path"}) for _ in range(2)]
    for one in made:
        assert await check.find(one["token"]) is not None
    assert len(check._known) == 1


async def test_a_path_secret_is_no_nodes_token(operator, app, pool):
    """It stands in URLs, so it proves nothing in a header."""
    made = await operator.post("/node-tokens", {"application": "os", "kind": "path"})
    check = NodeTokenCheck(pool, SystemClock())
    with pytest.raises(NotAuthenticated):
        await check.node_of({"Authorization": f"Bearer {made['token']}"}, required=False)


async def test_floods_are_shown_the_newest_first_and_told_once_a_minute(operator, app, pool, events):
    """What was dropped adds up; the ledger hears of a source at most once a minute, with all since the last time."""
    application_id = uuid.UUID(app["application_id"])

    async def flood(source: str, dropped: int, at: datetime) -> None:
        await pool.execute(
            "SELECT fleet.flooded_v1($1, $2, $3, $4, $5)", [application_id], ["address"], [source], [dropped], at
        )

    now = datetime.now(UTC)
    await flood("192.0.2.1", 5, now - timedelta(seconds=9))
    await flood("192.0.2.2", 1, now - timedelta(seconds=8))
    await flood("192.0.2.1", 7, now)
    shown = (await operator.get("/floods", application="os"))["items"]
    assert [(one["source"], one["dropped"]) for one in shown] == [("192.0.2.1", 12), ("192.0.2.2", 1)]
    assert await events("fleet.flooded") == ["fleet.flooded.v1"] * 2

    await pool.execute("UPDATE fleet.floods SET told_at = told_at - interval '2 min'")
    await flood("192.0.2.1", 1, now + timedelta(days=31))
    assert [one["source"] for one in (await operator.get("/floods"))["items"]] == ["192.0.2.1"]
    told = await pool.fetch(
        "SELECT data FROM event_log.inbox WHERE type = 'fleet.flooded.v1' AND data ->> 'source' = '192.0.2.1' "
        "ORDER BY position"
    )
    assert [row["data"]["dropped"] for row in told] == [5, 8]
