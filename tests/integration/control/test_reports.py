"""Reports by the API and the command."""

from __future__ import annotations

import csv
import io
import json

import pytest

from services.event_log.mover import Mover
from shared.db.pool import connect


@pytest.fixture
async def promoted(operator, app, fleet, pool):
    """A group on 2.0.0 since 20 days: two nodes took it, one was never heard since; a newer one came yesterday."""
    channel = await operator.channel()
    group = await operator.group()
    first = await operator.changeset("2.0.0")
    rollouts = await operator.promote(channel, first)
    for name, version, silent in [("a", "2.0.0", 0), ("b", "2.0.0", 0), ("c", "1.0.0", 30 * 86_400), ("d", "1.0.0", 0)]:
        node_id = await fleet.node(name, group, version, silent_for_s=silent)
        if version == "2.0.0":
            await fleet.attempt(node_id, rollouts[0], "committed")
    await pool.execute(
        "UPDATE fleet.attempts SET granted_at = now() - interval '20 days' + interval '10 minutes', "
        "closed_at = now() - interval '20 days' + interval '90.5 minutes'"
    )
    await pool.execute("UPDATE control.groups SET owner = 'us'")
    await pool.execute("UPDATE control.channel_history SET promoted_at = now() - interval '20 days'")
    await operator.promote(channel, await operator.changeset("3.0.0"))
    return group


async def moved(database_url: str) -> None:
    connection = await connect(database_url, application_name="mover")
    try:
        mover = Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
        while await mover.step():
            pass
    finally:
        await connection.close()


async def test_compliance_by_what_was_promoted_some_days_ago(operator, promoted):
    """Within 14 days 2.0.0 is asked for, within none 3.0.0, within 30 nothing yet."""
    report = await operator.get("/reports/compliance", within_days=14)
    (group,) = report["groups"]
    assert (group["group"], group["owner"], group["nodes"], group["compliant"], group["unseen"]) == (
        "all",
        "us",
        4,
        2,
        1,
    )
    assert group["share"] == 0.5
    assert group["archs"][0]["demanded"] == "2.0.0"
    assert (group["latency"]["commits"], group["latency"]["p50_minutes"]) == (2, 90)
    assert report["total"]["share"] == 0.5
    now = await operator.get("/reports/compliance", within_days=0, latency_days=1, application="os")
    assert (now["groups"][0]["compliant"], now["groups"][0]["latency"]["commits"]) == (0, 0)
    long_ago = await operator.get("/reports/compliance", within_days=30)
    assert (long_ago["groups"][0]["share"], long_ago["groups"][0]["archs"][0]["demanded"]) == (1.0, None)
    (await operator.ask("GET", "/reports/compliance", application="none")).refused(404, "not_found")
    (await operator.ask("GET", "/reports/compliance", within_days=-1)).refused(400, "invalid_input")


async def test_a_pinned_group_is_asked_for_its_version(operator, app, fleet, pool):
    """Since it was published; a withdrawn one is asked of nobody."""
    await operator.changeset("2.0.0")
    group = (await operator.post("/groups", {"application": "os", "name": "pinned", "pinned_version": "2.0.0"}))[
        "group_id"
    ]
    await fleet.node("a", group, "1.0.0")
    assert (await operator.get("/reports/compliance", within_days=14))["total"]["compliant"] == 1
    await pool.execute("UPDATE control.changesets SET published_at = now() - interval '20 days'")
    (line,) = (await operator.get("/reports/compliance", within_days=14))["groups"]
    assert (line["pin"], line["compliant"], line["archs"][0]["demanded"]) == ("2.0.0", 0, "2.0.0")
    await pool.execute("UPDATE control.changesets SET state = 'withdrawn'")
    assert (await operator.get("/reports/compliance", within_days=14))["total"]["compliant"] == 1


async def test_the_audit_says_who_did_what(operator, promoted, database_url):
    """By ledger time, by name, page by page."""
    await moved(database_url)
    everything = await operator.get("/reports/audit")
    actions = {act["action"] for act in everything["items"]}
    assert {"channel.promoted", "changeset.published", "policy.changed"} <= actions
    assert {act["by"] for act in everything["items"]} == {"operator"}
    assert everything["next"] is None
    page = await operator.get("/reports/audit", limit=2)
    assert len(page["items"]) == 2
    rest = await operator.get("/reports/audit", after=page["next"])
    assert [act["seq"] for act in page["items"] + rest["items"]] == [act["seq"] for act in everything["items"]]
    assert (await operator.get("/reports/audit", by="nobody"))["items"] == []
    assert (await operator.get("/reports/audit", until="2020-01-01T00:00:00Z"))["items"] == []
    (await operator.ask("GET", "/reports/audit", since="2020-01-01T00:00:00")).refused(400, "invalid_input")


async def test_reports_by_the_command(terminal, promoted, database_url, tmp_path):
    """On the terminal, as CSV, as a page, as JSON."""
    shown = await terminal.text("report", "compliance")
    assert "50.0% of 4 nodes comply within 14 days; 1 were not seen since." in shown
    assert "90 min" in shown
    rows = list(csv.DictReader(io.StringIO(await terminal.text("report", "compliance", "--csv"))))
    assert (rows[0]["group"], rows[0]["compliant"]) == ("all", "2")
    page = tmp_path / "page.html"
    assert "Written" in await terminal.text("report", "compliance", "--html", "-o", str(page))
    assert page.read_text().startswith("<!doctype html>")
    assert (await terminal.json("report", "compliance"))["within_days"] == 14
    await terminal.fails(2, "report", "compliance", "--csv", "--html")
    assert "cannot be written" in await terminal.fails(
        1, "report", "compliance", "--csv", "-o", str(tmp_path / "no" / "x")
    )
    await moved(database_url)
    assert "channel.promoted" in await terminal.text("report", "audit", "--since", "1d")
    acts = list(csv.DictReader(io.StringIO(await terminal.text("report", "audit", "--csv", "--limit", "1"))))
    assert [act["by"] for act in acts] == ["operator"]
    assert json.loads(await terminal.text("report", "audit", "--by", "nobody", "--json"))["items"] == []
    assert "is no time" in await terminal.fails(2, "report", "audit", "--since", "yesterday")
