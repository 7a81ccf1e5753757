"""``uneventful apply`` and ``uneventful export``: a fleet as a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from rich.text import Text

from services.cli.client import Client, Item
from services.cli.command import app_option, talks
from services.cli.confirm import confirm, yes_option
from services.cli.errors import Refused
from services.cli.fleet_file import MAX_BYTES, Fleet, Noun, Thing, parse, read_policy, render, shown
from services.cli.fleet_plan import Change, Difference, Step, Verb, difference, plan
from services.cli.output import Output
from services.cli.text import cell, printable
from shared.errors import InvalidInput

_MOST: Final = 100_000
# Our names of fields that the API calls otherwise.
API_NAMES: Final[Mapping[str, str]] = {"scheme": "version_scheme", "pin": "pinned_version"}
_SIGNS: Final[Mapping[Verb, tuple[str, str]]] = {
    Verb.ADD: ("+", "green"),
    Verb.SET: ("~", "yellow"),
    Verb.REMOVE: ("-", "red"),
}
_CHOOSING: Final = ("selector", "explicit_only", "nodes")
_REASON: Final = "the fleet file does not name it"


@dataclass(frozen=True, slots=True)
class Live:
    """What the server has, and its ids."""

    fleet: Fleet
    ids: dict[tuple[Noun, str, str, str], str] = field(default_factory=dict)


@click.command()
@click.option(
    "-f", "--file", "path", required=True, type=click.Path(path_type=Path), help="The fleet file; - is stdin."
)
@click.option("--check", is_flag=True, help="Only compare: exit status 2 where something differs.")
@click.option("--prune", is_flag=True, help="Remove groups that the file does not name; their rollouts are aborted.")
@yes_option
@talks
async def apply(client: Client, output: Output, *, path: Path, check: bool, prune: bool, yes: bool) -> None:
    """Make the fleet what a file says: applications, channels, groups with their order and policies.

    Shows what differs, asks, and does it step by step; run again it changes nothing. What the file does not name is
    left alone.
    """
    wanted = _read(path)
    live = await read_fleet(client)
    found = difference(wanted, live.fleet, prune=prune)
    _refuse_impossible(found, path)
    moves = await _moves(client, live, found)
    said = {**_as_json(found, moves), "applied": []}
    if not output.as_json:
        _show(output, found, moves)
    elif found.nothing or check or not yes:
        output.json(said)
    if check and not found.nothing:
        sys.exit(2)
    if found.nothing or check:
        return
    steps = plan(found)
    confirm(output, f"Apply {len(steps)} step{'' if len(steps) == 1 else 's'}?", yes=yes)
    if not yes and difference(wanted, (live := await read_fleet(client)).fleet, prune=prune) != found:
        raise Refused("somebody changed the fleet meanwhile: nothing was changed; apply again to see what differs now")
    done = await _do_all(client, output, live, steps, path)
    if output.as_json:
        output.json({**said, "applied": done})
    else:
        output.say("Done.")


async def _do_all(client: Client, output: Output, live: Live, steps: Sequence[Step], path: Path) -> list[str]:
    """Step by step; says what was done."""
    done: list[str] = []
    for number, step in enumerate(steps, start=1):
        try:
            await _do(client, live, step)
        except Refused as refused:
            where = f"{path}:{step.line}: " if step.line else ""
            raise Refused(
                f"{where}{step.words}: {refused.message}",
                problem=refused.problem,
                hint=f"{len(done)} of {len(steps)} steps are done, and stay. Mend the file and apply it again.",
            ) from refused
        done.append(step.words)
        if not output.as_json:
            output.say(f"[{number}/{len(steps)}] {step.words}")
    return done


@click.command()
@click.option("-o", "--output", "path", type=click.Path(dir_okay=False, path_type=Path), help="Into a file.")
@app_option
@talks
async def export(client: Client, output: Output, *, path: Path | None, app: str | None) -> None:
    """Write the fleet as a file that `uneventful apply` takes; applied at once it changes nothing."""
    live = await read_fleet(client, app=app)
    text = render(live.fleet, head=["What `uneventful apply -f` makes of a fleet."], notes={})
    if path is None:
        click.echo(text, nl=False)
        return
    _write(path, text)
    output.say(f"Written to {path}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise Refused(f"{path} cannot be written: {fault.strerror}") from fault


def _read(path: Path) -> Fleet:
    try:
        if str(path) == "-":
            text = sys.stdin.read(MAX_BYTES + 1)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(MAX_BYTES + 1)
    except (OSError, UnicodeDecodeError) as fault:
        raise Refused(f"{path} cannot be read: {fault}") from fault
    try:
        return parse(text, "stdin" if str(path) == "-" else str(path))
    except InvalidInput as fault:
        raise Refused(fault.message, problem={"code": fault.code}) from fault


async def read_fleet(client: Client, *, app: str | None = None) -> Live:
    """What the server has."""
    things: list[Thing] = []
    orders: dict[str, tuple[str, ...]] = {}
    live = Live(Fleet())
    for application in await client.items("/applications", most=_MOST):
        if app is not None and app not in (application["name"], application["application_id"]):
            continue
        name = application["name"]
        own = Thing(
            noun=Noun.APPLICATION,
            application=name,
            name=name,
            fields={
                "omaha_id": application["omaha_id"],
                "product": application["product"],
                "scheme": application["version_scheme"],
                "observe_only": application["observe_only"],
            },
        )
        things.append(own)
        live.ids[own.key] = application["application_id"]
        for item in await client.items("/channels", most=_MOST, application=application["application_id"]):
            channel = _channel(name, item)
            things.append(channel)
            live.ids[channel.key] = item["channel_id"]
        groups = await client.items("/groups", most=_MOST, application=application["application_id"])
        groups.sort(key=lambda item: item["position"])
        for item in groups:
            group = await _group(client, name, item)
            things.append(group)
            live.ids[group.key] = item["group_id"]
        orders[name] = tuple(item["name"] for item in groups)
    if app is not None and not things:
        raise Refused(f"there is no application {app!r}: `uneventful app list` shows what there is")
    return Live(Fleet(tuple(things), orders), live.ids)


def _channel(application: str, item: Item) -> Thing:
    return Thing(
        noun=Noun.CHANNEL,
        application=application,
        name=item["name"],
        arch=item["arch"],
        fields={"position": item["position"], "required_attestations": sorted(item["required_attestations"])},
    )


async def _group(client: Client, application: str, item: Item) -> Thing:
    nodes = []
    if item["named_nodes"]:
        named = await client.items(f"/groups/{item['group_id']}/named-nodes", most=_MOST)
        nodes = sorted(one["machine_id"] for one in named)
    return Thing(
        noun=Noun.GROUP,
        application=application,
        name=item["name"],
        fields={
            "channel": item["channel"],
            "pin": item["pinned_version"],
            "selector": {} if item["explicit_only"] else item["selector"],
            "explicit_only": item["explicit_only"],
            "nodes": nodes,
            "owner": item["owner"],
            "contact": item["contact"],
            "updates_enabled": item["updates_enabled"],
            "policy": read_policy(item["policy"]),
        },
    )


def _refuse_impossible(found: Difference, path: Path) -> None:
    for change in found.changes:
        for one in change.fields:
            if change.verb is Verb.SET and one.name == "omaha_id":
                raise Refused(
                    f"{path}:{change.thing.line}: the omaha_id of {change.thing.name} is {cell(one.before)} and cannot "
                    "be changed: write that, or make another application"
                )


# Showing


async def _moves(client: Client, live: Live, found: Difference) -> dict[str, int]:
    """How many nodes each change of what a group has would move, by the words of the step; as the server counts."""
    moves: dict[str, int] = {}
    busy = {change.thing.application for change in found.changes if change.verb is not Verb.SET}
    for step in plan(found):
        if step.noun is not Noun.GROUP or step.application in busy or step.verb is not Verb.SET:
            continue
        if "order" in step.body:
            body = {"application": step.application, "groups": step.body["order"]}
            preview = await client.post("/groups/order", body, dry_run=True)
        elif any(name in step.body for name in _CHOOSING):
            preview = await client.patch(
                f"/groups/{live.ids[_key(step)]}", _choosing(live, step, dict(step.body)), dry_run=True
            )
        else:
            continue
        moves[step.words] = int(preview.get("moving") or 0)
    return moves


def _show(output: Output, found: Difference, moves: Mapping[str, int]) -> None:
    if found.nothing:
        output.say("Nothing differs.")
    for change in found.changes:
        sign, style = _SIGNS[change.verb]
        moved = moves.get(f"{change.verb.value} {change.thing.words}", 0)
        line = Text(f"{sign} {change.thing.words}", style=f"bold {style}")
        if moved:
            line.append(f"   moves {moved} nodes", style="bold magenta")
        output.console.print(line)
        for one in change.fields:
            output.console.print(_field_line(change, one.name, one.before, one.after))
    for order in found.orders:
        moved = moves.get(f"order the groups of {order.application}", 0)
        line = Text(f"~ the groups of {order.application} in this order: ", style="bold yellow")
        line.append(", ".join(order.after))
        if moved:
            line.append(f"   moves {moved} nodes", style="bold magenta")
        output.console.print(line)
    if found.left:
        output.console.print(
            Text(
                f"Left alone, since the file does not name them: {', '.join(each.words for each in found.left)}", "dim"
            )
        )


def _field_line(change: Change, name: str, before: Any, after: Any) -> Text:
    line = Text(f"    {name}: ")
    if change.verb is not Verb.ADD:
        line.append(printable(shown(name, before), 1_000), style="red")
        line.append(" -> ")
    line.append(printable(shown(name, after), 1_000), style="green")
    return line


def _as_json(found: Difference, moves: Mapping[str, int]) -> dict[str, Any]:
    return {
        "changes": [
            {
                "verb": change.verb.value,
                "what": change.thing.words,
                "line": change.thing.line or None,
                "moves": moves.get(f"{change.verb.value} {change.thing.words}"),
                "fields": [{"name": one.name, "before": one.before, "after": one.after} for one in change.fields],
            }
            for change in found.changes
        ],
        "orders": [
            {"application": order.application, "before": list(order.before), "after": list(order.after)}
            for order in found.orders
        ],
        "left": [thing.words for thing in found.left],
    }


# Doing


def _key(step: Step) -> tuple[Noun, str, str, str]:
    return (step.noun, step.application, step.name, step.arch)


async def _do(client: Client, live: Live, step: Step) -> None:
    body = {API_NAMES.get(name, name): value for name, value in step.body.items()}
    if step.noun is Noun.APPLICATION:
        if step.verb is Verb.ADD:
            await client.post("/applications", {"name": step.name, **body})
        else:
            await client.patch(f"/applications/{quote(live.ids[_key(step)], safe='')}", body)
    elif step.noun is Noun.CHANNEL:
        if step.verb is Verb.ADD:
            # The API has another default for the position than the file.
            body.setdefault("position", 2)
            await client.post(
                "/channels", {"application": step.application, "name": step.name, "arch": step.arch, **body}
            )
        else:
            await client.patch(f"/channels/{live.ids[_key(step)]}", body)
    elif "order" in step.body:
        await _order(client, step)
    elif step.verb is Verb.ADD:
        body["policy"] = {name: value for name, value in body.get("policy", {}).items() if value is not None}
        await client.post("/groups", {"application": step.application, "name": step.name, **body})
    elif step.verb is Verb.SET:
        await client.patch(f"/groups/{live.ids[_key(step)]}", _choosing(live, step, body))
    else:
        await _remove(client, live.ids[_key(step)])


def _choosing(live: Live, step: Step, body: dict[str, Any]) -> dict[str, Any]:
    """The body of a group's change: machines as they come and go, and a selector only where there may be one."""
    body = {API_NAMES.get(name, name): value for name, value in body.items()}
    if "nodes" in body:
        before = next(thing for thing in live.fleet.things if thing.key == _key(step)).fields["nodes"]
        after = body.pop("nodes")
        body["add_nodes"] = sorted(set(after) - set(before))
        body["remove_nodes"] = sorted(set(before) - set(after))
    if body.get("explicit_only"):
        body.pop("selector", None)
    return body


async def _order(client: Client, step: Step) -> None:
    groups = await client.items("/groups", most=_MOST, application=step.application)
    now = [item["name"] for item in sorted(groups, key=lambda item: item["position"])]
    if now != step.body["order"]:
        await client.post("/groups/order", {"application": step.application, "groups": step.body["order"]})


async def _remove(client: Client, group_id: str) -> None:
    for rollout in await client.items("/rollouts", group=group_id, active=True):
        await client.post(f"/rollouts/{rollout['rollout_id']}/abort", {"reason": _REASON})
    await client.delete(f"/groups/{group_id}", {"reason": _REASON})
