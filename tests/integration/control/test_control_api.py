"""The API of control on a real database: what operators do, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

import services.control
from services.control.__main__ import keep_token
from services.control.app import make_app
from services.control.conduct import Move
from services.control.settings import Settings
from services.control.tokens import Role
from services.event_log.mover import Mover
from shared.domain.rollout import RolloutState
from shared.errors import Conflict
from shared.settings import Secret

UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def move_all(pool) -> None:
    """Have the log record what is in the inbox."""
    async with pool.acquire() as connection:
        mover = Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
        while await mover.step():
            pass


async def test_whole_way_of_a_release(operator, app, fleet, events):
    """Application, changeset, publish, channel, group, promote: a running rollout with its gate, paces and events."""
    changeset_id = await operator.changeset("2.0.0")
    channel_id = await operator.channel()
    group_id = await operator.group()
    for number in range(100):
        await fleet.node(f"m{number}", group_id, "1.0.0")

    started = await operator.promote(channel_id, changeset_id)

    assert len(started) == 1
    rollout = await operator.get(f"/rollouts/{started[0]}")
    assert rollout["state"] == "running"
    assert rollout["parameters"]["fleet_size"] == rollout["parameters"]["group_size"] == 100
    assert rollout["pace"] == rollout["parameters"]["group_hold_budget"] == 5
    assert rollout["gate"] == {**rollout["gate"], "state": "open", "pace": 10, "evidence": None, "resumes": 0}
    assert rollout["nodes"] == {
        "total": 100, "on_target": 0, "left": 100, "quarantined": 0, "excluded": 0, "silent": 0, "cloned": 0,
    }  # fmt: skip
    assert rollout["standstill"] is None
    assert (await operator.get(f"/channels/{channel_id}"))["version"] == "2.0.0"
    history = (await operator.get(f"/channels/{channel_id}/history"))["items"]
    assert [(item["version"], item["promoted_by"]) for item in history] == [("2.0.0", "operator")]
    assert await events() == [
        "changeset.published.v1",
        "policy.changed.v1",
        "channel.promoted.v1",
        "rollout.created.v1",
        "rollout.started.v1",
    ]


async def test_answers_have_the_members_that_are_described(operator, app, fleet):
    """Each kind of answer against its schema in openapi.yaml: nothing more, nothing less."""
    schemas = yaml.safe_load(Path(services.control.__file__).with_name("openapi.yaml").read_text())["components"][
        "schemas"
    ]
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    group_id = await operator.group()
    promoted = await operator.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id})
    node_id = await fleet.node("m1", group_id, "1.0.0")
    await fleet.attempt(node_id, promoted["rollouts"][0])
    await fleet.quarantine(node_id, changeset_id)
    changeset, node = await operator.get(f"/changesets/{changeset_id}"), await operator.get(f"/nodes/{node_id}")
    rollout = await operator.get(f"/rollouts/{promoted['rollouts'][0]}")
    for schema, answer in {
        "Server": await operator.get("/server"),
        "GlobalGate": await operator.get("/halt"),
        "Application": await operator.get("/applications/os"),
        "Changeset": changeset,
        "ChangesetGate": changeset["gate"],
        "Payload": changeset["payloads"][0],
        "Channel": promoted["channel"],
        "PromotionResult": promoted,
        "ChannelPromotion": (await operator.get(f"/channels/{channel_id}/history"))["items"][0],
        "Group": await operator.get(f"/groups/{group_id}"),
        "RolloutListed": (await operator.get("/rollouts"))["items"][0],
        "Rollout": rollout,
        "RolloutParameters": rollout["parameters"],
        "NodeListed": (await operator.get("/nodes"))["items"][0],
        "Node": node,
        "Attempt": node["attempts"][0],
        "Quarantine": node["quarantines"][0],
        "LedgerHead": await operator.get("/ledger"),
        "Verification": await operator.get("/ledger/verify"),
        "Problem": (await operator.ask("GET", "/applications/nobody")).body,
    }.items():
        assert set(answer) == set(schemas[schema]["properties"]), schema
    listed = (await operator.get("/changesets"))["items"][0]
    assert set(listed) == set(schemas["Changeset"]["required"])


async def test_events_name_who_and_belong_to_their_rollout(operator, app, pool):
    """What the fold and people need stands in the events: the operator, the frozen numbers, one correlation."""
    changeset_id = await operator.changeset("2.0.0")
    channel_id = await operator.channel()
    await operator.group(policy={"allowed_bad_rate": 0.02})
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    rows = {row["type"]: row for row in await pool.fetch("SELECT * FROM event_log.inbox")}
    created = rows["rollout.created.v1"]
    assert created["data"]["parameters"]["p0"] == 0.02
    assert created["correlation_id"] == rows["rollout.started.v1"]["correlation_id"] == rollout_id
    assert created["partition_key"] == rows["rollout.started.v1"]["partition_key"] == changeset_id
    assert rows["channel.promoted.v1"]["data"]["by"] == "operator"
    assert rows["changeset.published.v1"]["data"]["payloads"][0]["role"] == "main"


async def test_everything_twice_is_the_same_once(operator, app, events):
    """Each creation answers 201, then 200 with the same thing; a promotion again starts nothing and tells nothing."""
    for path, body in [
        ("/applications", {"name": "other", "omaha_id": "{ABC}"}),
        ("/changesets", {"application": "other", "version": "1.2.3", "arch": "aarch64", "notes": "n"}),
        ("/channels", {"application": "other", "name": "beta", "arch": "aarch64"}),
        ("/groups", {"application": "other", "name": "all", "channel": "beta", "policy": {"max_attempts": 3}}),
    ]:
        first, second = await operator.ask("POST", path, body), await operator.ask("POST", path, body)
        assert (first.status, second.status) == (201, 200)
        assert first.body == second.body
    changeset_id = await operator.changeset("2.0.0")
    assert await operator.changeset("2.0.0") == changeset_id
    channel_id = await operator.channel()
    await operator.group()
    before = await operator.promote(channel_id, changeset_id)
    told = await events()
    assert len(before) == 1
    assert await operator.promote(channel_id, changeset_id) == []
    assert await events() == told


async def test_other_content_under_a_taken_name_is_a_conflict(operator, app):
    """What exists is never changed by creating it again."""
    await operator.changeset("2.0.0")
    await operator.channel()
    await operator.group()
    for path, body in [
        ("/applications", {"name": "os"}),
        ("/applications", {"name": "os2", "omaha_id": "e96281a6-d1af-4bde-9a0a-97b76e56dc57"}),
        ("/changesets", {"application": "os", "version": "2.0.0", "arch": "x86_64", "notes": "another"}),
        ("/groups", {"application": "os", "name": "all", "channel": "stable", "selector": {"oem": ["azure"]}}),
        ("/groups", {"application": "os", "name": "more", "channel": "stable", "position": 1}),
    ]:
        (await operator.ask("POST", path, body)).refused(409, "conflict")
    assert len((await operator.get("/groups"))["items"]) == 1
    assert len((await operator.get("/applications"))["items"]) == 1


async def test_promote_supersedes_the_active_rollout(operator, app, events):
    """A group has one active rollout per arch: the next one takes its place, in one transaction."""
    first, second = await operator.changeset("2.0.0"), await operator.changeset("3.0.0")
    channel_id = await operator.channel()
    await operator.group()
    (old,) = await operator.promote(channel_id, first)
    (new,) = await operator.promote(channel_id, second)
    assert (await operator.get(f"/rollouts/{old}"))["state"] == "superseded"
    assert (await operator.get(f"/rollouts/{old}"))["standstill"] == "rollout_superseded"
    active = (await operator.get("/rollouts", active="true"))["items"]
    assert [item["rollout_id"] for item in active] == [new]
    assert (await events("rollout."))[-3:] == ["rollout.superseded.v1", "rollout.created.v1", "rollout.started.v1"]
    again = await operator.promote(channel_id, first)
    assert len(again) == 1
    assert again != [old]


async def test_what_cannot_be_promoted(operator, app):
    """A draft, another arch, another application, nothing at all: each is refused, and the channel stays."""
    channel_id = await operator.channel()
    await operator.post("/applications", {"name": "other"})
    draft = await operator.changeset("2.0.0", publish=False)
    other_arch = await operator.changeset("2.0.0", arch="aarch64")
    other_app = await operator.changeset("2.0.0", app="other")
    for changeset_id, word in [(draft, "publish"), (other_arch, "aarch64"), (other_app, "other")]:
        refused = await operator.ask("POST", f"/channels/{channel_id}/promote", {"changeset": changeset_id})
        assert word in refused.refused(409, "conflict")
    missing = await operator.ask("POST", f"/channels/{channel_id}/promote", {"changeset": UNKNOWN})
    missing.refused(404, "not_found")
    assert (await operator.get(f"/channels/{channel_id}"))["changeset_id"] is None


async def test_a_halted_changeset_cannot_be_promoted_until_it_is_resumed(operator, app, fleet, events):
    """A halt stops its rollouts and every promotion; resuming starts them again, and counts."""
    changeset_id = await operator.changeset("2.0.0")
    channel_id, other_id = await operator.channel(), await operator.channel("beta")
    group_id = await operator.group()
    await operator.group("early", channel="beta")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    attempt_id = await fleet.attempt(await fleet.node("m1", group_id, "1.0.0"), rollout_id)

    halted = await operator.post(f"/changesets/{changeset_id}/halt", {"reason": "it smells"})
    assert (halted["gate"]["state"], halted["gate"]["reason"]) == ("halted", "it smells")
    again = await operator.post(f"/changesets/{changeset_id}/halt", {"reason": "still"})
    assert again["gate"]["reason"] == "it smells"
    shown = await operator.get(f"/rollouts/{rollout_id}")
    assert (shown["state"], shown["standstill"]) == ("halted", "changeset_halted")
    assert shown["attempts"] == {"recalled": 1}, attempt_id

    refused = await operator.ask("POST", f"/channels/{other_id}/promote", {"changeset": changeset_id})
    assert "esume it first" in refused.refused(409, "conflict")
    assert "esume it" in (await operator.ask("POST", f"/rollouts/{rollout_id}/resume", {"reason": "go"})).refused(
        409, "conflict"
    )

    resumed = await operator.post(f"/changesets/{changeset_id}/resume", {"reason": "it was the proxy"})
    assert (resumed["gate"]["state"], resumed["gate"]["resumes"]) == ("open", 1)
    assert (await operator.get(f"/rollouts/{rollout_id}"))["state"] == "running"
    assert len(await operator.promote(other_id, changeset_id)) == 1
    assert (await events("changeset."))[1:] == ["changeset.halted.v1", "changeset.resumed.v1"]


async def test_a_changeset_can_be_halted_before_its_first_rollout(operator, app, store):
    """The halt holds for groups that come later; resumed, they begin with their pace."""
    changeset_id = await operator.changeset("2.0.0")
    channel_id = await operator.channel()
    await operator.promote(channel_id, changeset_id)
    assert (await operator.get(f"/changesets/{changeset_id}"))["gate"] is None
    await operator.post(f"/changesets/{changeset_id}/halt", {"reason": "wait"})
    group_id = await operator.group()
    (rollout,) = (await operator.get("/rollouts", group=group_id))["items"]
    assert rollout["state"] == "halted"
    await operator.post(f"/changesets/{changeset_id}/resume", {"reason": "go"})
    await store.rollouts.conduct_all()
    shown = await operator.get(f"/rollouts/{rollout['rollout_id']}")
    assert (shown["state"], shown["gate"]["pace"]) == ("running", 10)


async def test_a_new_group_gets_the_channels_changeset_at_once(operator, app):
    """Whoever begins to follow a channel follows it from now on, on every arch; leaving it ends what it had."""
    await operator.post("/channels", {"application": "os", "name": "empty", "arch": "x86_64"})
    for arch in ("x86_64", "aarch64"):
        await operator.promote(await operator.channel(arch=arch), await operator.changeset("2.0.0", arch=arch))
    group_id = await operator.group()
    rollouts = (await operator.get("/rollouts", group=group_id))["items"]
    assert {item["arch"]: item["state"] for item in rollouts} == {"x86_64": "running", "aarch64": "running"}

    (await operator.ask("PATCH", f"/groups/{group_id}", {"channel": "empty"})).ok()
    rollouts = (await operator.get("/rollouts", group=group_id))["items"]
    assert {item["state"] for item in rollouts} == {"aborted"}
    (await operator.ask("PATCH", f"/groups/{group_id}", {"channel": "stable"})).ok()
    assert len((await operator.get("/rollouts", group=group_id, active="true"))["items"]) == 2


async def test_policy_changes_are_merged_judged_and_told(operator, app, events, pool):
    """A patch replaces what it names, null takes a value back, what is wrong changes nothing."""
    await operator.channel()
    group_id = await operator.group(policy={"allowed_bad_rate": 0.05, "max_attempts": 2})
    patched = await operator.ask(
        "PATCH", f"/groups/{group_id}", {"policy": {"max_attempts": None, "hold_budget": 7}, "updates_enabled": False}
    )
    group = patched.ok()
    assert group["policy"] == {"allowed_bad_rate": 0.05, "hold_budget": 7}
    assert group["effective_policy"]["max_attempts"] == 5
    version = await pool.fetchval("SELECT policy_version FROM control.global_gate")
    told = await events()
    for patch in [
        {"policy": {"allowed_bad_rate": 2}},
        {"policy": {"allowed_bad_rte": 0.1}},
        {"policy": {"allowed_bad_rte": None}},
        {"policy": {"contact_overdue_s": 1}},
        {"channel": "nowhere"},
        {"selector": {"oem": []}},
        {"colour": "blue"},
    ]:
        (await operator.ask("PATCH", f"/groups/{group_id}", patch)).refused(400, "invalid_input")
    (await operator.ask("PATCH", f"/groups/{group_id}", {})).ok()
    assert await operator.get(f"/groups/{group_id}") == group
    assert await events() == told
    assert await pool.fetchval("SELECT policy_version FROM control.global_gate") == version
    assert told[-1] == "policy.changed.v1"


async def test_a_running_rollout_keeps_its_policy(operator, app):
    """What was frozen stays; the next rollout gets the new policy."""
    channel_id = await operator.channel()
    group_id = await operator.group(policy={"hold_budget": 3})
    (first,) = await operator.promote(channel_id, await operator.changeset("2.0.0"))
    (await operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"hold_budget": 4}})).ok()
    (second,) = await operator.promote(channel_id, await operator.changeset("3.0.0"))
    assert (await operator.get(f"/rollouts/{first}"))["parameters"]["hold_budget"] == 3
    assert (await operator.get(f"/rollouts/{second}"))["gate"]["pace"] == 4


async def test_rollouts_are_paused_halted_resumed_and_aborted(operator, app, events):
    """Each move once, with its event; what is over stays over."""
    channel_id = await operator.channel()
    await operator.group()
    (rollout_id,) = await operator.promote(channel_id, await operator.changeset("2.0.0"))

    async def move(verb: str):
        return await operator.ask("POST", f"/rollouts/{rollout_id}/{verb}", {"reason": f"to {verb}"})

    assert (await move("resume")).ok()["state"] == "running"
    paused = (await move("pause")).ok()
    assert (paused["state"], paused["reason"], paused["standstill"]) == ("paused", "to pause", "rollout_paused")
    assert (await move("pause")).ok()["state"] == "paused"
    assert (await move("resume")).ok()["state"] == "running"
    assert (await move("halt")).ok()["state"] == "halted"
    (await move("pause")).refused(409, "conflict")
    assert (await move("resume")).ok()["state"] == "running"
    assert (await move("abort")).ok()["state"] == "aborted"
    for verb in ("resume", "pause", "halt"):
        (await move(verb)).refused(409, "conflict")
    moves = [kind.split(".")[1] for kind in await events("rollout.")]
    assert moves == ["created", "started", "paused", "resumed", "halted", "resumed", "aborted"]


async def test_resuming_a_braked_small_group_tells_the_analysis(operator, app, pool, events):
    """A running rollout whose group has pace 0 goes on by an operator's word: paused and resumed, in one step."""
    channel_id = await operator.channel()
    await operator.group()
    (rollout_id,) = await operator.promote(channel_id, await operator.changeset("2.0.0"))
    await pool.execute("UPDATE control.rollouts SET pace = 0")
    await operator.post(f"/rollouts/{rollout_id}/resume", {"reason": "a flat battery"})
    assert (await events("rollout."))[-2:] == ["rollout.paused.v1", "rollout.resumed.v1"]


async def test_halting_everything(operator, app, events, fleet, pool):
    """The global gate shuts and opens once each; what is not staged is recalled; a rollout says why it stands still."""
    channel_id = await operator.channel()
    group_id = await operator.group()
    (rollout_id,) = await operator.promote(channel_id, await operator.changeset("2.0.0"))
    for number, state in enumerate(("offered", "downloading", "staged")):
        await fleet.attempt(await fleet.node(f"node-{number}", group_id, "1.0.0"), rollout_id, state)
    assert (await operator.get("/halt"))["open"] is True
    (await operator.ask("POST", "/halt", {"reason": "fire"}, dry_run="true")).ok()
    assert (await operator.get(f"/rollouts/{rollout_id}"))["attempts"] == {"offered": 1, "downloading": 1, "staged": 1}
    for _ in range(2):
        gate = await operator.post("/halt", {"reason": "fire"})
        assert (gate["open"], gate["reason"]) == (False, "fire")
    found = await operator.get(f"/rollouts/{rollout_id}")
    assert (found["standstill"], found["attempts"]) == ("halted_everywhere", {"recalled": 2, "staged": 1})
    assert await events("update.") == ["update.recalled.v1"] * 2
    assert (await operator.get("/status"))["nodes"]["will_boot_stopped"] == 1
    acted = await pool.fetchval(
        "SELECT data ->> 'subject' FROM event_log.inbox WHERE type = 'operator.acted.v1' ORDER BY position DESC LIMIT 1"
    )
    assert acted == "gates/global"
    told = await events("policy.")
    assert (await operator.post("/unhalt", {"reason": "out"}))["open"] is True
    assert len(await events("policy.")) == len(told) + 1


async def test_publishing_needs_one_main_payload_first(operator, app, events):
    """Without a main payload, with two, or with it behind another: refused; published, it never changes."""
    empty = (await operator.post("/changesets", {"application": "os", "version": "1.0.1", "arch": "x86_64"}))[
        "changeset_id"
    ]

    async def add(changeset_id: str, name: str, **more):
        digest = hashlib.sha256(name.encode()).hexdigest()
        body = {"name": name, "sha256": digest, "sha1_base64": "2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "size": 9, **more}
        return await operator.ask("POST", f"/changesets/{changeset_id}/payloads", body)

    async def publish(changeset_id: str):
        return await operator.ask("POST", f"/changesets/{changeset_id}/publish")

    assert "no main payload" in (await publish(empty)).refused(409, "conflict")
    (await add(empty, "kernel", role="extra")).ok()
    (await add(empty, "update.gz")).ok()
    assert "position 0" in (await publish(empty)).refused(409, "conflict")
    good = await operator.changeset("1.0.2", publish=False)
    assert (await add(good, "sysext.raw", role="extra", required=False)).status == 201
    assert (await add(good, "sysext.raw", role="extra", required=False)).status == 200
    (await add(good, "sysext.raw", role="extra", size=10)).refused(409, "conflict")
    (await add(good, "another", position=0)).refused(409, "conflict")
    published = (await publish(good)).ok()
    assert published["state"] == "published"
    assert [item["position"] for item in published["payloads"]] == [0, 1]
    assert (await publish(good)).ok()["published_at"] == published["published_at"]
    assert "cannot change" in (await add(good, "late", role="extra")).refused(409, "conflict")
    assert await events() == ["changeset.published.v1"]


async def test_publishing_asks_the_distribution(database_url, operator_at):
    """A payload that is not there is refused by name; an operator who knows better says so; what is there passes."""
    held: set[str] = set()
    asked: list[str] = []

    async def head(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        there = request.match_info["sha256"] in held
        return web.Response(status=200 if there else 404, headers={"Content-Length": "1234"} if there else {})

    store = web.Application()
    store.router.add_head("/payloads/{sha256}", head)
    distribution = TestServer(store)
    await distribution.start_server()
    settings = Settings(database_url=Secret(database_url), distribution_url=str(distribution.make_url("")))
    server = TestServer(make_app(settings))
    await server.start_server(access_log=None)
    try:
        token = await keep_token(database_url, name="op", role=Role.ADMIN)
        operator = operator_at(str(server.make_url("")).rstrip("/"), token)
        assert (await operator.get("/server"))["distribution_url"] == str(distribution.make_url(""))
        await operator.post("/applications", {"name": "os"})
        changeset_id = await operator.changeset("2.0.0", publish=False)
        refused = await operator.ask("POST", f"/changesets/{changeset_id}/publish", {})
        assert "update.gz" in refused.refused(409, "conflict")
        assert asked == [f"Bearer {token}"]
        held.add((await operator.get(f"/changesets/{changeset_id}"))["payloads"][0]["sha256"])
        await operator.post(f"/changesets/{changeset_id}/publish", {})
        other = await operator.changeset("3.0.0", publish=False)
        await operator.post(f"/changesets/{other}/publish", {"unchecked": True})
        third = await operator.changeset("4.0.0", publish=False)
        await distribution.close()
        gone = await operator.ask("POST", f"/changesets/{third}/publish", {})
        gone.refused(503, "unavailable")
        assert (await operator.get(f"/changesets/{third}"))["state"] == "draft"
    finally:
        await server.close()
        await distribution.close()


BAD_INPUT = [
    ("POST", "/applications", {"name": ""}),
    ("POST", "/applications", {"name": "x" * 65}),
    ("POST", "/applications", {"name": "a\x00b"}),
    ("POST", "/applications", {"name": "a", "omaha_id": "{}}"}),
    ("POST", "/applications", {"name": 7}),
    ("POST", "/applications", {"nome": "a"}),
    ("POST", "/applications", []),
    ("POST", "/changesets", {"application": "os", "version": "1 0", "arch": "x86_64"}),
    ("POST", "/changesets", {"application": "os", "version": "1.0", "arch": "X/86"}),
    ("POST", "/changesets", {"application": "os", "version": "1.0", "arch": "x86_64", "kind": "delta"}),
    ("POST", "/changesets", {"application": "os", "version": "1.0", "arch": "x86_64", "notes": "a\x00"}),
    ("POST", "/groups", {"application": "os", "name": "g", "channel": "stable", "position": -1}),
    ("POST", "/groups", {"application": "os", "name": "g", "channel": "stable", "policy": {"max_attempts": 0}}),
    ("POST", "/groups", {"application": "os", "name": "g", "channel": "stable", "selector": {"a\x00": ["b"]}}),
    ("POST", "/halt", {"reason": ""}),
    ("POST", "/halt", {}),
    ("GET", "/rollouts?state=flying", None),
    ("GET", "/rollouts?limit=0", None),
    ("GET", "/rollouts?limit=501", None),
    ("GET", "/rollouts?group=7", None),
    ("GET", "/rollouts?unknown=7", None),
    ("GET", "/rollouts?limit=1&limit=2", None),
    ("GET", "/rollouts/7", None),
    ("GET", "/events?after=-1", None),
    ("GET", "/events?type=a&type=%C3%A4", None),
    ("GET", "/events/x", None),
    ("GET", "/applications/%00", None),
    ("GET", "/nodes?machine=a%00", None),
]


async def test_bad_input_is_refused_and_changes_nothing(operator, app, pool):
    """Every answer is a problem that says what is wrong; the database is as it was."""
    count = "SELECT (SELECT count(*) FROM event_log.inbox), (SELECT count(*) FROM control.applications)"
    before = await pool.fetch(count)
    for method, path, body in BAD_INPUT:
        answer = await operator.ask(method, path, body)
        assert len(answer.refused(400, "invalid_input")) > 10, (method, path, body)
    assert await pool.fetch(count) == before


async def test_what_is_no_json_is_refused(operator, app):
    """Malformed, empty and hostile bodies are the caller's fault."""
    for raw in (b"{", b"", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"[" * 100_000, b'"a"'):
        (await operator.ask("POST", "/applications", raw=raw)).refused(400, "invalid_input")
    (await operator.ask("POST", "/applications", raw=b" " * 300_000)).refused(413, "too_large")


async def test_what_is_not_there_is_404(operator, app):
    """Every thing that is named and unknown."""
    for method, path, body in [
        ("GET", "/applications/nobody", None),
        ("GET", f"/changesets/{UNKNOWN}", None),
        ("POST", f"/changesets/{UNKNOWN}/publish", {}),
        ("POST", f"/changesets/{UNKNOWN}/halt", {"reason": "r"}),
        ("POST", f"/changesets/{UNKNOWN}/resume", {"reason": "r"}),
        ("GET", f"/channels/{UNKNOWN}", None),
        ("GET", f"/channels/{UNKNOWN}/history", None),
        ("POST", f"/channels/{UNKNOWN}/promote", {"changeset": UNKNOWN}),
        ("GET", f"/groups/{UNKNOWN}", None),
        ("PATCH", f"/groups/{UNKNOWN}", {}),
        ("GET", f"/rollouts/{UNKNOWN}", None),
        ("POST", f"/rollouts/{UNKNOWN}/halt", {"reason": "r"}),
        ("GET", f"/nodes/{UNKNOWN}", None),
        ("POST", f"/nodes/{UNKNOWN}/quarantine/lift", {"changeset": UNKNOWN, "reason": "r"}),
        ("GET", "/events/999", None),
        ("GET", "/ledger/verify?after=999", None),
        ("POST", "/changesets", {"application": "nobody", "version": "1.0", "arch": "x86_64"}),
    ]:
        (await operator.ask(method, path, body)).refused(404, "not_found")


async def test_only_valid_tokens_pass_and_viewers_only_look(operator, viewer, app, database_url, operator_at):
    """No token, a wrong one: 401. A viewer reads everything and changes nothing: 403. The description is public."""
    for token in (None, "une_" + "x" * 43, "short"):
        stranger = operator_at(operator.url, token)
        (await stranger.ask("GET", "/applications")).refused(401, "not_authenticated")
        (await stranger.ask("POST", "/applications", {"name": "mine"})).refused(401, "not_authenticated")
    assert len((await viewer.get("/applications"))["items"]) == 1
    assert (await viewer.get("/server"))["principal"] == {"name": "guest", "role": "viewer", "applications": None}
    for method, path, body in [
        ("POST", "/applications", {"name": "mine"}),
        ("POST", "/halt", {"reason": "r"}),
        ("PATCH", f"/groups/{UNKNOWN}", {}),
    ]:
        (await viewer.ask(method, path, body)).refused(403, "not_permitted")
    async with operator.session.get(f"{operator.url}/api/v1/openapi.yaml") as answer:
        assert answer.status == 200
        assert "openapi: 3.1.0" in await answer.text()
    with pytest.raises(Conflict):
        await keep_token(database_url, name="operator", role=Role.ADMIN)
    replaced = await keep_token(database_url, name="operator", role=Role.ADMIN, replace=True)
    (await operator.ask("GET", "/applications")).refused(401, "not_authenticated")
    assert (await operator_at(operator.url, replaced).get("/applications"))["next"] is None


async def test_lists_come_in_pages_and_are_filtered(operator, app, fleet):
    """Following ``next`` gives every item once; filters hold together."""
    await operator.channel()
    group_id = await operator.group()
    for number in range(7):
        await fleet.node(f"m{number}", group_id, "1.0.0" if number % 2 else "2.0.0", cloned=number == 6)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await operator.get("/nodes", limit=3, **cursor)
        seen += [item["machine_id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert sorted(seen) == [f"m{number}" for number in range(7)]
    found = await operator.get(
        "/nodes", version="2.0.0", group=group_id, cloned="false", state="none", application="os"
    )
    assert {item["machine_id"] for item in found["items"]} == {"m0", "m2", "m4"}
    for version in ("2.0.0", "3.0.0"):
        await operator.changeset(version)
    versions = [item["version"] for item in (await operator.get("/changesets"))["items"]]
    assert versions == ["3.0.0", "2.0.0"]
    found = await operator.get("/changesets", version="2.0.0", state="published", arch="x86_64", application="os")
    assert len(found["items"]) == 1
    assert (await operator.get("/groups", name="all", channel="stable"))["items"][0]["group_id"] == group_id
    assert (await operator.get("/channels", name="beta"))["items"] == []


async def test_a_quarantine_is_lifted_once_with_its_event(operator, app, fleet, events):
    """A node shows what it may not have and why; lifting it is told, twice it is nothing."""
    channel_id = await operator.channel()
    group_id = await operator.group()
    changeset_id = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    node_id = await fleet.node("m1", group_id, "1.0.0", facts={"oem": "azure"})
    await fleet.attempt(node_id, rollout_id, "rolled_back")
    await fleet.quarantine(node_id, changeset_id)
    shown = await operator.get(f"/nodes/{node_id}")
    assert shown["facts"] == {"oem": "azure"}
    assert [item["state"] for item in shown["attempts"]] == ["rolled_back"]
    assert "token" not in shown["attempts"][0]
    assert [item["version"] for item in shown["quarantines"]] == ["2.0.0"]
    assert (await operator.get(f"/rollouts/{rollout_id}"))["nodes"]["quarantined"] == 1
    for _ in range(2):
        body = {"changeset": changeset_id, "reason": "new disk"}
        lifted = await operator.post(f"/nodes/{node_id}/quarantine/lift", body)
        assert lifted["quarantines"] == []
    assert await events("node.") == ["node.quarantined.v1"]


async def completed(store):
    """The rollouts that one look of the conductor completes."""
    return [
        rollout_id for rollout_id, step in await store.rollouts.conduct_all() if step == Move(RolloutState.COMPLETED)
    ]


async def test_a_rollout_completes_when_nothing_is_left(operator, app, fleet, store, events):
    """Not without nodes, not while one is left or in flight; quarantined, cloned and silent ones do not count."""
    channel_id = await operator.channel()
    group_id = await operator.group()
    changeset_id = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    assert await completed(store) == []
    good = await fleet.node("good", group_id, "1.0.0")
    bad = await fleet.node("bad", group_id, "1.0.0")
    await fleet.node("cloned", group_id, "1.0.0", cloned=True)
    await fleet.node("silent", group_id, "1.0.0", silent_for_s=86_400 + 60)
    await fleet.node("newer", group_id, "9.0.0")
    await fleet.node("other arch", group_id, "1.0.0", arch="aarch64")
    attempt_id = await fleet.attempt(good, rollout_id)
    assert await completed(store) == []
    await fleet.runs(good, "2.0.0")
    await fleet.quarantine(bad, changeset_id)
    assert await completed(store) == []
    await fleet.close(attempt_id, "committed")
    assert await completed(store) == [uuid.UUID(rollout_id)]
    assert (await operator.get(f"/rollouts/{rollout_id}"))["state"] == "completed"
    assert await completed(store) == []
    assert (await events("rollout."))[-1] == "rollout.completed.v1"
    assert await operator.promote(channel_id, changeset_id) == []


async def test_a_completed_rollout_goes_on_serving(operator, app, fleet, store):
    """What comes later with an old version is served by it: no other rollout is made."""
    channel_id = await operator.channel()
    group_id = await operator.group()
    changeset_id = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    await fleet.node("first", group_id, "2.0.0")
    assert await completed(store) == [uuid.UUID(rollout_id)]
    await fleet.node("late", group_id, "1.0.0")
    assert await store.rollouts.conduct_all() == []
    (shown,) = (await operator.get("/rollouts", group=group_id))["items"]
    assert (shown["rollout_id"], shown["state"], shown["shown"]) == (rollout_id, "completed", "completed")


async def test_completion_runs_by_itself(database_url, operator, app, fleet):
    """The service looks on its own: nobody has to ask."""
    channel_id = await operator.channel()
    group_id = await operator.group()
    (rollout_id,) = await operator.promote(channel_id, await operator.changeset("2.0.0"))
    await fleet.node("m1", group_id, "2.0.0")
    server = TestServer(make_app(Settings(database_url=Secret(database_url), conduct_every_s=0.05)))
    await server.start_server(access_log=None)
    try:
        async with asyncio.timeout(10):
            while (await operator.get(f"/rollouts/{rollout_id}"))["state"] != "completed":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await server.close()


async def test_many_operators_at_once_make_one_rollout_each_time(operator, app):
    """Twenty promotions of two changesets at once: one active rollout, every other one superseded, no fault."""
    channel_id = await operator.channel()
    group_id = await operator.group()
    changesets = [await operator.changeset("2.0.0"), await operator.changeset("3.0.0")]
    answers = await asyncio.gather(
        *(
            operator.ask("POST", f"/channels/{channel_id}/promote", {"changeset": changesets[number % 2]})
            for number in range(20)
        ),
        *(operator.ask("POST", f"/changesets/{changesets[0]}/halt", {"reason": "now"}) for _ in range(2)),
        *(operator.ask("PATCH", f"/groups/{group_id}", {"policy": {"max_attempts": n}}) for n in range(1, 5)),
    )
    assert {answer.status for answer in answers} <= {200, 409}
    active = (await operator.get("/rollouts", group=group_id, active="true"))["items"]
    assert len(active) == 1
    assert active[0]["changeset_id"] == (await operator.get(f"/channels/{channel_id}"))["changeset_id"]


async def test_events_are_read_from_the_ledger(operator, app, pool, session):
    """By seq, by type, by subject, by correlation; as JSON or a line each; and the chain verifies."""
    channel_id = await operator.channel()
    await operator.group()
    (rollout_id,) = await operator.promote(channel_id, await operator.changeset("2.0.0"))
    assert (await operator.get("/events"))["items"] == []
    await move_all(pool)
    everything = (await operator.get("/events"))["items"]
    last = len(everything)
    assert [int(item["sequence"]) for item in everything] == list(range(1, last + 1))
    page = await operator.get("/events", limit=2, after=1)
    assert ([int(item["sequence"]) for item in page["items"]], page["next"]) == ([2, 3], 3)
    by_type = await operator.get("/events", type="rollout.*.v1")
    assert len(by_type["items"]) == 2
    assert len((await operator.get("/events", correlation=rollout_id))["items"]) == 2
    assert len((await operator.get("/events", subject=f"channels/{channel_id}", type="channel.#"))["items"]) == 1
    assert len((await operator.get("/events", subject=f"rollouts/{rollout_id}"))["items"]) == 2
    headers = {"Authorization": f"Bearer {operator.token}", "Accept": "application/x-ndjson"}
    async with session.get(f"{operator.url}/api/v1/events", headers=headers) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert len((await answer.read()).splitlines()) == last
    one = await operator.ask("GET", "/events/3")
    assert one.body == everything[2]
    assert len(one.headers["Uneventful-Hash"]) == 64
    head = await operator.get("/ledger")
    verified = await operator.get("/ledger/verify")
    assert (verified["ok"], verified["checked"]) == (True, last)
    assert (verified["last_seq"], verified["last_hash"]) == (head["seq"], head["hash"])


async def test_operators_analysis_and_grants_never_wait_for_each_other_in_a_ring(operator, app, fleet, pool):
    """Promotions, halts, resumes, paces, moves and grants at once: everybody gets an answer, nobody a deadlock."""
    channel_id = await operator.channel()
    groups = [await operator.group(f"g{number}") for number in range(3)]
    changesets = [await operator.changeset("2.0.0"), await operator.changeset("3.0.0")]
    await operator.promote(channel_id, changesets[0])
    nodes = [await fleet.node(f"m{number}", groups[number % 3], "1.0.0") for number in range(12)]

    async def promote(turn: int) -> int:
        body = {"changeset": changesets[turn % 2]}
        return (await operator.ask("POST", f"/channels/{channel_id}/promote", body)).status

    async def resume(turn: int) -> int:
        return (await operator.ask("POST", f"/changesets/{changesets[turn % 2]}/resume", {"reason": "go"})).status

    async def move(turn: int) -> int:
        (first, *_) = (await operator.get("/rollouts", limit=3))["items"]
        verb = ("pause", "resume", "halt")[turn % 3]
        return (await operator.ask("POST", f"/rollouts/{first['rollout_id']}/{verb}", {"reason": "r"})).status

    async def patch(turn: int) -> int:
        body = {"policy": {"max_attempts": 1 + turn % 5}}
        return (await operator.ask("PATCH", f"/groups/{groups[turn % 3]}", body)).status

    async def analysis(turn: int) -> int:
        changeset_id = uuid.UUID(changesets[turn % 2])
        if turn % 3 == 0:
            halt = "SELECT control.halt_changeset_v1($1, 'bad', 'analysis', NULL, gen_random_uuid(), 'analysis')"
            await pool.execute(halt, changeset_id)
        else:
            ids = [row["rollout_id"] for row in await pool.fetch("SELECT rollout_id FROM control.rollouts")]
            await pool.execute("SELECT control.set_pace_v1($1, 9, $2, $3)", changeset_id, ids, [3] * len(ids))
        return 200

    async def grant(turn: int) -> int:
        version = await pool.fetchval("SELECT policy_version FROM control.global_gate")
        rollout_id = await pool.fetchval("SELECT rollout_id FROM control.rollouts ORDER BY rollout_id DESC LIMIT 1")
        node_id = nodes[turn % len(nodes)]
        await pool.fetch(
            "SELECT * FROM fleet.grant_v2($1, $2, $3, ARRAY[gen_random_uuid()], ARRAY[$4], ARRAY[gen_random_uuid()],"
            " ARRAY['1.0.0'], ARRAY['boot-1'], ARRAY[clock_timestamp()], ARRAY[NULL::text])",
            rollout_id,
            version,
            [node_id],
            uuid.uuid4().hex,
        )
        return 200

    async def often(act, times: int) -> list[int]:
        return [await act(turn) for turn in range(times)]

    acts = (promote, resume, move, patch, analysis, analysis, grant, grant, grant)
    async with asyncio.timeout(60):
        statuses = await asyncio.gather(*(often(act, 25) for act in acts))
    assert {status for row in statuses for status in row} <= {200, 409}
    for group_id in groups:
        assert len((await operator.get("/rollouts", group=group_id, active="true"))["items"]) <= 1
