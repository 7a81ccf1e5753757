"""``uneventful backup``: all of Uneventful into a directory or a file, and back into an empty place."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from services.cli.command import json_option
from services.cli.errors import Ended, Refused, Unreachable
from services.cli.output import Output
from services.cli.target import Options
from services.cli.text import size as size_text
from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.standalone.settings import default_data_directory
from services.standalone.supervisor import DATABASE
from shared.backup import Manifest, Progress, Restored, create, open_backup
from shared.backup import check as check_backup
from shared.backup import restore as restore_backup
from shared.backup.manifest import safe_settings
from shared.errors import InvalidInput, Unavailable, UneventfulError
from shared.settings import PREFIX

OWN_FILE: Final = "token"
KEYS: Final = "keys"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")

_database_option = click.option(
    "--database-url",
    envvar=f"{PREFIX}DATABASE_URL",
    metavar="URL",
    help="The database; without it that of an `uneventful up` on this machine (--data). "
    "Better by UNEVENTFUL_DATABASE_URL: arguments are no secret.",
)
_store_option = click.option(
    "--store",
    envvar=f"{PREFIX}STORE_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="The distribution's store of payloads, with --database-url.",
)
_keys_option = click.option(
    "--keys",
    envvar=f"{PREFIX}KEY_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory of signing keys to keep too.",
)
_place_argument = click.argument("place", type=click.Path(path_type=Path))


@dataclass(frozen=True, slots=True)
class Place:
    """What is backed up or restored: a database, a store, and files by their names in the backup."""

    database_url: str
    store: Path | None
    files: Mapping[str, Path] = field(default_factory=dict)


@click.group()
def backup() -> None:
    """Back up Uneventful itself, and restore it. PLACE is a directory, or a file that ends in .tar."""


@backup.command("create")
@click.option("--to", "place", required=True, type=click.Path(path_type=Path), help="A directory, or a file .tar.")
@click.option("--link", is_flag=True, help="Link payloads instead of copying them: quick, but no second copy.")
@click.option("--without-keys", is_flag=True, help="Leave private keys out, to be kept apart from all else.")
@_database_option
@_store_option
@_keys_option
@json_option
@click.pass_obj
def create_one(
    options: Options,
    *,
    place: Path,
    link: bool,
    without_keys: bool,
    database_url: str | None,
    store: Path | None,
    keys: Path | None,
    as_json: bool,
) -> None:
    """Back up the database with the ledger, the payloads, keys and token, while everything runs."""
    output = Output(as_json=as_json or options.as_json)

    async def work(on_progress: Callable[[Progress], None]) -> Manifest:
        async with _source(options, database_url, store, keys) as source:
            left_out = f"{KEYS}/" if without_keys else None
            return await create(
                place,
                database_url=source.database_url,
                store=source.store,
                files={
                    name: path for name, path in source.files.items() if not (left_out and name.startswith(left_out))
                },
                settings=safe_settings(os.environ, PREFIX),
                link=link,
                on_progress=on_progress,
            )

    _said(output, _run(output, work), f"Backed up to {place}")
    if not output.as_json:
        output.say("It holds keys and hashes of tokens: keep it where only you can read it.")


@backup.command("check")
@_place_argument
@json_option
@click.pass_obj
def check_one(options: Options, *, place: Path, as_json: bool) -> None:
    """Hash a backup's files, and see whether this version can restore it."""
    output = Output(as_json=as_json or options.as_json)

    async def work(on_progress: Callable[[Progress], None]) -> Manifest:
        with open_backup(place) as opened:
            await asyncio.to_thread(check_backup, opened, on_progress=on_progress)
            return opened.manifest

    _said(output, _run(output, work), f"{place} is whole")


@backup.command("restore")
@_place_argument
@click.option("--dry-run", is_flag=True, help="Check everything and write nothing.")
@_database_option
@_store_option
@_keys_option
@json_option
@click.pass_obj
def restore_one(
    options: Options,
    *,
    place: Path,
    dry_run: bool,
    database_url: str | None,
    store: Path | None,
    keys: Path | None,
    as_json: bool,
) -> None:
    """Restore a backup into an empty database and store; what is there is never overwritten."""
    output = Output(as_json=as_json or options.as_json)

    async def work(on_progress: Callable[[Progress], None]) -> tuple[Manifest, Restored | None]:
        with open_backup(place) as opened:
            if dry_run and database_url is None:
                _refuse_existing(_data_of(options))
                await asyncio.to_thread(check_backup, opened, on_progress=on_progress)
                return opened.manifest, None
            async with _destination(options, opened.manifest, database_url, store, keys) as target:
                done = await restore_backup(
                    opened,
                    database_url=target.database_url,
                    store=target.store,
                    files=target.files,
                    dry_run=dry_run,
                    on_progress=on_progress,
                )
                return opened.manifest, done

    manifest, done = _run(output, work)
    if done is None:
        _said(output, manifest, f"{place} could be restored; nothing was written")
        return
    if output.as_json:
        output.json({"rows": done.rows, "payloads": done.payloads, "files": done.files, "verified": done.verified})
        return
    output.say(
        f"Restored {done.rows} rows, {done.payloads} payloads and {done.files} files of {manifest.made_at:%F %T}."
    )
    output.say(f"The ledger holds: {done.verified} entries verified, up to {manifest.ledger_seq}.")
    output.say("Next: `uneventful migrate` (`up` does it by itself), then start the services.")


def _said(output: Output, manifest: Manifest, headline: str) -> None:
    payload_bytes = sum(payload.size for payload in manifest.payloads)
    if output.as_json:
        output.json(
            {
                "made_at": manifest.made_at.isoformat(),
                "schema": manifest.version,
                "rows": sum(table.rows for table in manifest.tables),
                "ledger_seq": manifest.ledger_seq,
                "ledger_hash": manifest.ledger_hash,
                "payloads": len(manifest.payloads),
                "payload_bytes": payload_bytes,
                "missing": list(manifest.missing),
                "files": [kept.name for kept in manifest.files],
            }
        )
        return
    output.say(
        f"{headline}: of {manifest.made_at:%F %T} UTC, by Uneventful {manifest.program}, schema {manifest.version}"
    )
    output.say(
        f"  {sum(table.rows for table in manifest.tables)} rows in {len(manifest.tables)} tables; the ledger up to "
        f"{manifest.ledger_seq}, hash {manifest.ledger_hash[:16]}"
    )
    output.say(f"  {len(manifest.payloads)} payloads, {size_text(payload_bytes)}; {len(manifest.files)} files beside")
    if manifest.missing:
        output.say(
            f"  {len(manifest.missing)} payloads were listed and not in the store; the first: {manifest.missing[0]}"
        )


def _run(output: Output, work: Callable[[Callable[[Progress], None]], Any]) -> Any:
    """Do it with a bar on stderr, and end as commands end."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Bars(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
            bar = bars.add_task("beginning", total=None)

            def on_progress(progress: Progress) -> None:
                bars.update(bar, description=progress.what, completed=progress.done, total=progress.total)

            return asyncio.run(work(on_progress))
    except UneventfulError as error:
        kind: type[Ended] = Unreachable if isinstance(error, Unavailable) else Refused
        end = kind(error.message, problem={"code": error.code})
    except OSError as error:
        end = Refused(f"{error.filename or 'a file'}: {error.strerror or error}", problem={"code": "failed"})
    except Ended as error:
        end = error
    end.as_json = output.as_json
    raise end


@contextlib.asynccontextmanager
async def _source(
    options: Options, database_url: str | None, store: Path | None, keys: Path | None
) -> AsyncIterator[Place]:
    if database_url is not None:
        yield Place(database_url, store, {} if keys is None else dict(_files_under(keys, KEYS)))
        return
    data = _data_of(options)
    if not (data / "postgres").is_dir():
        raise Refused(f"{data} holds no `uneventful up`: name its directory by --data, or a database by --database-url")
    kept = keys or data / KEYS
    files = dict(_files_under(kept, KEYS)) if kept.is_dir() else {}
    if (data / OWN_FILE).is_file():
        files[OWN_FILE] = data / OWN_FILE
    async with _database_of(data, running_is_fine=True) as url:
        yield Place(url, store or data / "store", files)


@contextlib.asynccontextmanager
async def _destination(
    options: Options, manifest: Manifest, database_url: str | None, store: Path | None, keys: Path | None
) -> AsyncIterator[Place]:
    names = [kept.name for kept in manifest.files]
    if database_url is not None:
        wanted = [] if keys is None else [name for name in names if name.startswith(f"{KEYS}/")]
        yield Place(database_url, store, {name: _below(keys or Path(), name, KEYS) for name in wanted})
        return
    data = _data_of(options)
    _refuse_existing(data)
    files = {
        name: _below(keys or data / KEYS, name, KEYS) if name.startswith(f"{KEYS}/") else data / name for name in names
    }
    if not data.exists():
        data.mkdir(parents=True)
        data.chmod(0o711)  # the server runs under a user of its own and must pass through
    try:
        async with _database_of(data, running_is_fine=False) as url:
            yield Place(url, store or data / "store", files)
    except BaseException:
        # Made by this restore, and not whole: the next one must find the place empty.
        shutil.rmtree(data / "postgres", ignore_errors=True)
        raise


def _data_of(options: Options) -> Path:
    return (options.data or default_data_directory(os.environ)).absolute()


def _refuse_existing(data: Path) -> None:
    if (data / "postgres").exists():
        raise Refused(f"{data} holds an `uneventful up` already: name an empty directory by --data")


def _below(directory: Path, name: str, prefix: str) -> Path:
    return directory / name.removeprefix(f"{prefix}/")


def _files_under(directory: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """All files below a directory, by their names in the backup."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            parts = path.relative_to(directory).parts
            if not all(_NAME.fullmatch(part) for part in parts):
                raise InvalidInput(f"{path} has a name that a backup does not keep: letters, digits and . _ + - only")
            yield "/".join((prefix, *parts)), path


@contextlib.asynccontextmanager
async def _database_of(data: Path, *, running_is_fine: bool) -> AsyncIterator[str]:
    """The database of an ``up``: its own server where it runs, else one that is started for this."""
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            if not running_is_fine:
                raise Refused(f"`uneventful up` runs on {data}: stop it first") from held
            yield (data / "run" / "database.url").read_text(encoding="utf-8").strip()
            return
        for name in ("run", "log", "store", "spool"):
            (data / name).mkdir(mode=0o700, exist_ok=True)
        server = PostgresServer(data / "postgres", port=free_ports(1)[0], log=data / "log" / "postgres.log")
        await server.start()
        try:
            await server.create_database(DATABASE)
            yield server.url(DATABASE)
        finally:
            await server.stop()
    finally:
        os.close(descriptor)
