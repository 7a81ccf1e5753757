"""``uneventful channel``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.errors import Refused
from services.cli.output import Output
from services.cli.text import size

_FIELDS = {
    "channel": "name",
    "arch": "arch",
    "app": "application",
    "position": "position",
    "version": "version",
    "demands": "required_attestations",
    "changed": "changed_at",
    "id": "channel_id",
}
_position_option = click.option(
    "--position", type=click.IntRange(0, 63), help="How stable; else by its name: alpha 0, beta 1, lts 3, others 2."
)
_demand_option = click.option(
    "--demand", "demands", multiple=True, metavar="TEST", help="An attestation that promotions need; again for more."
)


@click.group()
def channel() -> None:
    """Channels: named pointers to changesets, per arch."""


@channel.command("add")
@click.argument("app")
@click.argument("name")
@click.option("--arch", metavar="ARCH", required=True, help="Like amd64 or arm64.")
@_position_option
@_demand_option
@talks
async def add(
    client: Client,
    output: Output,
    *,
    app: str,
    name: str,
    arch: str,
    position: int | None,
    demands: tuple[str, ...],
) -> None:
    """Add a channel to APP."""
    asked: dict[str, Any] = {"application": app, "name": name, "arch": arch}
    output.item(await client.post("/channels", asked | _settings(position, demands)), _FIELDS)


@channel.command("set")
@click.argument("name")
@_position_option
@_demand_option
@click.option("--demand-none", is_flag=True, help="Promotions need no attestation any more.")
@app_option
@arch_option
@talks
async def change(
    client: Client,
    output: Output,
    *,
    name: str,
    position: int | None,
    demands: tuple[str, ...],
    demand_none: bool,
    app: str | None,
    arch: str | None,
) -> None:
    """Change how stable a channel is, or which attestations it demands."""
    asked = _settings(position, demands)
    if demand_none:
        asked["required_attestations"] = []
    if not asked or (demand_none and demands):
        raise Refused("say what is to change: --position, --demand or --demand-none")
    channel_id = await client.channel_id(name, app=app, arch=arch)
    output.item(await client.patch(f"/channels/{channel_id}", asked), _FIELDS)


def _settings(position: int | None, demands: tuple[str, ...]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if position is not None:
        asked["position"] = position
    if demands:
        asked["required_attestations"] = list(demands)
    return asked


@channel.command("promote")
@click.argument("name")
@click.argument("version")
@click.option("--reason", help="Why; stands in the rollouts.")
@click.option("--override-reason", help="Why, although the channel's demands are against it; by approvers.")
@click.option("--force-scheme", is_flag=True, help="Also where the version is less stable than the channel.")
@app_option
@arch_option
@talks
async def promote(
    client: Client,
    output: Output,
    *,
    name: str,
    version: str,
    reason: str | None,
    override_reason: str | None,
    force_scheme: bool,
    app: str | None,
    arch: str | None,
) -> None:
    """Point a channel to a changeset: every group that follows the channel gets its rollout at once."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    pointed = await client.get(f"/channels/{channel_id}")
    changeset_id = await client.changeset_id(version, app=pointed["application_id"], arch=pointed["arch"])
    asked: dict[str, Any] = {"changeset": changeset_id, "reason": reason}
    if override_reason is not None:
        asked["override_reason"] = override_reason
    if force_scheme:
        asked["force_scheme"] = True
    _say_pointed(output, await client.post(f"/channels/{channel_id}/promote", asked))


@channel.command("rollback")
@click.argument("name")
@reason_option
@app_option
@arch_option
@talks
async def rollback(
    client: Client, output: Output, *, name: str, reason: str, app: str | None, arch: str | None
) -> None:
    """Point a channel back to the changeset before; nodes that run the newer one stay on it."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    _say_pointed(output, await client.post(f"/channels/{channel_id}/rollback", {"reason": reason}))


def _say_pointed(output: Output, result: Mapping[str, Any]) -> None:
    if output.as_json:
        output.json(result)
        return
    output.item(result["channel"], _FIELDS)
    count = len(result["rollouts"])
    output.say(f"{count} rollout{'' if count == 1 else 's'} started; `uneventful rollout list` shows them.")


@channel.command("list")
@app_option
@arch_option
@talks
async def list_all(client: Client, output: Output, *, app: str | None, arch: str | None) -> None:
    """List channels and what they point to, the least stable first."""
    output.items(
        await client.items("/channels", application=app, arch=arch),
        _FIELDS,
        empty="No channel: `uneventful channel add` adds one.",
    )


@channel.command("history")
@click.argument("name")
@app_option
@arch_option
@talks
async def history(client: Client, output: Output, *, name: str, app: str | None, arch: str | None) -> None:
    """Show what a channel pointed to, by whom and why, the newest first."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    output.items(
        (await client.get(f"/channels/{channel_id}/history", limit=500))["items"],
        {
            "promoted": "promoted_at",
            "version": "version",
            "how": "kind",
            "by": "promoted_by",
            "reason": "reason",
            "override": "override_reason",
            "changeset": "changeset_id",
        },
        empty="Nothing was promoted to this channel yet.",
    )


@channel.command("current")
@click.argument("name")
@click.option("--image", is_flag=True, help="What new nodes are to boot, with the URLs of its payloads.")
@app_option
@arch_option
@talks
async def current(client: Client, output: Output, *, name: str, image: bool, app: str | None, arch: str | None) -> None:
    """Show what a channel points to; with --image what new nodes are to boot."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    found = await client.get(f"/channels/{channel_id}/current")
    if not image:
        output.item(found["channel"], _FIELDS)
        return
    if found["image"] is None:
        raise Refused(f"there is no image that new nodes of {name} should boot: {found['reason']}")
    image_found = found["image"] | {"reason": found["reason"]}
    output.item(image_found, {"version": "version", "arch": "arch", "why": "reason", "id": "changeset_id"})
    if not output.as_json:
        output.items(
            image_found["payloads"],
            {"payload": "name", "size": lambda payload: size(payload["size"]), "sha256": "sha256", "url": "url"},
            empty="It has no payloads.",
        )


@channel.command("drift")
@click.argument("name")
@app_option
@arch_option
@talks
async def drift(client: Client, output: Output, *, name: str, app: str | None, arch: str | None) -> None:
    """Count the nodes of a channel's groups that are not on what it says."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    found = await client.get(f"/channels/{channel_id}/drift")
    if output.as_json:
        output.json(found)
        return
    off = found["total"] - found["on_target"]
    said = found["version"] or "nothing yet"
    output.say(f"{off} of {found['total']} nodes are not on {said}, which {found['name']} ({found['arch']}) says.")
    output.items(
        found["groups"],
        {
            "group": "group_name",
            "nodes": "total",
            "on it": "on_target",
            "behind": "behind",
            "ahead": "ahead",
            "unknown": "unknown",
            "versions": "versions",
        },
        empty="No group follows this channel.",
    )
