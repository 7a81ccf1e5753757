"""``uneventful import``: take over from another update server."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from rich.text import Text

from services.cli.client import Client
from services.cli.command import json_option
from services.cli.errors import Ended, Refused, Unreachable
from services.cli.fleet import API_NAMES
from services.cli.fleet_file import Noun, render
from services.cli.nebraska_plan import ChangesetPlan, Plan, Source, plan_import
from services.cli.output import Output
from services.cli.target import Options, find_target
from services.cli.text import printable, size
from shared.db.queries import Queries

QUERIES: Final = Queries.load("services.cli", "nebraska.sql")
_NODE_FACTS: Final = ("oem", "alephversion")
_NODE_COLUMNS: Final = ("machine", "alias", *_NODE_FACTS)
_CONNECT_S: Final = 15.0
_STATEMENT_S: Final = 300.0


@click.group("import")
def import_from() -> None:
    """Take applications, channels, groups and releases over from another update server."""


@import_from.command("nebraska")
@click.option(
    "--dsn",
    envvar="NEBRASKA_DSN",
    required=True,
    metavar="URL",
    help="Nebraska's database, as postgres://user:password@host/nebraska; it is only read. "
    "Better by NEBRASKA_DSN: arguments are no secret.",
)
@click.option("--app", "only", multiple=True, metavar="NAME", help="Only this application, by name or id; repeatable.")
@click.option("--dry-run", is_flag=True, help="Show the plan, write nothing.")
@click.option(
    "--to",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("fleet.yaml"),
    show_default=True,
    help="Where the fleet file goes.",
)
@click.option("--force", is_flag=True, help="Write over a fleet file that is there.")
@json_option
@click.pass_obj
def nebraska(
    options: Options, *, dsn: str, only: tuple[str, ...], dry_run: bool, path: Path, force: bool, as_json: bool
) -> None:
    """Read Nebraska's database; write a fleet file, and make its packages changesets.

    Applications begin in observe-only mode: nodes that are pointed here are seen, and nothing is offered to them.
    Nothing is promoted and no group is made: look at the fleet file, then `uneventful apply` it.
    """
    output = Output(as_json=as_json or options.as_json)
    try:
        plan = plan_import(asyncio.run(read(dsn)), only=only)
        if not dry_run and path.exists() and not force:
            raise Refused(f"{path} is there already: name another file by --to, or say --force")
        if not output.as_json:
            _show(output, plan)
        drafts: list[str] = []
        if not dry_run:
            path.write_text(file_of(plan), encoding="utf-8")
            for nodes_path, text in nodes_files(plan, path).items():
                nodes_path.write_text(text, encoding="utf-8", newline="")
            drafts = asyncio.run(_make(options, plan))
    except Ended as end:
        end.as_json = output.as_json
        raise
    except OSError as fault:
        raise Refused(f"{path} cannot be written: {fault.strerror}") from fault
    if output.as_json:
        output.json(
            {**summary(plan), "dry_run": dry_run, "file": None if dry_run else str(path), "changesets_made": drafts}
        )
        return
    if dry_run:
        output.say("Nothing was written: this was a dry run.")
        return
    output.say(f"{path} written; {len(drafts)} changesets are there as drafts.")
    for line in next_steps(plan, path):
        output.say(line)


async def read(dsn: str) -> Source:
    """Everything that is taken over, in one read-only snapshot.

    Raises:
        Refused: asyncpg is not installed, or the database is none of Nebraska's.
        Unreachable: It does not answer.
    """
    try:
        import asyncpg  # noqa: PLC0415  # an extra of its own, which only this command of the cli needs
    except ModuleNotFoundError as missing:
        raise Refused(
            "reading Nebraska's database needs asyncpg: install it with pip install 'uneventful[server]'"
        ) from missing
    try:
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_S, command_timeout=_STATEMENT_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
        raise Unreachable(
            f"Nebraska's database cannot be reached: {fault}",
            hint="--dsn is like postgres://user:password@host/nebraska",
        ) from fault
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            if not await connection.fetchval(QUERIES["is_nebraska"]):
                raise Refused("this database is none of Nebraska's: it has no groups and instance_application")
            rows: dict[str, Sequence[Any]] = {}
            for name in ("applications", "channels", "packages", "files", "blacklists", "instances"):
                rows[name] = [dict(row) for row in await connection.fetch(QUERIES[name])]
            # Older servers have neither floors nor overrides.
            has_floors = await connection.fetchval(QUERIES["has_table"], "channel_package_floors")
            rows["floors"] = [dict(row) for row in await connection.fetch(QUERIES["floors"])] if has_floors else []
            local = await connection.fetchval(QUERIES["has_table"], "group_local")
            groups = QUERIES["groups"] if local else QUERIES["groups_without_overrides"]
            rows["groups"] = [dict(row) for row in await connection.fetch(groups)]
            return Source(**rows)
    except asyncpg.PostgresError as fault:
        raise Refused(f"Nebraska's tables are not those of a version that we read: {fault}") from fault
    finally:
        await connection.close()


def summary(plan: Plan) -> dict[str, Any]:
    """The plan in numbers, and what does not map."""
    things = plan.fleet.things
    return {
        "applications": [thing.name for thing in things if thing.noun is Noun.APPLICATION],
        "channels": [
            f"{thing.application}/{thing.name} ({thing.arch})" for thing in things if thing.noun is Noun.CHANNEL
        ],
        "groups": [f"{thing.application}/{thing.name}" for thing in things if thing.noun is Noun.GROUP],
        "changesets": [f"{one.application} {one.version} ({one.arch})" for one in plan.changesets],
        "nodes": len(plan.nodes),
        "notes": [line for lines in plan.notes.values() for line in lines],
        "unmapped": list(plan.unmapped),
    }


def file_of(plan: Plan) -> str:
    """The fleet file, with what does not map as comments."""
    head = [
        "Written by `uneventful import nebraska`. Look at every comment, then: uneventful apply -f this-file",
        *(["", "Not taken over:"] if plan.unmapped else []),
        *(f"- {printable(line)}" for line in plan.unmapped),
    ]
    notes = {key: [printable(" ".join(line.split())) for line in lines] for key, lines in plan.notes.items()}
    return render(plan.fleet, head=head, notes=notes)


def nodes_files(plan: Plan, path: Path) -> dict[Path, str]:
    """Per application what `uneventful node import` takes: aliases and facts, beside the fleet file."""
    files: dict[Path, str] = {}
    for application in dict.fromkeys(node.application for node in plan.nodes):
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(_NODE_COLUMNS)
        for node in plan.nodes:
            if node.application == application:
                writer.writerow(
                    [node.machine_id, node.alias or "", *(node.facts.get(name, "") for name in _NODE_FACTS)]
                )
        name = "".join(letter if letter.isalnum() else "-" for letter in application.lower())
        files[path.with_name(f"{path.stem}.{name}.nodes.csv")] = out.getvalue()
    return files


def next_steps(plan: Plan, path: Path) -> list[str]:
    """What the operator does next, in order."""
    steps = [f"1. Read {path}, change what you like, and apply it: uneventful apply -f {path}"]
    payloads = [(one, payload) for one in plan.changesets for payload in one.payloads]
    total = sum(payload.size for _, payload in payloads)
    steps.append(
        f"2. Bring in the payloads ({len(payloads)} files, {size(total)}): download each from the URL that "
        "`--json` and the draft's notes name, then `uneventful changeset payload add VERSION FILE`, then "
        "`uneventful changeset publish VERSION`"
    )
    steps += [
        f"3. uneventful channel promote {channel!r} {version} --app {application!r} --arch {arch}"
        for application, channel, arch, version in plan.pointers
    ]
    steps.append("4. Point some nodes here and watch: docs/how-to/migrate-from-nebraska.md")
    applications = dict.fromkeys(node.application for node in plan.nodes)
    steps += [
        f"5. Once they have polled here: uneventful node import {file} --app {application!r}"
        for application, file in zip(applications, nodes_files(plan, path), strict=True)
    ]
    return steps


def _show(output: Output, plan: Plan) -> None:
    said = summary(plan)
    for noun in ("applications", "channels", "groups", "changesets"):
        output.console.print(Text(f"{noun} ({len(said[noun])})", style="bold"))
        for line in said[noun][:50]:
            output.say(f"  {printable(line)}")
        if len(said[noun]) > 50:
            output.say(f"  and {len(said[noun]) - 50} more")
    for thing in plan.fleet.things:
        for line in plan.notes.get(thing.key, ()):
            output.console.print(Text(f"{printable(thing.words)}: {printable(line)}", style="dim"))
    for line in plan.unmapped:
        output.console.print(Text(f"not taken over: {printable(line)}", style="yellow"))
    output.say(f"{len(plan.nodes)} nodes known")


async def _make(options: Options, plan: Plan) -> list[str]:
    """Applications and drafts, by the API; what is there already stays."""
    async with Client(find_target(options)) as client:
        for thing in plan.fleet.things:
            if thing.noun is Noun.APPLICATION:
                await _application(client, thing.name, thing.fields)
        made = [await _changeset(client, changeset) for changeset in plan.changesets]
    return [one for one in made if one is not None]


async def _application(client: Client, name: str, fields: Any) -> None:
    try:
        await client.get(f"/applications/{quote(name, safe='')}")
    except Refused as refused:
        if (refused.problem or {}).get("code") != "not_found":
            raise
        await client.post(
            "/applications", {"name": name, **{API_NAMES.get(key, key): fields[key] for key in fields if fields[key]}}
        )


async def _changeset(client: Client, plan: ChangesetPlan) -> str | None:
    known = await client.items("/changesets", application=plan.application, version=plan.version, arch=plan.arch)
    if known:
        return None
    urls = "\n".join(f"payload {payload.name}: {payload.url}" for payload in plan.payloads)
    body: dict[str, Any] = {
        "application": plan.application,
        "version": plan.version,
        "arch": plan.arch,
        "kind": "image",
        "notes": f"{plan.notes}\n\nFrom Nebraska.\n{urls}".strip()[:10_000],
    }
    if plan.floor_reason is not None:
        body |= {"floor": True, "floor_reason": plan.floor_reason}
    item = await client.post("/changesets", body)
    for payload in plan.payloads:
        await client.post(
            f"/changesets/{item['changeset_id']}/payloads",
            {
                "name": payload.name,
                "role": payload.role,
                "sha256": payload.sha256,
                "sha1_base64": payload.sha1_base64,
                "size": payload.size,
                "required": payload.role == "main",
            },
        )
    return str(item["changeset_id"])
