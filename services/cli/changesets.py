"""``uneventful changeset``."""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from services.cli.attested import media_type_of, name_in, read_report, sign_report
from services.cli.client import Client
from services.cli.command import app_option, arch_option, reason_option, talks
from services.cli.errors import Refused
from services.cli.flatcar import check_digest, read_release
from services.cli.keys import write_signed
from services.cli.output import Output
from services.cli.payload_file import read_payload_file
from services.cli.text import cell, printable, size


def _marks(item: Mapping[str, Any]) -> str:
    return " ".join(word for word, of in (("floor", "floor"), ("dead-end", "dead_end")) if item[of])


def _packages(item: Mapping[str, Any]) -> str:
    count = len(item.get("packages", ()))
    return f"{count}; `uneventful changeset diff` compares them" if count else "-"


_COLUMNS: Mapping[str, Any] = {
    "version": "version",
    "arch": "arch",
    "app": "application",
    "state": "state",
    "marks": _marks,
    "gate": "gate.state",
    "pace": "gate.pace",
    "published": "published_at",
    "id": "changeset_id",
}
_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, readable=True, path_type=Path)
_ATTESTATION: Mapping[str, Any] = {
    "test": "name",
    "verdict": "verdict",
    "counts": "counts",
    "summary": "summary",
    "attested": "attested_at",
    "by": "attested_by",
    "signed by": "signature.attester",
    "link": "link",
}
_notes_option = click.option("--notes", help="For people.")
_source_option = click.option("--source", help="Where it comes from.")
_component_option = click.option(
    "--component", "components", multiple=True, metavar="NAME=VERSION", help="A part people ask for; again for more."
)
_package_option = click.option(
    "--package", "packages", multiple=True, metavar="NAME=VERSION", help="A package; again for more."
)
_minimum_option = click.option("--minimum-version", "minimum", help="Nodes below it cannot take the changeset.")


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
    "withdrawn": "withdrawn_reason",
    "floor": "floor_reason",
    "dead end": "dead_end_reason",
    "from at least": "minimum_version",
    "notes": "notes",
    "source": "source",
    "components": "components",
    "packages": _packages,
    "signed by": "signed_by",
    "published": "published_at",
    "gate": _gate,
    "pace": "gate.pace",
    "evidence": "gate.evidence",
}
_PAYLOADS: Mapping[str, Any] = {
    "payload": "name",
    "role": "role",
    "required": "required",
    "size": lambda payload: size(payload["size"]),
    "sha256": "sha256",
    "suspended": "suspended",
}


def _show(output: Output, item: Mapping[str, Any]) -> None:
    """A changeset, and its payloads a line each."""
    output.item(item, _FIELDS)
    if not output.as_json and item.get("payloads"):
        output.items(item["payloads"], _PAYLOADS, empty="")


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
@click.argument("version", required=False)
@click.option("--arch", metavar="ARCH", help="Like amd64 or arm64; a Flatcar directory's path may say it.")
@click.option("--kind", type=click.Choice(["image", "packages"]), default="image", show_default=True)
@click.option("--flatcar", "directory", type=_DIRECTORY, help="A Flatcar release directory: all of it in one step.")
@_notes_option
@_source_option
@_component_option
@_package_option
@_minimum_option
@click.option("--floor", metavar="WHY", help="Every node that comes from below takes it first; why.")
@click.option("--dead-end", metavar="WHY", help="No update leads away from it; why.")
@click.option("--payload", "path", type=_FILE, help="The main payload: hashed, uploaded and added.")
@click.option("--name", help="What the payload is called; else the file's name.")
@click.option("--publish", is_flag=True, help="Publish it too.")
@talks
async def add(
    client: Client,
    output: Output,
    *,
    app: str,
    version: str | None,
    arch: str | None,
    kind: str,
    directory: Path | None,
    notes: str | None,
    source: str | None,
    components: tuple[str, ...],
    packages: tuple[str, ...],
    minimum: str | None,
    floor: str | None,
    dead_end: str | None,
    path: Path | None,
    name: str | None,
    publish: bool,
) -> None:
    """Add a changeset of APP: a draft, or with --payload or --flatcar and --publish all of it in one step."""
    asked = _described(notes, source, components, packages, minimum) | _marked(floor, dead_end)
    files: list[tuple[Path, str, str]] = []
    if directory is not None:
        if path is not None:
            raise click.UsageError("--flatcar names the payloads already: leave --payload out")
        release = read_release(directory)
        version, arch = _agreed("version", version, release.version), _agreed("arch", arch, release.arch)
        asked = {"packages": dict(release.packages), "components": dict(release.components)} | asked
        files = [(release.main, release.main.name, "main")]
        files += [(extra, named, "extra") for named, extra in release.extras.items()]
    elif path is not None:
        files = [(path, name or path.name, "main")]
    if version is None:
        raise click.UsageError("say which VERSION it is, or name a Flatcar release directory by --flatcar")
    if arch is None:
        raise click.UsageError("say which arch it is for: --arch amd64 or --arch arm64")
    for file, _, _ in files if directory is not None else ():
        with _progress(f"Checking {file.name}", file):
            check_digest(file)
    asked |= {"application": app, "version": version, "arch": arch, "kind": kind}
    item = await client.post("/changesets", asked)
    changeset_id = item["changeset_id"]
    for file, named, role in files:
        item = await _add_payload(client, changeset_id, file, name=named, role=role, required=role == "main")
    if publish:
        item = await client.post(f"/changesets/{changeset_id}/publish", {})
    _show(output, item)


def _agreed(what: str, said: str | None, found: str | None) -> str | None:
    if said is not None and found is not None and said != found:
        raise Refused(f"the directory is of {what} {found}, not {said}")
    return said or found


def _described(
    notes: str | None,
    source: str | None,
    components: tuple[str, ...],
    packages: tuple[str, ...],
    minimum: str | None,
) -> dict[str, Any]:
    """What was given of a changeset's description."""
    asked: dict[str, Any] = {"notes": notes, "source": source, "minimum_version": minimum}
    asked = {name: value for name, value in asked.items() if value is not None}
    for name, pairs in (("components", components), ("packages", packages)):
        if pairs:
            asked[name] = dict(_pair(text) for text in pairs)
    return asked


def _marked(floor: str | None, dead_end: str | None) -> dict[str, Any]:
    """The marks of a draft by their reasons; an empty reason takes one away."""
    asked: dict[str, Any] = {}
    for flag, why in (("floor", floor), ("dead_end", dead_end)):
        if why is not None:
            asked |= {flag: bool(why), f"{flag}_reason": why or None}
    return asked


def _pair(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not equals or not name or not version:
        raise Refused(f"{text!r} is not NAME=VERSION")
    return name, version


@changeset.command("set")
@click.argument("version")
@_notes_option
@_source_option
@_component_option
@_package_option
@_minimum_option
@click.option("--floor", metavar="WHY", help="Every node that comes from below takes it first; why. Empty: no floor.")
@click.option("--dead-end", metavar="WHY", help="No update leads away from it; why. Empty: no dead end.")
@app_option
@arch_option
@talks
async def change(
    client: Client,
    output: Output,
    *,
    version: str,
    notes: str | None,
    source: str | None,
    components: tuple[str, ...],
    packages: tuple[str, ...],
    minimum: str | None,
    floor: str | None,
    dead_end: str | None,
    app: str | None,
    arch: str | None,
) -> None:
    """Change a draft; components and packages that are given replace all that it had."""
    asked = _described(notes, source, components, packages, minimum) | _marked(floor, dead_end)
    if not asked:
        raise Refused("say what is to change: --notes, --component, --floor, ... (`--help` has all)")
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    _show(output, await client.patch(f"/changesets/{changeset_id}", asked))


@changeset.command("mark")
@click.argument("version")
@click.option("--floor/--no-floor", default=None, help="Every node that comes from below takes it first.")
@click.option("--dead-end/--no-dead-end", default=None, help="No update leads away from it.")
@reason_option
@app_option
@arch_option
@talks
async def mark(
    client: Client,
    output: Output,
    *,
    version: str,
    floor: bool | None,
    dead_end: bool | None,
    reason: str,
    app: str | None,
    arch: str | None,
) -> None:
    """Declare a published changeset a floor or a dead end, or no longer."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    asked = {"reason": reason, "floor": floor, "dead_end": dead_end}
    _show(output, await client.post(f"/changesets/{changeset_id}/mark", asked))


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
    _show(output, await _add_payload(client, changeset_id, path, name=name, role=role, required=not optional))


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
    _show(output, await client.post(f"/changesets/{changeset_id}/publish", {"unchecked": unchecked}))


@changeset.command("list")
@click.option("--state", type=click.Choice(["draft", "published", "withdrawn"]), help="Only these.")
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
    _show(output, await client.get(f"/changesets/{changeset_id}"))


@changeset.command("diff")
@click.argument("before")
@click.argument("after")
@app_option
@arch_option
@talks
async def diff(client: Client, output: Output, *, before: str, after: str, app: str | None, arch: str | None) -> None:
    """Show what changeset AFTER brings beside BEFORE: components, packages, payloads."""
    before_id = await client.changeset_id(before, app=app, arch=arch)
    after_id = await client.changeset_id(after, app=app, arch=arch)
    found = await client.get(f"/changesets/{before_id}/diff", to=after_id)
    if output.as_json:
        output.json(found)
        return
    rows = [row for what in ("components", "packages") for row in _changes(what.removesuffix("s"), found[what])]
    for payload in found["payloads"]:
        sizes = [None if count is None else size(count) for count in (payload["size_before"], payload["size_after"])]
        rows.append(
            {"what": "payload", "name": payload["name"], "before": sizes[0], "after": sizes[1], "same": payload["same"]}
        )
    output.say(f"{found['before']['version']} to {found['after']['version']}, {found['after']['arch']}")
    output.items(
        [row for row in rows if not row.get("same")],
        {"what": "what", "name": "name", "before": "before", "after": "after"},
        empty="They do not differ in what is known of them.",
    )


def _changes(what: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [{"what": what, "name": name, "before": old, "after": None} for name, old in found["removed"].items()]
    rows += [{"what": what, "name": name, "before": None, "after": new} for name, new in found["added"].items()]
    rows += [
        {"what": what, "name": name, "before": change["from"], "after": change["to"]}
        for name, change in found["changed"].items()
    ]
    return sorted(rows, key=lambda row: str(row["name"]))


@changeset.command("manifest")
@click.argument("version")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory for its exact bytes and a file per signature.",
)
@app_option
@arch_option
@talks
async def manifest(
    client: Client, output: Output, *, version: str, out: Path | None, app: str | None, arch: str | None
) -> None:
    """Show what was signed when a changeset was published."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    found = await client.get(f"/changesets/{changeset_id}/manifest")
    if out is not None:
        write_signed(out, "manifest.json", found)
    output.item(
        found,
        {
            "version": "manifest.version",
            "arch": "manifest.arch",
            "published": "manifest.published_at",
            "signed by": lambda item: [signature["key_id"] for signature in item["signatures"]],
        },
    )
    if not output.as_json:
        output.say(printable(base64.b64decode(found["document"]).decode()))


@changeset.command("withdraw")
@click.argument("version")
@click.option("--dry-run", is_flag=True, help="Show who has it, and change nothing.")
@reason_option
@app_option
@arch_option
@talks
async def withdraw(
    client: Client,
    output: Output,
    *,
    version: str,
    dry_run: bool,
    reason: str,
    app: str | None,
    arch: str | None,
) -> None:
    """Take a changeset back for good: never offered again, downloads refused, its rollouts aborted."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    found = await client.post(
        f"/changesets/{changeset_id}/withdraw", {"reason": reason}, dry_run=True if dry_run else None
    )
    if output.as_json:
        output.json(found)
        return
    held = found["holders"]
    said = "would be" if dry_run else "is"
    output.say(
        f"{cell(found['changeset']['version'])} {said} withdrawn. {held['runs']} nodes run it, {held['staged']} have "
        f"it staged and may boot it at their next reboot, {held['on_its_way']} were on the way to it."
    )
    for channel in found["channels"]:
        output.say(
            f"Channel {cell(channel['name'])} ({channel['arch']}) points to it: "
            f"`uneventful channel rollback {cell(channel['name'])}` or promote another."
        )
    output.items(
        held["groups"],
        {"group": "group_name", "run it": "runs", "brought back by its policy": "brought_back"},
        empty="No node runs it.",
    )
    if any(not group["brought_back"] for group in held["groups"]):
        output.say("`uneventful group set GROUP --policy downgrade=true` brings a group's nodes back.")


@changeset.command("attest")
@click.argument("version")
@click.argument("path", type=_FILE)
@click.option("--name", help="Which test, as channels demand it; JSON says it itself.")
@click.option("--link", help="Where more is to be read.")
@click.option("--sign", "key", type=_FILE, help="Your private key (Ed25519, PEM), to sign it with.")
@app_option
@arch_option
@talks
async def attest(
    client: Client,
    output: Output,
    *,
    version: str,
    path: Path,
    name: str | None,
    link: str | None,
    key: Path | None,
    app: str | None,
    arch: str | None,
) -> None:
    """Attach the report of a release test: JUnit XML, TAP, or JSON."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    report = read_report(path)
    media_type = media_type_of(report)
    signature = None
    if key is not None:
        item = await client.get(f"/changesets/{changeset_id}")
        signature = sign_report(report, item, name=name or name_in(report), key=key)
    added = await client.post_report(
        f"/changesets/{changeset_id}/attestations",
        report,
        media_type=media_type,
        signature=signature,
        name=name,
        link=link,
    )
    output.item(added, _ATTESTATION)


@changeset.command("attestations")
@click.argument("version")
@app_option
@arch_option
@talks
async def attestations(client: Client, output: Output, *, version: str, app: str | None, arch: str | None) -> None:
    """List the results of release tests of a changeset, the newest first; the last one of each name counts."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    output.items(
        (await client.get(f"/changesets/{changeset_id}/attestations", limit=500))["items"],
        _ATTESTATION,
        empty="No attestation: `uneventful changeset attest` attaches one.",
    )


@changeset.command("halt")
@click.argument("version")
@reason_option
@app_option
@arch_option
@talks
async def halt(client: Client, output: Output, *, version: str, reason: str, app: str | None, arch: str | None) -> None:
    """No more of a changeset for anyone, until it is resumed."""
    changeset_id = await client.changeset_id(version, app=app, arch=arch)
    _show(output, await client.post(f"/changesets/{changeset_id}/halt", {"reason": reason}))


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
    _show(output, await client.post(f"/changesets/{changeset_id}/resume", {"reason": reason}))
