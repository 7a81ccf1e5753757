"""The whole at once: what waits for whom, how rollouts get on, and what nodes are up to."""

from __future__ import annotations

import uuid

import pytest

from services.cli.status_view import screen


def waits(status: dict) -> list[tuple[str, str]]:
    return [(item["whom"], item["kind"]) for item in status["waiting"]]


@pytest.fixture
async def two_groups(operator, app, fleet, pool):
    """Canaries on the way to 2.0.0, production that waits for them and for an approver."""
    channel = await operator.channel()
    canaries = await operator.group("canaries", position=1)
    production = await operator.group("production", position=2, policy={"approval": True})
    for number in range(4):
        await fleet.node(f"c{number}", canaries, "1.0.0")
        await fleet.node(f"p{number}", production, "1.0.0", silent_for_s=0 if number else 200_000)
    changeset = await operator.changeset("2.0.0")
    await operator.promote(channel, changeset)
    rollouts = (await operator.get("/rollouts"))["items"]
    return {"changeset": changeset, **{item["group_name"]: item["rollout_id"] for item in rollouts}}


async def test_an_idle_system_waits_for_nobody(operator, app):
    """Nothing is there yet; the ledger is up to date."""
    status = await operator.get("/status")
    assert (status["waiting"], status["rollouts"], status["rollouts_active"]) == ([], [], 0)
    assert status["nodes"]["total"] == 0
    assert status["blind"] == []
    (await operator.ask("GET", "/status", application="none")).refused(404, "not_found")


async def test_what_waits_is_said_with_whom_it_waits_for(operator, two_groups, fleet, pool, store):
    """Approval, halt of everything, pause, holds, a halted changeset with nodes that will boot it."""
    await store.rollouts.conduct_all()
    status = await operator.get("/status")
    assert ("approver", "approval") in waits(status)
    assert status["rollouts_active"] == 2
    assert (status["nodes"]["total"], status["nodes"]["silent"]) == (8, 1)
    canaries = next(one for one in status["rollouts"] if one["group_name"] == "canaries")
    assert canaries["nodes"]["total"] == 4

    node_id = await fleet.node("c9", canaries["group_id"], "1.0.0")
    await fleet.attempt(node_id, two_groups["canaries"], "staged")
    await pool.execute("UPDATE fleet.attempts SET changed_at = now() - interval '8 days'")
    await fleet.quarantine(await fleet.node("c8", canaries["group_id"], "1.0.0"), two_groups["changeset"])
    await pool.execute(
        "INSERT INTO control.holds (hold_id, changeset_id, segment, reason, held_by) VALUES ($1, $2, $3, 'r', 'ann')",
        uuid.uuid4(), uuid.UUID(two_groups["changeset"]), {"oem": "azure"},
    )  # fmt: skip
    await operator.post(f"/rollouts/{two_groups['canaries']}/pause", {"reason": "lunch"})
    status = await operator.get("/status", application="os")
    assert {("operator", "paused"), ("operator", "hold")} <= set(waits(status))
    assert (status["nodes"]["stuck"], status["nodes"]["quarantined"]) == (1, 1)
    # It tells no oem, so that the hold covers it.
    assert status["nodes"]["will_boot_stopped"] == 1

    await operator.post(f"/changesets/{two_groups['changeset']}/halt", {"reason": "smoke"})
    await operator.post("/halt", {"reason": "fire"})
    status = await operator.get("/status")
    assert waits(status)[0] == ("operator", "halt")
    assert ("operator", "halted") in waits(status)
    assert status["nodes"]["will_boot_stopped"] == 1
    assert status["stopped"][0]["will_boot"] == 1
    assert len((await operator.get("/status", rollouts=1))["rollouts"]) == 1


async def test_what_the_analysis_cannot_see_is_said_until_it_sees_again(operator, app, pool):
    """Per site its last word counts."""
    for seq, kind, site in [(1, "blind", "one"), (2, "blind", "two"), (3, "sighted", "one")]:
        await pool.execute(
            "INSERT INTO analysis.verdicts (seq, ordinal, kind, verdict) VALUES ($1, 0, $2, convert_to($3, 'UTF8'))",
            seq, kind, f'{{"site": "{site}", "reason": "few_contacts"}}',
        )  # fmt: skip
    status = await operator.get("/status")
    assert [(one["site"], one["reason"]) for one in status["blind"]] == [("two", "few_contacts")]
    assert waits(status) == [("nobody", "blind")]


async def test_the_command_shows_one_screen(terminal, operator, app, two_groups, store):
    """With words, with JSON, and again and again."""
    await store.rollouts.conduct_all()
    shown = await terminal.text("status")
    for words in ("up to date", "approver", "waits for approval", "canaries", "0/4", "8 nodes, 0 in flight: 1 silent"):
        assert words in shown, words
    assert (await terminal.json("status", "--app", "os"))["rollouts_active"] == 2
    watching = await terminal.start("status", "--watch", "--every", "0.2", "--json")
    assert watching.stdout is not None
    lines = [await watching.stdout.readline() for _ in range(2)]
    watching.kill()
    await watching.wait()
    assert all(b'"rollouts_active":2' in line for line in lines)
    assert screen(await operator.get("/status")) is not None
