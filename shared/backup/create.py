"""Making a backup while everything runs."""

from __future__ import annotations

import asyncio
import gzip
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import asyncpg

from shared.backup.manifest import FORMAT, Applied, Counter, Kept, Manifest, Payload, Progress, Table, table_file
from shared.backup.place import Writer, new_backup
from shared.db.pool import connect
from shared.db.queries import Queries
from shared.errors import BackupDamaged, InvalidInput, SchemaMismatch

QUERIES: Final = Queries.load("shared.backup")
_LEVEL: Final = 3


async def create(
    place: Path,
    *,
    database_url: str,
    store: Path | None,
    files: Mapping[str, Path],
    settings: Mapping[str, str],
    link: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Make a backup.

    Args:
        place: A directory or ``.tar`` file that is not there yet.
        database_url: postgresql://user:password@host:port/database.
        store: The distribution's store; None leaves payloads out.
        files: What is kept beside, by its name in the backup.
        settings: For the record.
        link: Link payloads where the file system can, instead of copying them: quick, but no second copy.
        on_progress: Called as it goes on.

    Raises:
        Conflict: Something is at the place already.
        SchemaMismatch: The database has none of our migrations.
        BackupDamaged: A payload in the store is not what its name says.
        Unavailable: Postgres could not be reached.
    """
    with new_backup(place) as writer:
        found = await _dump(writer, database_url, on_progress)
        payloads, missing = await asyncio.to_thread(_payloads, writer, store, found.digests, link, on_progress)
        kept = await asyncio.to_thread(_files, writer, files)
        manifest = Manifest(
            format=FORMAT,
            program=metadata.version("uneventful"),
            made_at=found.made_at,
            migrations=found.migrations,
            tables=found.tables,
            sequences=found.sequences,
            ledger_blocks=found.blocks,
            ledger_seq=found.head[0],
            ledger_hash=found.head[1],
            payloads=payloads,
            missing=missing,
            files=kept,
            settings=dict(settings),
        )
        await asyncio.to_thread(writer.finish, manifest)
    return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dumped:
    made_at: datetime
    migrations: tuple[Applied, ...]
    tables: tuple[Table, ...]
    sequences: tuple[Counter, ...]
    blocks: tuple[int, ...]
    head: tuple[int, str]
    digests: tuple[str, ...]


async def _dump(writer: Writer, database_url: str, on_progress: Callable[[Progress], None]) -> _Dumped:
    connection = await connect(database_url, application_name="uneventful backup", statement_timeout_s=0)
    try:
        if not await connection.fetchval(QUERIES["has_migrations"]):
            raise SchemaMismatch("this database is not Uneventful's: nothing was ever migrated in it")
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            made_at = datetime.now(UTC)
            migrations = tuple(Applied(**row) for row in await connection.fetch(QUERIES["applied"]))
            rows = await connection.fetch(QUERIES["tables"])
            tables = []
            for number, row in enumerate(rows):
                on_progress(Progress(f"{row['schema']}.{row['name']}", number, len(rows)))
                tables.append(await _dump_table(writer, connection, row))
            on_progress(Progress("database", len(rows), len(rows)))
            head = await connection.fetchrow(QUERIES["head"])
            if head is None:
                raise SchemaMismatch("this database has no ledger: run `uneventful migrate`")
            return _Dumped(
                made_at=made_at,
                migrations=migrations,
                tables=tuple(tables),
                sequences=tuple(Counter(**row) for row in await connection.fetch(QUERIES["sequences"])),
                blocks=tuple(row["block"] for row in await connection.fetch(QUERIES["ledger_blocks"])),
                head=(head["seq"], head["hash"]),
                digests=tuple(row["sha256"] for row in await connection.fetch(QUERIES["payloads"])),
            )
    finally:
        await connection.close()


async def _dump_table(writer: Writer, connection: asyncpg.Connection[Any], row: asyncpg.Record) -> Table:
    path = writer.scratch() / "table.gz"
    with path.open("xb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:

        async def take(piece: bytes) -> None:
            packed.write(piece)

        said = await connection.copy_from_query(row["select_text"], output=take)
    sha256, size = writer.add(table_file(row["schema"], row["name"]), path)
    return Table(
        schema=row["schema"],
        name=row["name"],
        columns=tuple(row["columns"]),
        rows=int(said.split()[-1]),
        sha256=sha256,
        size=size,
    )


def _payloads(
    writer: Writer,
    store: Path | None,
    digests: tuple[str, ...],
    link: bool,
    on_progress: Callable[[Progress], None],
) -> tuple[tuple[Payload, ...], tuple[str, ...]]:
    """Copy what the snapshot lists. Payloads never change, and none is taken away, so they may be copied later."""
    if store is None:
        return (), ()
    payloads, missing = [], []
    for number, digest in enumerate(digests):
        on_progress(Progress("payloads", number, len(digests)))
        path = store / "sha256" / digest[:2] / digest
        if not path.is_file():
            missing.append(digest)
            continue
        there = Payload(sha256=digest, size=path.stat().st_size)
        sha256, size = writer.add(there.file, path, link=link)
        if sha256 != digest:
            raise BackupDamaged(f"{path} has the sha256 {sha256}: remove it, upload it again, then back up again")
        payloads.append(Payload(sha256=digest, size=size))
    on_progress(Progress("payloads", len(digests), len(digests)))
    return tuple(payloads), tuple(missing)


def _files(writer: Writer, files: Mapping[str, Path]) -> tuple[Kept, ...]:
    kept = []
    for name, path in sorted(files.items()):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput(f"{path} is no file: only files are kept")
        sha256, size = writer.add(f"files/{name}", path)
        kept.append(Kept(name=name, sha256=sha256, size=size, mode=found.st_mode & 0o777))
    return tuple(kept)
