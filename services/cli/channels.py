"""``uneventful channel``."""

from __future__ import annotations

import click

from services.cli.client import Client
from services.cli.command import app_option, arch_option, talks
from services.cli.output import Output

_FIELDS = {
    "channel": "name",
    "arch": "arch",
    "app": "application",
    "version": "version",
    "changed": "changed_at",
    "id": "channel_id",
}


@click.group()
def channel() -> None:
    """Channels: named pointers to changesets, per arch."""


@channel.command("add")
@click.argument("app")
@click.argument("name")
@click.option("--arch", required=True, help="Like amd64 or arm64.")
@talks
async def add(client: Client, output: Output, *, app: str, name: str, arch: str) -> None:
    """Add a channel to APP."""
    output.item(await client.post("/channels", {"application": app, "name": name, "arch": arch}), _FIELDS)


@channel.command("promote")
@click.argument("name")
@click.argument("version")
@click.option("--reason", help="Why; stands in the rollouts.")
@app_option
@arch_option
@talks
async def promote(
    client: Client, output: Output, *, name: str, version: str, reason: str | None, app: str | None, arch: str | None
) -> None:
    """Point a channel to a changeset: every group that follows the channel gets its rollout at once."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    pointed = await client.get(f"/channels/{channel_id}")
    changeset_id = await client.changeset_id(version, app=pointed["application_id"], arch=pointed["arch"])
    result = await client.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id, "reason": reason})
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
    """List channels and what they point to."""
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
    """Show what a channel pointed to, the newest first."""
    channel_id = await client.channel_id(name, app=app, arch=arch)
    output.items(
        (await client.get(f"/channels/{channel_id}/history", limit=500))["items"],
        {"promoted": "promoted_at", "version": "version", "by": "promoted_by", "changeset": "changeset_id"},
        empty="Nothing was promoted to this channel yet.",
    )
