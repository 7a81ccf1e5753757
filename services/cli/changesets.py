"""``uneventful changeset``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.errors import Refused
from services.cli.output import Output
from services.cli.payload_file import read_payload_file
from services.cli.text import cell, size

_COLUMNS = {
    "version": "version",
    "arch": "arch",
    "app": "application",
    "state": "state",
    "gate": "gate.state",
    "pace": "gate.pace",
    "published": "published_at",
    "id": "changeset_id",
}
_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def _payloads(item: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{payload['position']} {payload['role']} {cell(payload['name'])} {size(payload['size'])} {payload['sha256']}"
        for payload in item.get("payloads", ())
    )


def _gate(item: Mapping[str, Any]) -> str:
    gate = item["gate"]
    if gate is None:
        return "-"
    said = gate["reason"] or gate["braked_reason"]
    return f"{gate['state']}{', braked' if gate['braked_reason'] else ''}{f': {cell(said)}' if said else ''}"


_FIELDS: Mapping[str, Any] = {
    "version": "version",
    "arch": "arch",
    "id": "changeset_id",
    "app": "application",
    "kind": "kind",
    "state": "state",
    "notes": "notes",
    "published": "published_at",
    "gate": _gate,
    "pace": "gate.pace",
    "evidence": "gate.evidence",
    "payloads": _payloads,
}


@contextlib.contextmanager
def _progress(what: str, path: Path) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=path.stat().st_size)

        def step(count: int) -> None:
            progress.advance(task, count)

        yield step


async def _add_payload(
    client: Client, changeset_id: str, path: Path, *, name: str | None, role: str, required: bool
) -> Any:
    with _progress(f"Hashing {path.name}", path) as step:
        file = read_payload_file(path, step)
    if file.size == 0:
        raise Refused(f"{path} is empty")
    with _progress(f"Uploading {path.name}", path) as step:
        await client.upload(path, sha256=file.sha256, size=file.size, on_progress=step)
    return await client.post(
        f"/changesets/{changeset_id}/payloads",
        {
            "name": name or path.name,
            "role": role,
            "sha256": file.sha256,
            "sha1_base64": file.sha1_base64,
            "size": file.size,
            "required": required,
        },
    )


@click.group()
def changeset() -> None:
    """Changesets: immutable, versioned, tested releases."""


@changeset.command("add")
@click.argument("app")
@click.argument("version")
@click.option("--arch", required=True, help="Like amd64 or arm64.")
@click.option("--kind", type=click.Choice(["image", "packages"]), default="image", show_default=True)
@click.option("--notes", default="", help="For people.")
@click.option("--payload", "path", type=_FILE, help="The main payload: hashed, uploaded and added.")
@click.option("--name", help="What the payload is called; else the file's name.")
@click.option("--publish", is_flag=True, help="Publish it too.")
@talks
async def add(
    client: Client,
    output: Output,
    *,
    app: str,
    version: str,
    arch: str,
    kind: str,
    notes: str,
    path: Path | None,
    name: str | None,
    publish: bool,
) -> None:
    """Add a changeset of APP: a draft, or with --payload and --publish all of it in one step."""
    item = await client.post(
        "/changesets", {"application": app, "version": version, "arch": arch, "kind": kind, "notes": notes}
    )
    changeset_id = item["changeset_id"]
    if path is not None:
        item = await _add_payload(client, changeset_id, path, name=name, role="main", required=True)
    if publish:
        item = await client.post(f"/changesets/{changeset_id}/publish", {})
    output.item(item, _FIELDS)


@changeset.group("payload")
def payload() -> None:
    """Payloads: the files of a changeset."""


@payload.command("add")
@click.argument("version")
@click.argument("path", type=_FILE)
@click.option("--role", type=click.Choice(["main", "extra"]), default="main", show_default=True)
@click.option("--optional", is_flag=True, help="Nodes may go without it.")
@click.option("--name", help="What it is called; else the file's name.")
@app_option
@arch_option
@talks
async def payload_add(
    client: Client,
    output: Output,
    *,
    version: str,
    path: Path,
    role: str,
    name: str | None,
    app: str | None,
    arch: str | None,
    optional: bool,
) -> None:
    """Hash and upload a file, and add it to a draft, named by VERSION or id."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    output.item(await _add_payload(client, changeset_id, path, name=name, role=role, required=not optional), _FIELDS)


@changeset.command("publish")
@click.argument("version")
@click.option("--unchecked", is_flag=True, help="Do not ask the distribution whether it has the payloads.")
@app_option
@arch_option
@talks
async def publish_one(
    client: Client, output: Output, *, version: str, app: str | None, arch: str | None, unchecked: bool
) -> None:
    """Make a changeset immutable and fit to be promoted."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    output.item(await client.post(f"/changesets/{changeset_id}/publish", {"unchecked": unchecked}), _FIELDS)


@changeset.command("list")
@click.option("--state", type=click.Choice(["draft", "published", "withdrawn"]))
@app_option
@arch_option
@talks
async def list_all(client: Client, output: Output, *, state: str | None, app: str | None, arch: str | None) -> None:
    """List changesets, the newest first."""
    output.items(
        await client.items("/changesets", application=app, arch=arch, state=state),
        _COLUMNS,
        empty="No changeset: `uneventful changeset add` adds one.",
    )


@changeset.command("show")
@click.argument("version")
@app_option
@arch_option
@talks
async def show(client: Client, output: Output, *, version: str, app: str | None, arch: str | None) -> None:
    """Show a changeset with its gate and payloads, by version or id."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    output.item(await client.get(f"/changesets/{changeset_id}"), _FIELDS)


@changeset.command("halt")
@click.argument("version")
@reason_option
@app_option
@arch_option
@talks
async def halt(client: Client, output: Output, *, version: str, reason: str, app: str | None, arch: str | None) -> None:
    """No more of a changeset for anyone, until it is resumed."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    output.item(await client.post(f"/changesets/{changeset_id}/halt", {"reason": reason}), _FIELDS)


@changeset.command("resume")
@click.argument("version")
@reason_option
@app_option
@arch_option
@talks
async def resume(
    client: Client, output: Output, *, version: str, reason: str, app: str | None, arch: str | None
) -> None:
    """Let a halted changeset go on; its evidence starts anew, stricter."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    output.item(await client.post(f"/changesets/{changeset_id}/resume", {"reason": reason}), _FIELDS)
