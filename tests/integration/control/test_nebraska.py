"""Taking over from a Nebraska: its database is only read, and what it has stands in a fleet file and as drafts."""

from __future__ import annotations

import asyncio
import builtins
import json
import uuid
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from services.cli.__main__ import cli
from services.cli.fleet_file import Noun, parse

SCHEMA = Path(__file__).parents[2] / "bench" / "nebraska_schema.sql"
APP = uuid.UUID("e96281a6-d1af-4bde-9a0a-97b76e56dc57")
SHA1 = "2jmj7l5rSw0yVb/vlWAYkK/YBwk="
SHA256 = "stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA="


async def fill(connection: asyncpg.Connection) -> None:
    """A usual server: one application, stable and beta, three groups, two nodes and a syncer."""
    # The tables; what the bench fills them with comes behind.
    await connection.execute(SCHEMA.read_text().partition("INSERT INTO")[0])
    await connection.execute(
        "CREATE TABLE channel_package_floors (channel_id uuid REFERENCES channel, package_id uuid REFERENCES package, "
        "floor_reason text, created_ts timestamptz DEFAULT now(), PRIMARY KEY (channel_id, package_id))"
    )
    team, package, old, stable, beta = (uuid.uuid4() for _ in range(5))
    await connection.execute("INSERT INTO team (id, name) VALUES ($1, 'default')", team)
    await connection.execute(
        "INSERT INTO application (id, name, team_id, product_id) VALUES ($1, 'Flatcar', $2, 'io.flatcar')", APP, team
    )
    for ident, version in [(package, "3975.2.1"), (old, "3510.2.0")]:
        await connection.execute(
            "INSERT INTO package (id, type, version, url, filename, size, hash, application_id, arch) VALUES "
            "($1, 1, $2, 'https://update.example/amd64-usr/', 'flatcar_production_update.gz', '382137917', $3, $4, 1)",
            ident, version, SHA1, APP,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO flatcar_action (id, sha256, package_id) VALUES ($1, $2, $3)", uuid.uuid4(), SHA256, ident
        )
    await connection.execute(
        "INSERT INTO package_file (package_id, name, hash, size, hash256) "
        "VALUES ($1, 'oem-azure.gz', $2, '40897503', $3)",
        package, SHA1, "3aed3129de50b959a97e4913ba485bd60e72d2bb6aa377d5ed404103f0680043",
    )  # fmt: skip
    for ident, name, points_to in [(stable, "stable", package), (beta, "beta", None)]:
        await connection.execute(
            "INSERT INTO channel (id, name, application_id, package_id, arch) VALUES ($1, $2, $3, $4, 1)",
            ident, name, APP, points_to,
        )  # fmt: skip
    await connection.execute(
        "INSERT INTO channel_package_floors VALUES ($1, $2, 'needs the new disk layout')", stable, old
    )
    await connection.execute("INSERT INTO package_channel_blacklist VALUES ($1, $2)", package, beta)
    for name, follows, hours in [("Production", stable, True), ("Canaries", beta, False), ("Lost", None, False)]:
        ident = uuid.uuid4()
        await connection.execute(
            "INSERT INTO groups (id, name, application_id, channel_id, track, policy_office_hours, policy_timezone, "
            "policy_period_interval, policy_max_updates_per_period, policy_update_timeout, policy_safe_mode) "
            "VALUES ($1, $2, $3, $4, $5, $6, 'Europe/Berlin', '15 minutes', 2, '60 minutes', false)",
            ident, name, APP, follows, name.lower(), hours,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO group_local (group_id, policy_max_updates_per_period_override) VALUES ($1, 7)", ident
        )
    for machine, alias in [("0" * 32, "web-1"), ("{syncer}", "")]:
        await connection.execute(
            "INSERT INTO instance (id, ip, alias, oem) VALUES ($1, '192.0.2.1', $2, 'ami')", machine, alias
        )
        await connection.execute(
            "INSERT INTO instance_application (version, instance_id, application_id) VALUES ('3510.2.0', $1, $2)",
            machine, APP,
        )  # fmt: skip


@pytest.fixture
async def nebraska(empty_database_url) -> str:
    connection = await asyncpg.connect(empty_database_url)
    try:
        await fill(connection)
    finally:
        await connection.close()
    return empty_database_url


async def test_a_dry_run_shows_the_plan_and_needs_no_server(nebraska, tmp_path):
    """Nothing is written, here or there."""
    path = tmp_path / "fleet.yaml"
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["import", "nebraska", "--dsn", nebraska, "--dry-run", "--to", str(path), "--json"]
    )
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["groups"] == ["Flatcar/Production", "Flatcar/Canaries", "Flatcar/unassigned"]
    assert plan["changesets"] == ["Flatcar 3510.2.0 (amd64)", "Flatcar 3975.2.1 (amd64)"]
    assert plan["nodes"] == 1
    assert plan["unmapped"] == ["group Lost of Flatcar follows no channel: its nodes get nothing"]
    assert any("at most 7 updates per 15 minutes" in note for note in plan["notes"])
    assert not path.exists()


async def test_what_is_no_nebraska_is_refused(database_url, tmp_path, monkeypatch):
    """Another database, none at all, and a command without the package that reads it."""

    def run(dsn: str):
        return CliRunner().invoke(cli, ["import", "nebraska", "--dsn", dsn, "--to", str(tmp_path / "f")])

    other = await asyncio.to_thread(run, database_url)
    assert (other.exit_code, "none of Nebraska's" in other.stderr) == (1, True)
    away = await asyncio.to_thread(run, "postgres://u:p@127.0.0.1:1/x")
    assert (away.exit_code, "cannot be reached" in away.stderr) == (3, True)
    usual = builtins.__import__

    def without(name, *arguments, **more):
        if name == "asyncpg":
            raise ModuleNotFoundError(name=name)
        return usual(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    missing = await asyncio.to_thread(run, "postgres://u:p@127.0.0.1:1/x")
    assert (missing.exit_code, "uneventful[server]" in missing.stderr) == (1, True)


async def test_an_older_server_has_neither_floors_nor_overrides(nebraska, tmp_path):
    """Its groups say what they say."""
    connection = await asyncpg.connect(nebraska)
    await connection.execute("DROP TABLE channel_package_floors, group_local")
    await connection.close()
    result = await asyncio.to_thread(
        CliRunner().invoke, cli, ["import", "nebraska", "--dsn", nebraska, "--dry-run", "--to", str(tmp_path / "f")]
    )
    assert result.exit_code == 0, result.output
    assert "at most 2 updates per 15 minutes" in result.stdout
    assert "this was a dry run" in result.stdout


async def test_a_fleet_file_and_drafts_are_made_and_can_be_applied(nebraska, terminal, tmp_path):
    """Again changes nothing; the file applies; nothing is promoted, and nothing offered."""
    path = tmp_path / "fleet.yaml"
    said = await terminal.text("import", "nebraska", "--dsn", nebraska, "--to", str(path))
    assert "2 changesets are there as drafts" in said
    fleet = parse(path.read_text(), "fleet.yaml")
    production = next(thing for thing in fleet.things if thing.name == "Production" and thing.noun is Noun.GROUP)
    assert production.fields["policy"]["windows"]["time_zone"] == "Europe/Berlin"
    assert production.fields["policy"]["group_concurrency"] == 7
    assert (await terminal.json("app", "show", "Flatcar"))["observe_only"] is True
    floor = await terminal.json("changeset", "show", "3510.2.0")
    assert (floor["state"], floor["floor"], floor["floor_reason"]) == ("draft", True, "needs the new disk layout")
    release = await terminal.json("changeset", "show", "3975.2.1")
    assert [payload["size"] for payload in release["payloads"]] == [382137917, 40897503]
    assert "is there already" in await terminal.fails(1, "import", "nebraska", "--dsn", nebraska, "--to", str(path))
    again = await terminal.json("import", "nebraska", "--dsn", nebraska, "--to", str(path), "--force")
    assert again["changesets_made"] == []
    nodes = tmp_path / "fleet.flatcar.nodes.csv"
    imported = await terminal.json("node", "import", str(nodes), "--app", "Flatcar")
    assert (imported["unknown"], imported["unknown_machines"]) == (1, ["0" * 32])
    await terminal.json("apply", "-f", str(path), "--yes")
    assert (await terminal.json("apply", "-f", str(path), "--check"))["changes"] == []
    assert (await terminal.json("rollout", "list"))["items"] == []
