"""``uneventful group`` as operators use it."""

from __future__ import annotations

import pytest


@pytest.fixture
async def world(terminal, fleet_of):
    """An application with one group and two nodes of it."""
    await terminal.json("app", "add", "os")
    await terminal.json("channel", "add", "os", "stable", "--arch", "x86_64")
    group = await terminal.json("group", "add", "os", "all", "--channel", "stable")
    await fleet_of(group, "m1", "1.0.0")
    await fleet_of(group, "m2", "2.0.0")


async def test_what_moves_is_shown_and_asked(world, terminal):
    """A program says --yes or moves nothing; a dry run only shows."""
    added = await terminal.json(
        "group", "add", "os", "old", "--channel", "stable", "--select", "version=1.0.0", "--owner", "Team A",
        "--contact", "a@example.org",
    )  # fmt: skip
    assert (added["owner"], added["contact"], added["nodes"]) == ("Team A", "a@example.org", 1)
    change = ("group", "set", "old", "--select", "version=1.0.0,2.0.0")
    assert "1 nodes move from all to old" in await terminal.text(*change, "--dry-run")
    assert (await terminal.json(*change, "--dry-run"))["moving"] == 1
    refused = await terminal.run(*change)
    assert refused.exit_code == 1
    assert "say --yes" in refused.stderr
    assert (await terminal.json("group", "show", "all"))["nodes"] == 1
    assert (await terminal.json(*change, "--yes"))["nodes"] == 2
    ordered = await terminal.json("group", "order", "os", "old", "all")
    assert ordered["moving"] == 0
    gone = await terminal.text("group", "delete", "old", "--reason", "merged", "--yes")
    assert "2 nodes move from old to all" in gone
    assert [item["name"] for item in (await terminal.json("group", "list"))["items"]] == ["all"]


async def test_named_nodes_and_pins(world, terminal, tmp_path):
    """By option, from a file, listed; pinned and unpinned; contradictions are usage errors."""
    await terminal.json("group", "add", "os", "few", "--pin", "1.0.0", "--explicit-only", "--node", "m1")
    (tmp_path / "machines").write_text("m2\n\nm3\n")
    assert "m3" in await terminal.text("group", "nodes", "few", "--add", str(tmp_path / "machines"), "--yes")
    shown = await terminal.text("group", "show", "few")
    assert "1.0.0 (pinned)" in shown
    assert "3 named nodes" in shown
    await terminal.json("group", "set", "few", "--channel", "stable", "--unpin", "--remove-node", "m2", "--yes")
    assert "everything" in await terminal.text("group", "list")
    for wrong in (
        ("group", "add", "os", "none"),
        ("group", "set", "few", "--pin", "1", "--unpin"),
        ("group", "set", "few", "--everything", "--explicit-only"),
        ("group", "set", "few"),
    ):
        await terminal.fails(2, *wrong)
