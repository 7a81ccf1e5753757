"""A fleet as a file: applied, compared, exported, applied again."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs" / "how-to" / "fleet.yaml"


@pytest.fixture
async def applied(terminal):
    """The example of the documentation, applied."""
    return await terminal.json("apply", "-f", str(EXAMPLE), "--yes")


async def names_of(operator, path: str) -> list[str]:
    return [item["name"] for item in sorted((await operator.get(path))["items"], key=lambda item: item["position"])]


async def test_the_example_of_the_documentation_applies_to_an_empty_server(applied, operator):
    """Three groups and two archs, in the order of the file, with gates, windows and waves."""
    assert applied["applied"][:2] == ["add application flatcar", "add channel flatcar/beta (amd64)"]
    assert await names_of(operator, "/groups") == ["canaries", "late", "production"]
    groups = {item["name"]: item for item in (await operator.get("/groups"))["items"]}
    assert groups["production"]["policy"]["gates"][0]["groups"] == ["canaries"]
    assert groups["late"]["named_nodes"] == 1
    assert groups["late"]["effective_policy"]["windows"]["time_zone"] == "Europe/Berlin"
    channels = (await operator.get("/channels"))["items"]
    assert {(one["name"], one["arch"], one["position"]) for one in channels} == {
        (name, arch, position) for name, position in (("beta", 1), ("stable", 2)) for arch in ("amd64", "arm64")
    }


async def test_applied_again_or_from_an_export_it_changes_nothing(applied, terminal, tmp_path, pool):
    """Neither a request nor an event."""
    before = await pool.fetchval("SELECT count(*) FROM event_log.inbox")
    assert "Nothing differs." in await terminal.text("apply", "-f", str(EXAMPLE), "--check")
    again = await terminal.json("apply", "-f", str(EXAMPLE), "--yes")
    assert (again["changes"], again["orders"], again["applied"]) == ([], [], [])
    exported = tmp_path / "exported.yaml"
    assert "Written" in await terminal.text("export", "-o", str(exported))
    assert await terminal.text("export", "--app", "flatcar") == exported.read_text()
    assert (await terminal.json("apply", "-f", str(exported), "--yes"))["changes"] == []
    assert await pool.fetchval("SELECT count(*) FROM event_log.inbox") == before


async def test_what_differs_is_shown_and_only_that_is_changed(applied, terminal, operator, tmp_path, fleet_of):
    """A diff with values before and after, how many nodes move, and what is left alone; status 2 with --check."""
    groups = {item["name"]: item for item in (await operator.get("/groups"))["items"]}
    await fleet_of(groups["production"], "machine-1", "1.0.0")
    text = EXAMPLE.read_text()
    text = text.replace("allowed_bad_rate: 0.05", "allowed_bad_rate: 0.04").replace("severity: ticket\n", "\n")
    text = text.replace("[0f3c9a5be0b54a6c8f4fd0f4f7f3a001]", "[machine-1]").replace("io.flatcar", "flatcar os")
    text = text.replace("        # Nothing goes", "        position: 3\n        # Nothing goes")
    changed = tmp_path / "fleet.yaml"
    changed.write_text(text)
    asked = await terminal.run("apply", "-f", str(changed), "--check")
    assert asked.exit_code == 2
    for words in (
        "~ application flatcar", "product: io.flatcar -> flatcar os", "~ channel flatcar/stable (arm64)",
        "policy.allowed_bad_rate: 0.05 -> 0.04", "policy.severity: ticket -> -", "~ group flatcar/late   moves 1 nodes",
    ):  # fmt: skip
        assert words in asked.stdout, (words, asked.stdout)
    refused = await terminal.run("apply", "-f", str(changed))
    assert (refused.exit_code, "say --yes" in refused.stderr) == (1, True)
    done = await terminal.text("apply", "-f", str(changed), "--yes")
    assert "[5/5]" in done
    assert (await terminal.json("group", "show", "canaries"))["policy"] == {
        "allowed_bad_rate": 0.04,
        "failure_domain": "rack",
    }
    assert (await terminal.json("apply", "-f", str(changed), "--check"))["changes"] == []


async def test_groups_change_places_and_go_only_when_asked_to(applied, terminal, operator, tmp_path):
    """A group that somebody made by hand stays where it is, until --prune; its rollout is aborted then."""
    await operator.post(
        "/groups", {"application": "flatcar", "name": "mine", "channel": "beta", "selector": {"a": ["b"]}}
    )
    channel = next(one for one in (await operator.get("/channels"))["items"] if one["name"] == "beta")
    changeset = await operator.changeset("3066.1.0", app="flatcar", arch=channel["arch"])
    await operator.promote(channel["channel_id"], changeset)
    text = EXAMPLE.read_text()
    start, end = text.index("      # A few nodes of every"), text.index("      # Named one by one")
    canaries = text[start:end]
    swapped = text[:start] + text[end:].replace("      # Everything else", canaries + "      # Everything else")
    path = tmp_path / "fleet.yaml"
    path.write_text(swapped)
    shown = await terminal.text("apply", "-f", str(path), "--yes")
    assert "Left alone, since the file does not name them: group flatcar/mine" in shown
    order = await names_of(operator, "/groups")
    assert order.index("late") < order.index("canaries") < order.index("production")
    assert "mine" in order
    shown = await terminal.text("apply", "-f", str(path), "--yes", "--prune")
    assert "- group flatcar/mine" in shown
    assert await names_of(operator, "/groups") == ["late", "canaries", "production"]


async def test_what_the_server_refuses_names_the_line_of_the_file(applied, terminal, tmp_path):
    """With how far it came; a file that cannot be read or says nonsense is refused before anything is asked."""
    path = tmp_path / "fleet.yaml"
    path.write_text(EXAMPLE.read_text().replace("e96281a6", "e96281a7"))
    assert f"{path}:5: the omaha_id of flatcar" in await terminal.fails(1, "apply", "-f", str(path), "--yes")
    path.write_text(EXAMPLE.read_text().replace("name: flatcar\n", "name: other\n"))
    refused = await terminal.run("apply", "-f", str(path), "--yes")
    assert (refused.exit_code, f"{path}:5: add application other" in refused.stderr) == (1, True)
    assert "0 of" in refused.stderr
    path.write_text(EXAMPLE.read_text().replace("waves:", "wawes:"))
    assert "did you mean 'waves'?" in await terminal.fails(1, "apply", "-f", str(path))
    assert "cannot be read" in await terminal.fails(1, "apply", "-f", str(tmp_path / "none"))
    assert "cannot be written" in await terminal.fails(1, "export", "-o", str(tmp_path / "no" / "x"))
    assert "no application" in await terminal.fails(1, "export", "--app", "none")
