"""``uneventful node``, ``quarantine`` and ``hold`` as operators use them."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest


@pytest.fixture
async def world(operator, app, fleet, terminal):
    """Two nodes, one of them quarantined for what its group rolls out and the other with it staged."""
    changeset_id, channel_id = await operator.changeset("2.0.0"), await operator.channel()
    group_id = await operator.group()
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    one = await fleet.node("web-1", group_id, "1.0.0", facts={"site": "ber"})
    await fleet.quarantine(one, changeset_id)
    await fleet.attempt(await fleet.node("web-2", group_id, "1.0.0"), rollout_id, "staged")
    return terminal


async def test_nodes_are_listed_and_explained(world):
    """Filters, why in words, history, and what will boot a halted release."""
    assert [item["machine_id"] for item in (await world.json("node", "list", "--stuck"))["items"]] == ["web-1"]
    listed = await world.json("node", "list", "--prefix", "web-", "--fact", "site=ber", "--sort", "machine")
    assert [item["machine_id"] for item in listed["items"]] == ["web-1"]
    assert "No such node" in await world.text("node", "list", "--gone")
    said = await world.text("node", "why", "web-1")
    assert said.startswith("2.0.0 failed on it (reported)")
    assert (await world.json("node", "why", "web-2"))["findings"][0]["reason"] == "attempt_open"
    assert (await world.json("node", "show", "web-1"))["history"] == []
    await world.json("changeset", "halt", "2.0.0", "--reason", "smoke")
    stopped = await world.text("node", "list")
    assert "1 nodes will boot 2.0.0 (x86_64) at their next reboot, which is halted: smoke." in stopped
    assert "Also: 2.0.0 failed on it" in await world.text("node", "why", "web-1")


async def test_nodes_are_named_gone_and_forgotten(world, tmp_path):
    """By name after that; from a file; what cannot be undone is asked for."""
    await world.json("node", "alias", "web-1", "front")
    assert (await world.json("node", "show", "front"))["machine_id"] == "web-1"
    assert "front" in await world.text("node", "list")
    assert (await world.json("node", "alias", "front", "--none"))["alias"] is None
    await world.fails(2, "node", "alias", "web-1")
    (tmp_path / "scaled-in").write_text("web-1\nnever\n")
    from_file = ("node", "gone", "--app", "os", "--from", str(tmp_path / "scaled-in"), "--reason", "autoscaler")
    assert "say --yes" in (await world.run(*from_file)).stderr
    gone = await world.json(*from_file, "--yes")
    assert (gone["gone"], gone["unknown_machines"]) == (1, ["never"])
    assert "1: never" in await world.text(*from_file, "--yes")
    await world.fails(2, "node", "gone", "--app", "os", "--reason", "r")
    assert "say --yes" in (await world.run("node", "forget", "web-2", "--reason", "sold")).stderr
    assert (await world.json("node", "forget", "web-2", "--reason", "sold", "--yes"))["forgotten"]
    assert (await world.json("node", "list"))["items"] == []


async def test_facts_are_imported_from_files(world, tmp_path):
    """Tried first, then done; a wrong line sends nothing."""
    (tmp_path / "facts.csv").write_text("machine,rack,alias\nweb-1,r1,front\nnever,r2,\n")
    command = ("node", "import", str(tmp_path / "facts.csv"), "--app", "os")
    assert (await world.json(*command, "--dry-run"))["changed"] == 1
    done = await world.json(*command)
    assert (done["changed"], done["unknown_machines"]) == (1, ["never"])
    assert (await world.json("node", "show", "front"))["imported_facts"] == {"rack": "r1"}
    assert "never heard of" in await world.text(*command)
    (tmp_path / "facts.csv").write_text("rack\nr1\n")
    assert "no column machine" in await world.fails(1, *command)


async def test_quarantines_and_holds(world):
    """Seen, lifted from one and from all; held, shown, released."""
    assert "reported" in await world.text("quarantine", "list", "--changeset", "2.0.0", "--group", "all")
    await world.fails(2, "quarantine", "lift", "2.0.0", "--reason", "r")
    lift = ("quarantine", "lift", "2.0.0", "--reason", "fixed")
    assert "say --yes" in (await world.run(*lift, "--all")).stderr
    assert (await world.json(*lift, "--node", "never"))["lifted"] == 0
    assert await world.json(*lift, "--all", "--yes") == {"lifted": 1, "left": 0}
    assert "Nothing is quarantined" in await world.text("quarantine", "list")
    add = ("hold", "add", "2.0.0", "--segment", "site=ber", "--reason", "dhcp")
    assert "2 nodes, of which 1 do not tell" in await world.text(*add, "--dry-run")
    assert "Nothing is held" in await world.text("hold", "list")
    hold = await world.json(*add)
    assert "dhcp" in await world.text("hold", "show", hold["hold_id"])
    assert (await world.json("hold", "release", hold["hold_id"], "--reason", "patched"))["released_by"] == "operator"
    assert (await world.json("hold", "list"))["items"] == []
    assert len((await world.json("hold", "list", "--all"))["items"]) == 1
    for wrong in ("site", "site=a,b"):
        await world.fails(2, "hold", "add", "2.0.0", "--segment", wrong, "--reason", "r")


async def test_a_watch_shows_polls_and_ends_on_ctrl_c(world, pool):
    """One line each, as JSON too; interrupted it ends well."""
    assert (await world.text("node", "watch", "--for", "0.1", "--app", "os")).startswith("at ")
    watching = await world.start("--json", "node", "watch", "--rejected")
    async with asyncio.timeout(30):
        while True:
            if await pool.fetchval("SELECT until > clock_timestamp() + interval '14 s' FROM fleet.poll_watch"):
                break
            await asyncio.sleep(0.05)
        await pool.execute(
            "INSERT INTO fleet.watched_polls (dialect, answer) VALUES ('omaha', 'up_to_date'), ('omaha', 'malformed')"
        )
        line = await watching.stdout.readline()
        assert json.loads(line)["answer"] == "malformed"
        watching.send_signal(signal.SIGINT)
        _, complaint = await watching.communicate()
    assert (watching.returncode, complaint) == (0, b"")
