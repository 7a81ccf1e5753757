"""``uneventful group``."""

from __future__ import annotations

from typing import Any

import click

from services.cli.client import Client
from services.cli.command import app_option, talks
from services.cli.output import Output
from services.cli.text import selector_of, settings_of

_COLUMNS = {
    "group": "name",
    "app": "application",
    "channel": "channel",
    "position": "position",
    "selector": "selector",
    "policy": "policy",
    "updates": "updates_enabled",
    "id": "group_id",
}
_FIELDS = {**_COLUMNS, "effective policy": "effective_policy"}

_selector_option = click.option(
    "--select",
    "selector",
    multiple=True,
    metavar="FACT=VALUE[,...]",
    help="Nodes whose fact has one of the values; several must all hold. Without any: every node.",
)
_policy_option = click.option(
    "--policy", multiple=True, metavar="NAME=VALUE", help="A value of the policy; VALUE `default` takes it back."
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


@click.group()
def group() -> None:
    """Groups: nodes under one policy that follow a channel."""


@group.command("add")
@click.argument("app")
@click.argument("name")
@click.option("--channel", required=True, help="The channel that it follows.")
@_selector_option
@_policy_option
@click.option("--position", type=int, help="Groups are tried in this order; else behind the others.")
@click.option("--disabled", is_flag=True, help="Without updates at first.")
@talks
async def add(
    client: Client,
    output: Output,
    *,
    app: str,
    name: str,
    channel: str,
    selector: tuple[str, ...],
    policy: tuple[str, ...],
    position: int | None,
    disabled: bool,
) -> None:
    """Add a group to APP; where its channel has a changeset, its rollout starts at once."""
    body = {
        "application": app,
        "name": name,
        "channel": channel,
        "selector": _selector(selector),
        "policy": {key: value for key, value in _policy(policy).items() if value is not None},
        "position": position,
        "updates_enabled": not disabled,
    }
    output.item(await client.post("/groups", body), _FIELDS)


@group.command("set")
@click.argument("name")
@click.option("--channel", help="The channel that it follows from now on.")
@_selector_option
@click.option("--everything", is_flag=True, help="Select every node.")
@_policy_option
@click.option("--position", type=int, help="Groups are tried in this order.")
@click.option("--enable/--disable", "enabled", default=None, help="Whether its nodes get updates.")
@app_option
@talks
async def set_one(
    client: Client,
    output: Output,
    *,
    name: str,
    channel: str | None,
    selector: tuple[str, ...],
    policy: tuple[str, ...],
    position: int | None,
    enabled: bool | None,
    app: str | None,
    everything: bool,
) -> None:
    """Change a group; a rollout that runs keeps the policy that it was started with."""
    if everything and selector:
        raise click.UsageError("--everything and --select contradict each other")
    patch: dict[str, Any] = {}
    if channel is not None:
        patch["channel"] = channel
    if selector or everything:
        patch["selector"] = _selector(selector)
    if policy:
        patch["policy"] = _policy(policy)
    if position is not None:
        patch["position"] = position
    if enabled is not None:
        patch["updates_enabled"] = enabled
    if not patch:
        raise click.UsageError("nothing to change: give at least one option")
    output.item(await client.patch(f"/groups/{await client.group_id(name, app=app)}", patch), _FIELDS)


@group.command("list")
@app_option
@talks
async def list_all(client: Client, output: Output, *, app: str | None) -> None:
    """List groups."""
    output.items(
        await client.items("/groups", application=app), _COLUMNS, empty="No group: `uneventful group add` adds one."
    )


@group.command("show")
@click.argument("name")
@app_option
@talks
async def show(client: Client, output: Output, *, name: str, app: str | None) -> None:
    """Show a group with the policy of its next rollout, by name or id."""
    output.item(await client.get(f"/groups/{await client.group_id(name, app=app)}"), _FIELDS)
