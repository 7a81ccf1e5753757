"""Nodes: filters, order, why, history, gone, forgotten, described, swept; holds, quarantines and watched polls."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import pytest
import yaml

from services.control.app import sweep_nodes
from services.event_log.mover import Mover

BECAUSE = {"reason": "scaled in"}


@pytest.fixture
async def group(operator, app):
    """The group of everything."""
    await operator.channel()
    return await operator.group()


@pytest.fixture
def rollout(operator, group):
    """Starts a rollout of a version; its id and its changeset's."""

    async def start(version: str = "2.0.0") -> tuple[str, str]:
        changeset_id = await operator.changeset(version)
        (rollout_id,) = await operator.promote(await operator.channel(), changeset_id)
        return rollout_id, changeset_id

    return start


async def machines(operator, **query: Any) -> list[str]:
    return [item["machine_id"] for item in (await operator.get("/nodes", **query))["items"]]


async def said(pool, kind: str) -> list[dict[str, Any]]:
    rows = await pool.fetch("SELECT data FROM event_log.inbox WHERE type = $1 ORDER BY position", kind)
    return [row["data"] for row in rows]


async def test_nodes_are_filtered(operator, group, fleet, pool, rollout):
    """Each filter by itself; several hold together; what makes no sense is refused."""
    rollout_id, changeset_id = await rollout()
    one = await fleet.node("web-1", group, "1.0.0", facts={"site": "ber", "label:tier": "web"})
    two = await fleet.node("web-2", group, "2.0.0", arch="aarch64", facts={"site": "muc"}, cloned=True)
    old = await fleet.node("db-1", group, "1.0.0", silent_for_s=3 * 86_400)
    await fleet.quarantine(one, changeset_id)
    attempt = await fleet.attempt(old, rollout_id, "staged")
    await pool.execute("UPDATE fleet.attempts SET parked = true, granted_at = now() - interval '8 days'")
    await pool.execute("UPDATE fleet.nodes SET alias = 'Web two', dialect = 'native' WHERE node_id = $1", two)
    for query, found in [
        ({"application": "os"}, {"web-1", "web-2", "db-1"}),
        ({"group": group, "version": "1.0.0"}, {"web-1", "db-1"}),
        ({"arch": "aarch64"}, {"web-2"}),
        ({"state": "staged"}, {"db-1"}),
        ({"cloned": "true"}, {"web-2"}),
        ({"dialect": "native"}, {"web-2"}),
        ({"alias": "Web two"}, {"web-2"}),
        ({"prefix": "web-"}, {"web-1", "web-2"}),
        ({"prefix": "Web t"}, {"web-2"}),
        ({"fact": "site=ber"}, {"web-1"}),
        ({"fact": "site=ber,label:tier=web"}, {"web-1"}),
        ({"fact": "version=2.0.0"}, {"web-2"}),
        ({"quarantined": "true"}, {"web-1"}),
        ({"quarantined_for": changeset_id}, {"web-1"}),
        ({"stranded": "true"}, {"web-1"}),
        ({"silent": "true"}, {"db-1"}),
        ({"parked": "true"}, {"db-1"}),
        ({"staged": "true"}, {"db-1"}),
        ({"stuck": "true"}, {"web-1", "db-1"}),
        ({"gone": "true"}, set()),
        ({"gone": "false", "stuck": "false"}, {"web-1", "web-2", "db-1"}),
    ]:
        assert set(await machines(operator, **query)) == found, query
    shown = await operator.get(f"/nodes/{old}")
    assert shown["stuck"] == ["staged", "silent", "parked"]
    assert attempt
    for query in ({"fact": "site"}, {"fact": "site=a,site=b"}, {"sort": "colour"}, {"cursor": "nonsense"}):
        (await operator.ask("GET", "/nodes", **query)).refused(400, "invalid_input")


async def test_nodes_are_sorted_and_paged(operator, group, fleet):
    """By version as versions go, by machine and by last contact, both ways, each node exactly once."""
    for number, version in enumerate(["1.10.0", "1.9.0", "1.9.0", "2.0.0"]):
        await fleet.node(f"m{number}", group, version, silent_for_s=60 * number)

    async def all_of(**query: Any) -> list[str]:
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await operator.get("/nodes", limit=1, **query, **cursor)
            found += [item["machine_id"] for item in page["items"]]
            if page["next"] is None:
                return found
            cursor = {"cursor": page["next"]}

    assert sorted(await all_of()) == ["m0", "m1", "m2", "m3"]
    by_version = await all_of(sort="version")
    assert (set(by_version[:2]), by_version[2:]) == ({"m1", "m2"}, ["m0", "m3"])
    assert await all_of(sort="version", order="desc") == by_version[::-1]
    assert await all_of(sort="machine", order="desc") == ["m3", "m2", "m1", "m0"]
    assert await all_of(sort="last_contact") == ["m3", "m2", "m1", "m0"]
    assert await all_of(order="desc") == (await all_of())[::-1]
    cursor = (await operator.get("/nodes", limit=1, sort="machine"))["next"]
    (await operator.ask("GET", "/nodes", sort="version", cursor=cursor)).refused(400, "invalid_input")


async def test_why_is_answered_in_words(operator, group, fleet, pool, rollout):
    """What its last poll was answered, and what keeps it now: quarantine, hold, wave, attempt."""
    node_id = await fleet.node("m1", group, "1.0.0", facts={"site": "ber"})
    assert (await operator.get(f"/nodes/{node_id}/why"))["findings"][0]["reason"] == "no_rollout"
    rollout_id, changeset_id = await rollout()
    why = await operator.get(f"/nodes/{node_id}/why")
    assert (why["findings"], why["answer"], why["answer_age_s"]) == ([], None, None)
    assert why["summary"] == "Nothing keeps it: it is offered 2.0.0 when it asks next."
    await fleet.quarantine(node_id, changeset_id)
    await operator.post(f"/changesets/{changeset_id}/holds", {"segment": {"site": "ber"}, "reason": "dhcp"})
    await pool.execute("UPDATE control.rollouts SET fraction = 0")
    await pool.execute(
        "UPDATE fleet.nodes SET last_answer = 'quarantined', last_answer_at = now() - interval '1 minute'"
    )
    await fleet.attempt(node_id, rollout_id, "staged")
    why = await operator.get(f"/nodes/{node_id}/why")
    found = {finding["reason"] for finding in why["findings"]}
    assert {"held", "quarantined", "wave", "attempt_open"} <= found
    assert (why["answer"], why["rollout_id"], why["to_version"]) == ("quarantined", rollout_id, "2.0.0")
    assert why["answer_age_s"] == pytest.approx(60, abs=30)
    assert "operator lifts" in why["answer_means"]
    floor = await operator.changeset("1.5.0")
    await pool.execute(
        "INSERT INTO control.rollouts SELECT (jsonb_populate_record(r, jsonb_build_object('rollout_id', $1::uuid, "
        "'changeset_id', $2::uuid, 'purpose', 'floor'))).* FROM control.rollouts r",
        uuid.uuid4(),
        uuid.UUID(floor),
    )
    await pool.execute("INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, 1)", uuid.UUID(floor))
    assert (await operator.get(f"/nodes/{node_id}/why"))["to_version"] == "1.5.0"


async def test_history_is_that_of_the_ledger(operator, group, fleet, pool, rollout):
    """The newest first, a page at a time; of a node that was forgotten too."""
    node_id = await fleet.node("m1", group, "1.0.0")
    await operator.post(f"/nodes/{node_id}/alias", {"alias": "first"})
    await operator.post(f"/nodes/{node_id}/gone", BECAUSE)
    await operator.post(f"/nodes/{node_id}/forget", {"reason": "sold"})
    async with pool.acquire() as connection:
        mover = Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
        while await mover.step():
            pass
    page = await operator.get(f"/nodes/{node_id}/history", limit=2)
    assert [item["what"] for item in page["items"]] == ["forgotten (sold) by operator", "gone (scaled in)"]
    rest = await operator.get(f"/nodes/{node_id}/history", limit=2, cursor=page["next"])
    assert [item["type"] for item in rest["items"]] == ["node.changed.v1"]
    assert rest["next"] is None


async def test_a_node_that_is_gone_leaves_its_attempt_in_n_and_not_in_k(operator, group, fleet, pool, rollout):
    """Its open attempt is recalled with its event; it is counted no more; polling again brings it back."""
    rollout_id, _ = await rollout()
    node_id = await fleet.node("m1", group, "1.0.0")
    attempt = await fleet.attempt(node_id, rollout_id, "awaiting_reboot")
    gone = await operator.post(f"/nodes/{node_id}/gone", BECAUSE)
    assert gone["gone_at"] is not None
    assert gone["attempts"][0]["state"] == "recalled"
    (event,) = await said(pool, "node.gone.v1")
    assert (event["attempt_id"], event["by"], event["reason"]) == (str(attempt), "operator", "scaled in")
    (recalled,) = await said(pool, "update.recalled.v1")
    assert (recalled["state_after"], recalled["source"]) == ("recalled", "control")
    await operator.post(f"/nodes/{node_id}/gone", BECAUSE)
    assert len(await said(pool, "node.gone.v1")) == 1
    assert await machines(operator, gone="true") == ["m1"]
    assert (await operator.get(f"/nodes/{node_id}/why"))["findings"][0]["reason"] == "gone"
    await pool.execute("UPDATE fleet.nodes SET last_contact_at = now() + interval '1 s'")
    assert await machines(operator, gone="true") == []


async def test_many_are_gone_at_once(operator, group, fleet, app, pool):
    """Those that were never heard of are told; a dry run changes nothing; twice is once."""
    for name in ("a", "b"):
        await fleet.node(name, group, "1.0.0")
    asked = {"application": "os", "machines": ["a", "b", "never"], "reason": "autoscaler"}
    tried = (await operator.ask("POST", "/nodes/gone", asked, dry_run="true")).ok()
    assert (tried["gone"], tried["dry_run"]) == (2, True)
    assert await said(pool, "node.gone.v1") == []
    assert await operator.post("/nodes/gone", asked) == {
        "gone": 2, "already": 0, "unknown": 1, "unknown_machines": ["never"],
    }  # fmt: skip
    assert (await operator.post("/nodes/gone", asked))["already"] == 2
    assert {event["reason"] for event in await said(pool, "node.gone.v1")} == {"autoscaler"}


async def test_a_forgotten_node_leaves_its_attempts(operator, group, fleet, pool, rollout):
    """The row goes, evidence and quarantines stay, what was under way is recalled."""
    rollout_id, changeset_id = await rollout()
    node_id = await fleet.node("m1", group, "1.0.0")
    await fleet.attempt(node_id, rollout_id)
    await fleet.quarantine(node_id, changeset_id)
    forgotten = await operator.post(f"/nodes/{node_id}/forget", {"reason": "sold"})
    assert forgotten == {"node_id": str(node_id), "machine_id": "m1", "forgotten": True}
    (await operator.ask("GET", f"/nodes/{node_id}")).refused(404, "not_found")
    (await operator.ask("POST", f"/nodes/{node_id}/forget", {"reason": "sold"})).refused(404, "not_found")
    assert await pool.fetchval("SELECT state FROM fleet.attempts WHERE node_id = $1", node_id) == "recalled"
    assert await pool.fetchval("SELECT count(*) FROM fleet.quarantine") == 1
    (event,) = await said(pool, "node.changed.v1")
    assert (event["forgotten"], event["reason"], event["by"]) == (True, "sold", "operator")


async def test_facts_are_imported_and_move_nodes(operator, group, fleet, app, pool):
    """Merged, taken away by null, weaker than what the node tells; groups follow at once; a dry run writes nothing."""
    one = await fleet.node("m1", group, "1.0.0", facts={"site": "ber"})
    await fleet.node("m2", group, "1.0.0")
    await operator.group("rack-1", selector={"rack": ["r1"]})
    asked: dict[str, Any] = {
        "application": "os",
        "nodes": [
            {"machine": "m1", "facts": {"site": "muc", "rack": "r1"}, "alias": "One"},
            {"machine": "m2", "facts": {}},
            {"machine": "never", "facts": {"rack": "r1"}},
        ],
    }
    tried = (await operator.ask("POST", "/nodes/import", asked, dry_run="true")).ok()
    assert tried.pop("would")
    assert (await operator.get(f"/nodes/{one}"))["imported_facts"] == {}
    done = await operator.post("/nodes/import", asked)
    assert done == {"changed": 1, "unchanged": 1, "moved": 1, "unknown": 1, "unknown_machines": ["never"]}
    assert {**done, "dry_run": True} == tried
    node = await operator.get(f"/nodes/{one}")
    assert (node["group_name"], node["alias"], node["imported_facts"]) == (
        "rack-1", "One", {"site": "muc", "rack": "r1"},
    )  # fmt: skip
    assert node["known_facts"]["site"] == "ber"
    assert (await operator.post("/nodes/import", asked))["changed"] == 0
    back = {"application": "os", "nodes": [{"machine": "m1", "facts": {"rack": None}, "alias": ""}]}
    assert (await operator.post("/nodes/import", back))["moved"] == 1
    node = await operator.get(f"/nodes/{one}")
    assert (node["group_name"], node["alias"], node["imported_facts"]) == ("all", None, {"site": "muc"})
    events = await said(pool, "node.changed.v1")
    assert [event.get("alias") for event in events] == ["One", None]
    assert events[0]["facts"] == {"site": "muc", "rack": "r1"}
    twice = {"application": "os", "nodes": [{"machine": "m1"}, {"machine": "m1"}]}
    (await operator.ask("POST", "/nodes/import", twice)).refused(400, "invalid_input")
    (await operator.ask("POST", "/nodes/import", {**asked, "application": "none"})).refused(404, "not_found")


async def test_an_alias_is_given_and_taken(operator, group, fleet):
    """And nothing is told where it is so already."""
    node_id = await fleet.node("m1", group, "1.0.0")
    assert (await operator.post(f"/nodes/{node_id}/alias", {"alias": "db"}))["alias"] == "db"
    assert (await operator.post(f"/nodes/{node_id}/alias", {"alias": "db"}))["alias"] == "db"
    assert (await operator.post(f"/nodes/{node_id}/alias", {"alias": None}))["alias"] is None


async def test_stale_nodes_are_swept(operator, group, fleet, store, rollout):
    """Silent for longer than the retention and nothing under way: gone; back once they poll; 0 keeps all."""
    rollout_id, _ = await rollout()
    await fleet.node("fresh", group, "1.0.0")
    await fleet.node("stale", group, "1.0.0", silent_for_s=31 * 86_400)
    busy = await fleet.node("busy", group, "1.0.0", silent_for_s=31 * 86_400)
    await fleet.attempt(busy, rollout_id, "staged")
    await sweep_nodes(store, 0)
    assert await machines(operator, gone="true") == []
    await sweep_nodes(store, 30)
    assert await machines(operator, gone="true") == ["stale"]
    (event,) = await said(fleet.pool, "node.gone.v1")
    assert (event["reason"], event["by"]) == ("retention", "control")
    await fleet.pool.execute(
        "UPDATE fleet.nodes SET last_contact_at = now() + interval '1 s' WHERE machine_id = 'stale'"
    )
    assert await store.nodes.sweep(30) == (1, 0)
    assert await fleet.pool.fetchval("SELECT count(*) FROM fleet.nodes WHERE gone_at IS NOT NULL") == 0


async def test_what_will_boot_a_halted_release_is_counted(operator, group, fleet, rollout):
    """By changeset, with the first machines; nothing while it is not halted."""
    rollout_id, changeset_id = await rollout()
    for number in range(3):
        node_id = await fleet.node(f"m{number}", group, "1.0.0")
        await fleet.attempt(node_id, rollout_id, "staged" if number else "downloading")
    assert (await operator.get("/nodes/staged-but-halted"))["items"] == []
    await operator.post(f"/changesets/{changeset_id}/halt", {"reason": "smoke"})
    (item,) = (await operator.get("/nodes/staged-but-halted", application="os", changeset=changeset_id))["items"]
    assert (item["nodes"], item["machines"], item["stopped_by"], item["reason"]) == (
        2, ["m1", "m2"], "halted", "smoke",
    )  # fmt: skip


async def test_quarantines_are_seen_and_lifted_over_the_fleet(operator, group, fleet, pool, rollout):
    """Counted by changeset and reason; lifted for some machines, then for all, with an event each."""
    _, changeset_id = await rollout()
    for number in range(3):
        await fleet.quarantine(await fleet.node(f"m{number}", group, "1.0.0"), changeset_id)
    await pool.execute("UPDATE fleet.quarantine SET reason = 'unhealthy' WHERE node_id = $1", await node_of(pool, "m0"))
    page = await operator.get("/quarantines", limit=1, application="os")
    assert [(item["reason"], item["nodes"]) for item in page["items"]] == [("reported", 2)]
    rest = await operator.get("/quarantines", limit=5, cursor=page["next"], group=group, changeset=changeset_id)
    assert [(item["reason"], item["machines"]) for item in rest["items"]] == [("unhealthy", ["m0"])]
    asked = {"application": "os", "changeset": changeset_id, "reason": "new firmware"}
    tried = (await operator.ask("POST", "/quarantines/lift", asked, dry_run="true")).ok()
    assert (tried["lifted"], tried["left"]) == (3, 0)
    some = await operator.post("/quarantines/lift", {**asked, "machines": ["m1", "never"]})
    assert some == {"lifted": 1, "left": 2}
    assert await operator.post("/quarantines/lift", asked) == {"lifted": 2, "left": 0}
    assert await operator.post("/quarantines/lift", asked) == {"lifted": 0, "left": 0}
    events = await said(pool, "node.quarantined.v1")
    assert [(event["lifted"], event["reason"]) for event in events] == [(True, "new firmware")] * 3
    (await operator.ask("GET", "/quarantines", cursor="bm9uc2Vuc2U")).refused(400, "invalid_input")


async def node_of(pool, machine: str) -> uuid.UUID:
    return await pool.fetchval("SELECT node_id FROM fleet.nodes WHERE machine_id = $1", machine)


async def test_segments_are_held_and_released(operator, group, fleet, rollout, events):
    """The same segment twice is one hold; it says whom it covers, those that do not tell the fact included."""
    rollout_id, changeset_id = await rollout()
    one = await fleet.node("m1", group, "1.0.0", facts={"site": "ber"})
    await fleet.node("m2", group, "1.0.0")
    await fleet.node("m3", group, "1.0.0", facts={"site": "muc"})
    await fleet.attempt(one, rollout_id, "staged")
    asked = {"segment": {"site": "ber"}, "reason": "dhcp"}
    path = f"/changesets/{changeset_id}/holds"
    tried = (await operator.ask("POST", path, asked, dry_run="true")).ok()
    assert tried["covers"] == {"nodes": 2, "untold": 1, "on_version": 0, "under_way": 1}
    assert (await operator.get("/holds"))["items"] == []
    first, again = await operator.ask("POST", path, asked), await operator.ask("POST", path, asked)
    assert (first.status, again.status) == (201, 200)
    hold = first.ok()
    assert again.ok() == hold
    (listed,) = (await operator.get("/holds", application="os", changeset=changeset_id, in_force="true"))["items"]
    assert listed == {name: value for name, value in hold.items() if name != "covers"}
    released = await operator.post(f"/holds/{hold['hold_id']}/release", {"reason": "patched"})
    assert (released["released_by"], released["release_reason"]) == ("operator", "patched")
    await operator.post(f"/holds/{hold['hold_id']}/release", {"reason": "patched"})
    assert (await operator.get("/holds", in_force="true"))["items"] == []
    assert await events("changeset.held") == ["changeset.held.v1"] * 2
    draft = await operator.changeset("3.0.0", publish=False)
    (await operator.ask("POST", f"/changesets/{draft}/holds", asked)).refused(409, "conflict")
    (await operator.ask("POST", f"/changesets/{uuid.uuid4()}/holds", asked)).refused(404, "not_found")
    (await operator.ask("POST", f"/holds/{uuid.uuid4()}/release", BECAUSE)).refused(404, "not_found")
    (await operator.ask("POST", path, {**asked, "segment": {}})).refused(400, "invalid_input")


async def watched(pool, **poll: Any) -> None:
    row = {"dialect": "omaha", "application": "os", "machine_id": "m1", "answer": "up_to_date", **poll}
    await pool.execute(
        "INSERT INTO fleet.watched_polls (dialect, application, machine_id, answer) VALUES ($1, $2, $3, $4)",
        row["dialect"], row["application"], row["machine_id"], row["answer"],
    )  # fmt: skip


async def test_polls_are_streamed_as_they_come(operator, app, pool, session):
    """Those from before are left out; while somebody looks update_check is told to write them; filters hold."""
    await watched(pool, machine_id="before")
    headers = {"Authorization": f"Bearer {operator.token}"}
    url = f"{operator.url}/api/v1/polls/stream"
    async with (
        asyncio.timeout(20),
        session.get(url, params={"seconds": "30", "application": "os"}, headers=headers) as all_of_them,
        session.get(url, params={"seconds": "30", "rejected": "true"}, headers=headers) as rejected,
    ):
        assert all_of_them.headers["Content-Type"] == "application/x-ndjson"
        assert await pool.fetchval("SELECT until > now() FROM fleet.poll_watch")
        await watched(pool)
        await watched(pool, application="other", answer="unknown_application")
        await watched(pool, answer="granted", machine_id="m2")
        assert [poll["machine_id"] for poll in await polls(all_of_them, 2)] == ["m1", "m2"]
        assert [poll["answer"] for poll in await polls(rejected, 1)] == ["unknown_application"]


async def polls(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        line = await answer.content.readline()
        assert line, "the stream ended"
        if line.strip():
            found.append(json.loads(line))
    return found


async def test_a_watch_ends_by_itself(operator, app, session):
    """After the seconds asked for; a wrong application is a problem as everywhere."""
    headers = {"Authorization": f"Bearer {operator.token}"}
    async with (
        asyncio.timeout(20),
        session.get(f"{operator.url}/api/v1/polls/stream", params={"seconds": "0.1"}, headers=headers) as answer,
    ):
        assert (await answer.read()).strip() == b""
    (await operator.ask("GET", "/polls/stream", application="none")).refused(404, "not_found")


async def test_answers_are_as_described(operator, app, group, fleet, rollout):
    """The members of each kind of answer are those of the description."""
    schemas = (await described(operator))["components"]["schemas"]
    rollout_id, changeset_id = await rollout()
    node_id = await fleet.node("m1", group, "1.0.0")
    await fleet.attempt(node_id, rollout_id, "staged")
    await fleet.quarantine(node_id, changeset_id)
    hold = await operator.post(f"/changesets/{changeset_id}/holds", {"segment": {"site": "ber"}, "reason": "r"})
    await operator.post(f"/changesets/{changeset_id}/halt", {"reason": "r"})
    for schema, answer in {
        "Node": await operator.get(f"/nodes/{node_id}"),
        "NodeListed": (await operator.get("/nodes", sort="machine"))["items"][0],
        "NodeWhy": await operator.get(f"/nodes/{node_id}/why"),
        "StagedButHalted": (await operator.get("/nodes/staged-but-halted"))["items"][0],
        "QuarantineListed": (await operator.get("/quarantines"))["items"][0],
        "Hold": hold,
        "HoldListed": (await operator.get("/holds"))["items"][0],
        "GroupListed": (await operator.get("/groups"))["items"][0],
        "GroupPreview": await operator.post(f"/groups/{group}/preview", {}),
    }.items():
        assert set(answer) == set(schemas[schema]["properties"]), schema


async def described(operator) -> dict[str, Any]:
    async with operator.session.get(f"{operator.url}/api/v1/openapi.yaml") as answer:
        found: dict[str, Any] = yaml.safe_load(await answer.text())
        return found
