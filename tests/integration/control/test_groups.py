"""Groups: who belongs where, what a change moves, pins, and what is refused."""

from __future__ import annotations

import uuid

import pytest

from shared.domain.selector import known_facts


@pytest.fixture
async def sites(operator, app, fleet):
    """A group for Berlin and one for everything else, with ten nodes each, all known as being in the latter."""
    await operator.channel()
    everyone = await operator.group()
    for number in range(10):
        await fleet.node(f"ber-{number}", everyone, "1.0.0", facts={"site": "ber"})
        await fleet.node(f"muc-{number}", everyone, "1.0.0", facts={"site": "muc"})
    return everyone


async def members(pool) -> dict[str, set[str]]:
    rows = await pool.fetch(
        "SELECT g.name, n.machine_id FROM fleet.nodes n LEFT JOIN control.groups g ON g.group_id = n.group_id"
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["name"], set()).add(row["machine_id"])
    return found


def tried(answer) -> dict[str, object]:
    """The answer of a dry run without what every dry run adds."""
    told = dict(answer.ok())
    assert told.pop("dry_run") is True
    assert told.pop("would")
    return told


BER = {f"ber-{number}" for number in range(10)}
MUC = {f"muc-{number}" for number in range(10)}


async def test_a_new_group_goes_before_the_one_that_takes_every_node(operator, sites, pool):
    """And has its nodes in the same moment, so that its counts are right."""
    berlin = await operator.post(
        "/groups",
        {"application": "os", "name": "berlin", "channel": "stable", "selector": {"site": ["ber"]}, "owner": "Team B"},
    )
    everyone = await operator.get(f"/groups/{sites}")
    assert (berlin["position"], everyone["position"]) == (1, 2)
    assert (berlin["nodes"], everyone["nodes"], berlin["warnings"]) == (10, 10, [])
    assert await members(pool) == {"berlin": BER, "all": MUC}
    assert (berlin["owner"], berlin["contact"], berlin["explicit_only"]) == ("Team B", "", False)
    assert [item["name"] for item in (await operator.get("/groups", owner="Team B"))["items"]] == ["berlin"]


async def test_what_no_node_would_come_to_is_refused_or_told(operator, sites):
    """A position behind a catch-all is refused; a second catch-all is told that it has nothing."""
    behind = {"application": "os", "name": "late", "channel": "stable", "selector": {"site": ["ber"]}, "position": 9}
    detail = (await operator.ask("POST", "/groups", behind)).refused(409, "conflict")
    assert "behind group 'all'" in detail
    second = await operator.post("/groups", {"application": "os", "name": "second", "channel": "stable"})
    assert second["position"] == 2
    assert "behind all" in second["warnings"][0]
    early = await operator.group("early", selector={"site": ["ber"]})
    moved = await operator.ask("PATCH", f"/groups/{early}", {"position": 40})
    moved.refused(409, "conflict")
    taken = await operator.ask("PATCH", f"/groups/{early}", {"position": 2})
    taken.refused(409, "conflict")


async def test_the_last_catch_all_stays(operator, app):
    """Neither a selector nor a deletion takes it away; an application without one is told so."""
    await operator.channel()
    first = await operator.post(
        "/groups", {"application": "os", "name": "berlin", "channel": "stable", "selector": {"site": ["ber"]}}
    )
    assert "no group takes every node" in first["warnings"][0]
    everyone = await operator.group()
    assert (await operator.get(f"/groups/{first['group_id']}"))["warnings"] == []
    (await operator.ask("PATCH", f"/groups/{everyone}", {"selector": {"site": ["muc"]}})).refused(409, "conflict")
    because = {"reason": "tidy"}
    (await operator.ask("DELETE", f"/groups/{everyone}", because)).refused(409, "conflict")
    (await operator.ask("DELETE", f"/groups/{first['group_id']}", because)).ok()
    (await operator.ask("DELETE", f"/groups/{everyone}", because)).refused(409, "conflict")


async def test_a_preview_says_what_moves_and_changes_nothing(operator, sites, pool, events):
    """Of a selector, a position and named nodes; the change then does just that."""
    berlin = await operator.group("berlin", selector={"site": ["ber"]})
    told, version = await events(), await pool.fetchval("SELECT policy_version FROM control.global_gate")
    asked = {"selector": {"site": ["ber", "muc"]}, "remove_nodes": ["muc-1"]}
    preview = await operator.post(f"/groups/{berlin}/preview", asked)
    assert preview["moving"] == preview["coming"]["nodes"] == 10
    assert preview["coming"]["machines"] == sorted(MUC)
    assert preview["leaving"] == {"nodes": 0, "machines": []}
    assert preview["moves"] == [{"from_group": "all", "to_group": "berlin", "nodes": 10}]
    narrowed = await operator.ask(
        "PATCH", f"/groups/{berlin}", {"explicit_only": True, "add_nodes": ["muc-3"]}, dry_run="true"
    )
    assert (narrowed.ok()["leaving"]["nodes"], narrowed.ok()["coming"]["machines"]) == (10, ["muc-3"])
    assert await events() == told
    assert await pool.fetchval("SELECT policy_version FROM control.global_gate") == version
    assert await members(pool) == {"berlin": BER, "all": MUC}
    (await operator.ask("PATCH", f"/groups/{berlin}", asked)).ok()
    assert await members(pool) == {"berlin": BER | MUC}
    assert await pool.fetchval("SELECT policy_version FROM control.global_gate") == version + 1


async def test_named_nodes_belong_to_their_group_whatever_they_tell(operator, sites, pool):
    """Named by one group, then by another, then by none; listed a page at a time."""
    named = await operator.group("named", explicit_only=True, nodes=["ber-1", "muc-1", "unheard-of"])
    group = await operator.get(f"/groups/{named}")
    assert (group["explicit_only"], group["selector"], group["named_nodes"], group["nodes"]) == (True, {}, 3, 2)
    assert (await members(pool))["named"] == {"ber-1", "muc-1"}
    page = await operator.get(f"/groups/{named}/named-nodes", limit=2)
    assert ([item["machine_id"] for item in page["items"]], page["next"]) == (["ber-1", "muc-1"], "muc-1")
    rest = await operator.get(f"/groups/{named}/named-nodes", limit=2, cursor=page["next"])
    assert rest == {"items": [{"machine_id": "unheard-of"}], "next": None}
    other = await operator.group("other", explicit_only=True, nodes=["muc-1"])
    assert (await operator.get(f"/groups/{named}"))["named_nodes"] == 2
    assert (await members(pool))["other"] == {"muc-1"}
    (await operator.ask("PATCH", f"/groups/{other}", {"remove_nodes": ["muc-1", "nobody"]})).ok()
    assert (await members(pool))["all"] == (BER | MUC) - {"ber-1"}
    both = await operator.ask("PATCH", f"/groups/{other}", {"remove_nodes": ["a"], "add_nodes": ["a"]})
    both.refused(400, "invalid_input")
    for patch in ({"explicit_only": False}, {"explicit_only": True, "selector": {"site": ["ber"]}}):
        (await operator.ask("PATCH", f"/groups/{other}", patch)).refused(400, "invalid_input")
    widened = (await operator.ask("PATCH", f"/groups/{other}", {"selector": {"site": ["ber"]}})).ok()
    assert (widened["explicit_only"], widened["nodes"]) == (False, 9)


async def test_the_same_group_twice_is_one(operator, sites):
    """With the same named nodes; with others it is a conflict."""
    asked = {"application": "os", "name": "named", "channel": "stable", "explicit_only": True, "nodes": ["a", "b"]}
    first = await operator.ask("POST", "/groups", asked)
    again = await operator.ask("POST", "/groups", {**asked, "nodes": ["b", "a"]})
    assert (first.status, again.status) == (201, 200)
    (await operator.ask("POST", "/groups", {**asked, "nodes": ["a"]})).refused(409, "conflict")
    (await operator.ask("POST", "/groups", {**asked, "owner": "me"})).refused(409, "conflict")
    (await operator.ask("POST", "/groups", {**asked, "name": "x", "selector": {"a": ["b"]}})).refused(
        400, "invalid_input"
    )


async def test_groups_are_put_in_order(operator, sites, pool):
    """All of them, each once, the catch-all last; what moves is said, and only done without dry_run."""
    first = await operator.group("first", selector={"site": ["ber"]})
    await operator.group("second", selector={"site": ["ber", "muc"]})
    wanted = {"application": "os", "groups": ["second", first, "all"]}
    shown = tried(await operator.ask("POST", "/groups/order", wanted, dry_run="true"))
    assert shown["moves"] == [{"from_group": "first", "to_group": "second", "nodes": 10}]
    assert (await members(pool))["first"] == BER
    assert (await operator.post("/groups/order", wanted)) == shown
    assert await members(pool) == {"second": BER | MUC}
    for groups in (["second", "all"], ["second", "first", "all", "all"], ["second", "first", "all", "x"]):
        refused = await operator.ask("POST", "/groups/order", {**wanted, "groups": groups})
        refused.refused(400, "invalid_input")
    behind = await operator.ask("POST", "/groups/order", {**wanted, "groups": ["all", "first", "second"]})
    behind.refused(409, "conflict")


async def test_a_group_goes_when_nothing_depends_on_it(operator, sites, pool, fleet, events):
    """Not while a rollout is active, a node in flight, or a gate waits for it; its nodes go where they belong."""
    berlin = await operator.group("berlin", selector={"site": ["ber"]})
    await operator.promote(await operator.channel(), await operator.changeset("2.0.0"))
    rollouts = (await operator.get("/rollouts", group=berlin))["items"]
    because = {"reason": "moved to muc"}
    detail = (await operator.ask("DELETE", f"/groups/{berlin}", because)).refused(409, "conflict")
    assert "active rollout" in detail
    node_id = await pool.fetchval("SELECT node_id FROM fleet.nodes WHERE machine_id = 'ber-1'")
    attempt = await fleet.attempt(node_id, rollouts[0]["rollout_id"], "staged")
    await operator.post(f"/rollouts/{rollouts[0]['rollout_id']}/abort", because)
    detail = (await operator.ask("DELETE", f"/groups/{berlin}", because)).refused(409, "conflict")
    assert "in the middle" in detail
    await fleet.close(attempt, "committed")
    gate = {"policy": {"gates": [{"groups": ["berlin"]}]}}
    await pool.execute("UPDATE control.groups SET policy = $1 WHERE name = 'all'", gate["policy"])
    assert "wait for" in (await operator.ask("DELETE", f"/groups/{berlin}", because)).refused(409, "conflict")
    await pool.execute("UPDATE control.groups SET policy = '{}' WHERE name = 'all'")
    shown = tried(await operator.ask("DELETE", f"/groups/{berlin}", because, dry_run="true"))
    assert shown["moves"] == [{"from_group": "berlin", "to_group": "all", "nodes": 10}]
    assert (await operator.get(f"/groups/{berlin}"))["nodes"] == 10
    assert (await operator.ask("DELETE", f"/groups/{berlin}", because)).ok() == shown
    (await operator.ask("GET", f"/groups/{berlin}")).refused(404, "not_found")
    (await operator.ask("DELETE", f"/groups/{berlin}", because)).refused(404, "not_found")
    assert await members(pool) == {"all": BER | MUC}
    what = await pool.fetchval(
        "SELECT data ->> 'what' FROM event_log.inbox WHERE type = 'policy.changed.v1' ORDER BY position DESC LIMIT 1"
    )
    assert what == "group berlin deleted: moved to muc"


async def test_a_pinned_group_takes_its_version_on_every_arch(operator, app):
    """Whatever the channel says meanwhile; unpinned it takes that. A group must follow something."""
    channels = {arch: await operator.channel(arch=arch) for arch in ("x86_64", "aarch64")}
    for version in ("1.0.0", "2.0.0"):
        for arch, channel_id in channels.items():
            changeset_id = await operator.changeset(version, arch=arch)
            if version == "2.0.0":
                await operator.promote(channel_id, changeset_id)
    pinned = await operator.group("pinned", channel=None, pinned_version="1.0.0")
    running = (await operator.get("/rollouts", group=pinned, active="true"))["items"]
    assert {(item["arch"], item["version"]) for item in running} == {("x86_64", "1.0.0"), ("aarch64", "1.0.0")}
    assert {item["channel_id"] for item in running} == {None}
    (await operator.ask("PATCH", f"/groups/{pinned}", {"channel": "stable"})).ok()
    await operator.promote(channels["x86_64"], await operator.changeset("3.0.0"))
    running = (await operator.get("/rollouts", group=pinned, active="true"))["items"]
    assert {item["version"] for item in running} == {"1.0.0"}
    unpinned = (await operator.ask("PATCH", f"/groups/{pinned}", {"pinned_version": None})).ok()
    assert (unpinned["channel"], unpinned["pinned_version"]) == ("stable", None)
    running = (await operator.get("/rollouts", group=pinned, active="true"))["items"]
    assert {item["version"] for item in running} == {"2.0.0", "3.0.0"}
    (await operator.ask("PATCH", f"/groups/{pinned}", {"channel": None})).refused(400, "invalid_input")
    nothing = {"application": "os", "name": "lost"}
    (await operator.ask("POST", "/groups", nothing)).refused(400, "invalid_input")
    await operator.group("ahead", channel=None, pinned_version="9.9.9")


async def test_facts_in_the_database_are_those_of_the_rule(app, fleet, operator, pool):
    """What control selects by in SQL is what update_check selects by."""
    await operator.channel()
    node_id = await fleet.node("m1", await operator.group(), "1.2.3", facts={"site": "ber", "alias": "told"})
    imported = {"site": "muc", "rack": "r1", "arch": "s390x"}
    for facts, alias in (({"site": "ber", "alias": "told"}, "given"), ({}, "given"), ({}, None)):
        await pool.execute(
            "UPDATE fleet.nodes SET facts = $2, imported_facts = $3, alias = $4 WHERE node_id = $1",
            node_id, facts, imported, alias,
        )  # fmt: skip
        in_sql = await pool.fetchval(
            "SELECT fleet.facts_v1(facts, imported_facts, alias, arch, version) FROM fleet.nodes WHERE node_id = $1",
            node_id,
        )
        for fact in ("site", "rack", "arch", "alias", "version", "unknown"):
            single = await pool.fetchval(
                "SELECT fleet.fact_v1(facts, imported_facts, alias, arch, version, $2) FROM fleet.nodes "
                "WHERE node_id = $1",
                node_id,
                fact,
            )
            assert single == in_sql.get(fact)
        assert in_sql == known_facts(facts, imported, version="1.2.3", arch="x86_64", alias=alias)


async def test_a_policy_is_explained_in_the_answer(operator, app):
    """Every field with its value, its default and a sentence."""
    await operator.channel()
    group = await operator.get(f"/groups/{await operator.group(policy={'max_attempts': 2})}")
    assert set(group["policy_explained"]) == set(group["effective_policy"])
    assert group["policy_explained"]["max_attempts"]["value"] == 2
    assert group["policy_explained"]["max_attempts"]["changed"]


async def test_nodes_of_unknown_groups_are_not_there(operator, app):
    """404, nothing else."""
    nobody = uuid.UUID(int=5)
    (await operator.ask("GET", f"/groups/{nobody}/named-nodes")).refused(404, "not_found")
    (await operator.ask("POST", f"/groups/{nobody}/preview", {})).refused(404, "not_found")
