"""``uneventful keys``."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from services.cli.client import Client
from services.cli.command import reason_option, talks
from services.cli.errors import Refused
from services.cli.output import Output

_KEY_ID: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_LIST: Mapping[str, Any] = {
    "version": "version",
    "made": "made_at",
    "by": "made_by",
    "signed by": lambda item: [signature["key_id"] for signature in item["signatures"]],
}
_ATTESTER = {
    "attester": "name",
    "key": "key_id",
    "trusted": "trusted_at",
    "by": "trusted_by",
    "distrusted": "distrusted_at",
}


@click.group()
def keys() -> None:
    """The keys that changesets are signed with, and those of testers."""


@keys.command("list")
@talks
async def list_all(client: Client, output: Output) -> None:
    """List all keys, the oldest first."""
    output.items(
        (await client.get("/keys"))["items"],
        {
            "key": "key_id",
            "in force": "in_force",
            "here": "here",
            "made": "created_at",
            "by": "created_by",
            "retired": "retired_at",
        },
        empty="No key: set UNEVENTFUL_KEY_DIR for control, and it makes the first one when it starts.",
    )


@keys.command("make")
@reason_option
@talks
async def make(client: Client, output: Output, *, reason: str) -> None:
    """Make a key beside those in force; everything published is signed by it too."""
    output.item(await client.post("/keys", {"reason": reason}), _LIST)


@keys.command("rotate")
@reason_option
@talks
async def rotate(client: Client, output: Output, *, reason: str) -> None:
    """Make a key and retire all others; nodes follow by the list, which an old key signs."""
    output.item(await client.post("/keys/rotate", {"reason": reason}), _LIST)


@keys.command("retire")
@click.argument("key_id")
@reason_option
@talks
async def retire(client: Client, output: Output, *, key_id: str, reason: str) -> None:
    """Take a key out of the list: nothing is signed with it any more, and nodes stop believing it."""
    output.item(await client.post(f"/keys/{key_id}/retire", {"reason": reason}), _LIST)


@keys.command("export")
@click.option("--since", default=0, show_default=True, help="Only lists after this version.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory for the newest list, its signatures, and the keys in force as PEM.",
)
@talks
async def export(client: Client, output: Output, *, since: int, out: Path | None) -> None:
    """Export the lists of keys, for nodes to begin with and to follow."""
    lists: list[Any] = []
    while page := (await client.get("/keys/lists", after=lists[-1]["version"] if lists else since))["items"]:
        lists += page
    if out is not None and lists:
        write_signed(out, "keys.json", lists[-1])
        _write_public(out, (await client.get("/keys"))["items"])
    output.items(lists, _LIST, empty="No list of keys yet.")


def write_signed(out: Path, name: str, signed: Mapping[str, Any]) -> None:
    """Write a document, exactly as it was signed, with a file per signature: ``<name>.<key id>.sig``, in base64."""
    out.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(base64.b64decode(signed["document"]))
    for signature in signed["signatures"]:
        (out / f"{name}.{_file_name(signature['key_id'])}.sig").write_text(signature["signature"] + "\n")


def _write_public(out: Path, keys: Sequence[Mapping[str, Any]]) -> None:
    for key in keys:
        if key["in_force"]:
            (out / f"{_file_name(key['key_id'])}.pub.pem").write_text(key["public_key"])


def _file_name(key_id: str) -> str:
    """A key's id, which is to become a part of a file's name."""
    if _KEY_ID.fullmatch(key_id) is None:
        raise Refused(f"the server calls a key {key_id!r}, which is no key id: is it control?")
    return key_id


@keys.command("trust")
@click.option("--attester", required=True, metavar="NAME", help="Who signs with it.")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@reason_option
@talks
async def trust(client: Client, output: Output, *, attester: str, path: Path, reason: str) -> None:
    """Believe what a tester signs; PATH is their public key as PEM (Ed25519)."""
    with path.open("rb") as file:
        pem = file.read(2_000).decode("ascii", errors="replace")
    output.item(await client.post("/attesters", {"name": attester, "public_key": pem, "reason": reason}), _ATTESTER)


@keys.command("distrust")
@click.argument("key_id")
@reason_option
@talks
async def distrust(client: Client, output: Output, *, key_id: str, reason: str) -> None:
    """Believe a tester's key no longer."""
    output.item(await client.post(f"/attesters/{key_id}/distrust", {"reason": reason}), _ATTESTER)


@keys.command("attesters")
@talks
async def attesters(client: Client, output: Output) -> None:
    """List testers' keys."""
    output.items(
        (await client.get("/attesters"))["items"],
        _ATTESTER,
        empty="No tester is trusted: `uneventful keys trust` does it.",
    )
