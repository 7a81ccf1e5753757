"""``uneventful node``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.confirm import confirm, yes_option
from services.cli.node_file import batches, machines_of, rows_of
from services.cli.node_tokens import floods, token
from services.cli.node_watch import show_snippet, watch
from services.cli.output import Output
from services.cli.text import cell


def _called(item: Mapping[str, Any]) -> str:
    return f"{item['machine_id']} ({item['alias']})" if item["alias"] else str(item["machine_id"])


_COLUMNS: Mapping[str, Any] = {
    "machine": _called,
    "group": "group_name",
    "version": "version",
    "arch": "arch",
    "state": "state",
    "answer": "last_answer",
    "stuck": "stuck",
    "cloned": "cloned",
    "address": "address",
    "last contact": "last_contact_at",
    "id": "node_id",
}


def _attempts(item: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{cell(attempt['granted_at'])} {cell(attempt['from_version'])} -> {cell(attempt['to_version'])}: "
        f"{attempt['state']}{', parked' if attempt['parked'] else ''}"
        f"{' (' + cell(attempt['reason']) + ')' if attempt['reason'] else ''}"
        for attempt in item["attempts"]
    )


def _quarantines(item: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{cell(one['version'])} since {cell(one['since'])}: {cell(one['reason'])}" for one in item["quarantines"]
    )


_FIELDS: Mapping[str, Any] = {
    **_COLUMNS,
    "boot id": "boot_id",
    "booted": "boot_seen_at",
    "first seen": "first_seen_at",
    "gone": "gone_at",
    "dialect": "dialect",
    "facts": "known_facts",
    "attempts": _attempts,
    "quarantined for": _quarantines,
}


@click.group()
def node() -> None:
    """Nodes: machines of an application."""


node.add_command(token)
node.add_command(floods)
node.add_command(watch)
node.add_command(show_snippet)


_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
_SORTS = ["node_id", "last_contact", "version", "machine"]
_ANSWERED: Mapping[str, Any] = {
    "machine": "machine_id",
    "group": "group_name",
    "runs": "version",
    "last answer": "answer",
    "answered": "answered_at",
    "which means": "answer_means",
}


@node.command("list")
@click.option("--group", help="A group, by name or id.")
@click.option("--version", help="What they run.")
@click.option("--arch", help="Their arch.")
@click.option("--state", help="The state of their last attempt, like committed or rolled_back.")
@click.option("--cloned", is_flag=True, help="Only those whose machine id several machines use.")
@click.option("--prefix", help="How their machine id or alias begins.")
@click.option("--fact", multiple=True, metavar="NAME=VALUE", help="A fact of theirs; several must all hold.")
@click.option("--dialect", type=click.Choice(["omaha", "native", "cincinnati"]), help="How they ask.")
@click.option("--quarantined", is_flag=True, help="Only those to which something is not offered again.")
@click.option("--stuck", is_flag=True, help="Staged for over a week, silent for over a day, stranded, or parked.")
@click.option("--silent", is_flag=True, help="Only those that were not heard for over a day.")
@click.option("--stranded", is_flag=True, help="Only those with nothing left to offer.")
@click.option("--parked", is_flag=True, help="Only those that have awaited their reboot for long.")
@click.option("--gone", is_flag=True, help="Those that are gone instead of those that are there.")
@click.option("--sort", type=click.Choice(_SORTS), default="node_id", show_default=True)
@click.option("--order", type=click.Choice(["asc", "desc"]), help="Which way.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True)
@app_option
@talks
async def list_all(
    client: Client, output: Output, /, *, group: str | None, limit: int, app: str | None, gone: bool, **filters: Any
) -> None:
    """List nodes."""
    group_id = None if group is None else await client.group_id(group, app=app)
    given = {name: value for name, value in filters.items() if value not in (None, False, ())}
    found = await client.items("/nodes", most=limit, application=app, group=group_id, gone=gone, **given)
    output.items(found, _COLUMNS, empty="No such node.")
    if not output.as_json:
        stopped = await client.get("/nodes/staged-but-halted", application=app, group=group_id)
        for item in stopped["items"]:
            output.say(boots_halted(item))


def boots_halted(item: Mapping[str, Any]) -> str:
    """What staged nodes will do, in words."""
    return (
        f"{item['nodes']} nodes will boot {cell(item['version'])} ({cell(item['arch'])}) at their next reboot, which "
        f"is {cell(item['stopped_by']).replace('_', ' ')}{': ' + cell(item['reason']) if item['reason'] else ''}."
    )


@node.command("show")
@click.argument("machine")
@click.option("--history", type=click.IntRange(0, 1_000), default=10, show_default=True, help="So many events of it.")
@app_option
@talks
async def show(client: Client, output: Output, *, machine: str, history: int, app: str | None) -> None:
    """Show a node with its facts, attempts, quarantines and history, by machine id, alias or node id."""
    path = f"/nodes/{await client.node_id(machine, app=app)}"
    found = await client.get(path)
    events = await client.items(f"{path}/history", most=history) if history else []
    if output.as_json:
        output.json({**found, "history": events})
        return
    output.item(found, _FIELDS)
    for event in events:
        output.say(f"{cell(event['recorded_at'])} {cell(event['what'])}")


@node.command("why")
@click.argument("machine")
@app_option
@talks
async def why(client: Client, output: Output, *, machine: str, app: str | None) -> None:
    """Say why a node did not get an update."""
    found = await client.get(f"/nodes/{await client.node_id(machine, app=app)}/why")
    if output.as_json:
        output.json(found)
        return
    output.say(found["summary"])
    for finding in found["findings"][1:]:
        output.say(f"Also: {finding['sentence']}")
    output.item(found, _ANSWERED)


@node.command("gone")
@click.argument("machines", nargs=-1)
@click.option("--from", "file", type=_FILE, help="A file with a machine id per line; - is stdin.")
@click.option("--app", required=True, metavar="APP", help="The application, by name or id.")
@reason_option
@yes_option
@talks
async def gone(
    client: Client, output: Output, *, machines: tuple[str, ...], file: Path | None, app: str, reason: str, yes: bool
) -> None:
    """Say that machines were taken away on purpose: what they had under way counts neither way."""
    named = [*dict.fromkeys([*machines, *([] if file is None else machines_of(file))])]
    if not named:
        raise click.UsageError("name machines, or a file of them by --from")
    if file is not None:
        confirm(output, f"{len(named)} machines will be gone.", yes=yes or str(file) == "-")
    total: dict[str, Any] = {"gone": 0, "already": 0, "unknown": 0, "unknown_machines": []}
    for batch in batches(named):
        _add_up(total, await client.post("/nodes/gone", {"application": app, "machines": batch, "reason": reason}))
    output.item(total, {"gone": "gone", "gone already": "already", "never heard of": _unknown})


@node.command("forget")
@click.argument("machine")
@reason_option
@app_option
@yes_option
@talks
async def forget(client: Client, output: Output, *, machine: str, reason: str, app: str | None, yes: bool) -> None:
    """Strike a node from the fleet; its attempts stay in the evidence, and should it ask again it is a new node."""
    node_id = await client.node_id(machine, app=app)
    confirm(output, f"{machine} will be forgotten.", yes=yes)
    found = await client.post(f"/nodes/{node_id}/forget", {"reason": reason})
    output.item(found, {"forgotten": "machine_id", "id": "node_id"})


@node.command("alias")
@click.argument("machine")
@click.argument("alias", required=False)
@click.option("--none", "none", is_flag=True, help="Take the name away.")
@app_option
@talks
async def alias(
    client: Client, output: Output, *, machine: str, alias: str | None, none: bool, app: str | None
) -> None:
    """Give a node the name that people use; it is a fact like others."""
    if (alias is None) is not none:
        raise click.UsageError("give ALIAS, or --none")
    node_id = await client.node_id(machine, app=app)
    output.item(await client.post(f"/nodes/{node_id}/alias", {"alias": alias}), _FIELDS)


@node.command("import")
@click.argument("file", type=_FILE)
@click.option("--app", required=True, metavar="APP", help="The application, by name or id.")
@click.option("--reason", default="facts imported", show_default=True, help="Why; stands in the events.")
@click.option("--dry-run", is_flag=True, help="Only count what would change.")
@talks
async def import_facts(client: Client, output: Output, *, file: Path, app: str, reason: str, dry_run: bool) -> None:
    """Say what nodes do not tell themselves: FILE is CSV with a column `machine`, `alias` and any fact, or NDJSON.

    What a node tells goes before what is imported. An empty cell says nothing; in NDJSON a null takes a fact away.
    """
    rows = rows_of(file)
    total: dict[str, Any] = {"changed": 0, "unchanged": 0, "moved": 0, "unknown": 0, "unknown_machines": []}
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("importing", total=len(rows))
        for batch in batches(rows):
            body = {"application": app, "nodes": batch, "reason": reason}
            _add_up(total, await client.post("/nodes/import", body, dry_run=True if dry_run else None))
            progress.advance(task, len(batch))
    output.item(
        total,
        {
            "would change" if dry_run else "changed": "changed",
            "unchanged": "unchanged",
            "to another group": "moved",
            "never heard of": _unknown,
        },
    )


def _add_up(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name in total:
        total[name] += part[name]
    del total["unknown_machines"][100:]


def _unknown(item: Mapping[str, Any]) -> str:
    shown = item["unknown_machines"][:10]
    return f"{item['unknown']}: {', '.join(shown)}{', ...' if item['unknown'] > len(shown) else ''}" if shown else "0"


@node.command("lift")
@click.argument("machine")
@click.argument("version")
@reason_option
@app_option
@arch_option
@talks
async def lift(
    client: Client, output: Output, *, machine: str, version: str, reason: str, app: str | None, arch: str | None
) -> None:
    """Let the changeset VERSION be offered to a node again after it rolled back."""
    node_id = await client.node_id(machine, app=app)
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    body = {"changeset": changeset_id, "reason": reason}
    output.item(await client.post(f"/nodes/{node_id}/quarantine/lift", body), _FIELDS)
