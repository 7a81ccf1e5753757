"""``uneventful group``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from services.cli.client import Client
from services.cli.command import app_option, reason_option, talks
from services.cli.confirm import confirm, yes_option
from services.cli.output import Output
from services.cli.text import cell, printable, selector_of, settings_of


def _follows(item: Mapping[str, Any]) -> str:
    if item["pinned_version"] is not None:
        return f"{cell(item['pinned_version'])} (pinned)"
    return cell(item["channel"])


def _selects(item: Mapping[str, Any]) -> str:
    if item["explicit_only"]:
        return f"{item['named_nodes']} named nodes"
    selected = cell(item["selector"]) if item["selector"] else "everything"
    return f"{selected} and {item['named_nodes']} named nodes" if item["named_nodes"] else selected


def _warnings(item: Mapping[str, Any]) -> str:
    return "\n".join(item["warnings"]) or "-"


_COLUMNS: Mapping[str, Any] = {
    "group": "name",
    "app": "application",
    "follows": _follows,
    "position": "position",
    "selects": _selects,
    "policy": "policy",
    "updates": "updates_enabled",
    "owner": "owner",
    "id": "group_id",
}
_EXPLAINED: Mapping[str, Any] = {"policy": "policy", "value": "value", "default": "default", "means": "means"}
_FIELDS: Mapping[str, Any] = {
    **_COLUMNS,
    "contact": "contact",
    "nodes": "nodes",
    "warnings": _warnings,
}

_selector_option = click.option(
    "--select",
    "selector",
    multiple=True,
    metavar="FACT=VALUE[,...]",
    help="Nodes whose fact (site, cluster, model, version, label:x, ...) has one of the values; several must all hold. "
    "Without any: every node.",
)
_policy_option = click.option(
    "--policy", multiple=True, metavar="NAME=VALUE", help="A value of the policy; VALUE `default` takes it back."
)
_owner_option = click.option("--owner", help="Whose nodes they are; shown where a rollout to them is halted.")
_contact_option = click.option("--contact", help="How the owner is reached.")
_explicit_option = click.option(
    "--explicit-only", "explicit_only", is_flag=True, help="Only the nodes that it names, whatever their facts are."
)


def _policy(pairs: tuple[str, ...]) -> dict[str, Any]:
    try:
        return settings_of(pairs)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--policy") from fault


def _selector(pairs: tuple[str, ...]) -> dict[str, list[str]]:
    try:
        return selector_of(pairs)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--select") from fault


def _said(preview: Mapping[str, Any]) -> str:
    """What a change moves, for people."""
    lines = [
        f"{move['nodes']} nodes move from {cell(move['from_group'] or 'no group')} to "
        f"{cell(move['to_group'] or 'no group')}"
        for move in preview["moves"]
    ]
    for verb in ("leaving", "coming"):
        some = preview[verb]
        if some["nodes"]:
            shown = ", ".join(printable(machine) for machine in some["machines"])
            more = some["nodes"] - len(some["machines"])
            lines.append(f"{verb}: {shown}{f' and {more} more' if more else ''}")
    return "\n".join([*lines, *preview["warnings"]]) or "No node moves."


def _ask(output: Output, preview: Mapping[str, Any], *, yes: bool) -> None:
    """Show what moves, and ask where something does."""
    if preview["moving"]:
        if not output.as_json:
            output.say(_said(preview))
        confirm(output, f"{preview['moving']} nodes will move to another group.", yes=yes)


@click.group()
def group() -> None:
    """Groups: nodes under one policy that follow a channel or a pinned version."""


@group.command("add")
@click.argument("app")
@click.argument("name")
@click.option("--channel", help="The channel that it follows.")
@click.option("--pin", "pinned_version", metavar="VERSION", help="The version that it is pinned to.")
@_selector_option
@_explicit_option
@click.option("--node", "nodes", multiple=True, metavar="MACHINE", help="A node that belongs to it in any case.")
@_policy_option
@click.option("--position", type=int, help="Groups are tried in this order; else before the one that takes every node.")
@click.option("--disabled", is_flag=True, help="Without updates at first.")
@_owner_option
@_contact_option
@talks
async def add(
    client: Client,
    output: Output,
    *,
    app: str,
    name: str,
    channel: str | None,
    pinned_version: str | None,
    selector: tuple[str, ...],
    explicit_only: bool,
    nodes: tuple[str, ...],
    policy: tuple[str, ...],
    position: int | None,
    disabled: bool,
    owner: str | None,
    contact: str | None,
) -> None:
    """Add a group to APP; where its channel has a changeset, its rollout starts at once."""
    if channel is None and pinned_version is None:
        raise click.UsageError("say what it follows: --channel or --pin")
    body = {
        "application": app,
        "name": name,
        "channel": channel,
        "pinned_version": pinned_version,
        "selector": _selector(selector),
        "explicit_only": explicit_only,
        "nodes": nodes,
        "policy": {key: value for key, value in _policy(policy).items() if value is not None},
        "position": position,
        "updates_enabled": not disabled,
        "owner": owner or "",
        "contact": contact or "",
    }
    output.item(await client.post("/groups", body), _FIELDS)


@group.command("set")
@click.argument("name")
@click.option("--channel", help="The channel that it follows from now on.")
@click.option("--pin", "pinned_version", metavar="VERSION", help="Pin it to a version.")
@click.option("--unpin", is_flag=True, help="Let it follow its channel again.")
@_selector_option
@click.option("--everything", is_flag=True, help="Select every node.")
@_explicit_option
@click.option(
    "--add-node", "add_nodes", multiple=True, metavar="MACHINE", help="A node that belongs to it in any case."
)
@click.option("--remove-node", "remove_nodes", multiple=True, metavar="MACHINE", help="Name this node no more.")
@_policy_option
@click.option("--position", type=int, help="Groups are tried in this order.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether its nodes get updates.")
@_owner_option
@_contact_option
@app_option
@click.option("--dry-run", is_flag=True, help="Only show what would move.")
@yes_option
@talks
async def set_one(
    client: Client,
    output: Output,
    *,
    name: str,
    channel: str | None,
    pinned_version: str | None,
    unpin: bool,
    selector: tuple[str, ...],
    explicit_only: bool,
    add_nodes: tuple[str, ...],
    remove_nodes: tuple[str, ...],
    policy: tuple[str, ...],
    position: int | None,
    enabled: bool | None,
    owner: str | None,
    contact: str | None,
    app: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Change a group; a rollout that runs keeps the policy that it was started with.

    Where nodes would move to other groups, they are shown first.
    """
    if everything + bool(selector) + explicit_only > 1:
        raise click.UsageError("--everything, --select and --explicit-only contradict each other")
    if unpin and pinned_version is not None:
        raise click.UsageError("--pin and --unpin contradict each other")
    given = {
        "channel": channel,
        "pinned_version": pinned_version,
        "explicit_only": explicit_only or None,
        "selector": _selector(selector) if selector or everything else None,
        "add_nodes": add_nodes or None,
        "remove_nodes": remove_nodes or None,
        "policy": _policy(policy) if policy else None,
        "position": position,
        "updates_enabled": enabled,
        "owner": owner,
        "contact": contact,
    }
    patch: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    if unpin:
        patch["pinned_version"] = None
    if not patch:
        raise click.UsageError("nothing to change: give at least one option")
    path = f"/groups/{await client.group_id(name, app=app)}"
    preview = await client.patch(path, patch, dry_run=True)
    if dry_run:
        _show(output, preview)
        return
    _ask(output, preview, yes=yes)
    output.item(await client.patch(path, patch), _FIELDS)


def _show(output: Output, preview: Mapping[str, Any]) -> None:
    if output.as_json:
        output.json(preview)
    else:
        output.say(_said(preview))


@group.command("order")
@click.argument("app")
@click.argument("names", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only show what would move.")
@yes_option
@talks
async def order(client: Client, output: Output, *, app: str, names: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Have all groups of APP tried in the order of NAMES; the one that takes every node comes last."""
    body = {"application": app, "groups": names}
    preview = await client.post("/groups/order", body, dry_run=True)
    if not dry_run:
        _ask(output, preview, yes=yes)
        preview = await client.post("/groups/order", body)
    _show(output, preview)


@group.command("delete")
@click.argument("name")
@reason_option
@app_option
@click.option("--dry-run", is_flag=True, help="Only show what would move.")
@yes_option
@talks
async def delete(
    client: Client, output: Output, *, name: str, reason: str, app: str | None, dry_run: bool, yes: bool
) -> None:
    """Delete a group that has no active rollout; its nodes go where they belong then."""
    path = f"/groups/{await client.group_id(name, app=app)}"
    preview = await client.delete(path, {"reason": reason}, dry_run=True)
    if not dry_run:
        _ask(output, preview, yes=yes)
        preview = await client.delete(path, {"reason": reason})
    _show(output, preview)


@group.command("list")
@app_option
@click.option("--owner", help="Only this owner's.")
@talks
async def list_all(client: Client, output: Output, *, app: str | None, owner: str | None) -> None:
    """List groups."""
    output.items(
        await client.items("/groups", application=app, owner=owner),
        _COLUMNS,
        empty="No group: `uneventful group add` adds one.",
    )


@group.command("show")
@click.argument("name")
@app_option
@talks
async def show(client: Client, output: Output, *, name: str, app: str | None) -> None:
    """Show a group with the policy of its next rollout, in words, by name or id."""
    found = await client.get(f"/groups/{await client.group_id(name, app=app)}")
    output.item(found, _FIELDS)
    if not output.as_json:
        explained = [{"policy": policy, **field} for policy, field in found["policy_explained"].items()]
        output.say("")
        output.items(explained, _EXPLAINED, empty="")


def _machines_of(file: Path) -> list[str]:
    """A machine id per line."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


@group.command("nodes")
@click.argument("name")
@app_option
@click.option(
    "--add",
    "add_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Name those of a file, one per line.",
)
@yes_option
@talks
async def nodes(
    client: Client, output: Output, *, name: str, app: str | None, add_file: Path | None, yes: bool
) -> None:
    """List the machines that a group names one by one; with --add name more."""
    path = f"/groups/{await client.group_id(name, app=app)}"
    if add_file is not None:
        machines = _machines_of(add_file)
        for first in range(0, len(machines), 2_000):
            patch = {"add_nodes": machines[first : first + 2_000]}
            _ask(output, await client.patch(path, patch, dry_run=True), yes=yes)
            await client.patch(path, patch)
    found = await client.items(f"{path}/named-nodes", most=100_000)
    output.items(found, {"machine": "machine_id"}, empty="It names none.")
