"""Restoring a backup into an empty place: everything is checked before anything is written."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import asyncpg

from shared.backup.manifest import Manifest, Progress, Table, load_order
from shared.backup.place import Reader, hash_file
from shared.db.migrate import migrate, shipped
from shared.db.pool import connect
from shared.db.queries import Queries
from shared.errors import BackupDamaged, Conflict, SchemaMismatch
from shared.ledger import verify_chain

QUERIES: Final = Queries.load("shared.backup")
_PIECE: Final = 256 * 1024
_MOST_BLOCKS: Final = 1_000

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was written.

    Attributes:
        verified: Entries of the ledger whose hashes hold.
    """

    rows: int
    payloads: int
    files: int
    verified: int


def check(backup: Reader, *, on_progress: OnProgress = lambda _: None) -> None:
    """Hash everything that the manifest names, and see that this version has the same migrations.

    Raises:
        BackupDamaged: A file is missing or another one.
        SchemaMismatch: The backup's schema is not one that this version makes.
    """
    _check_migrations(backup.manifest)
    contents = backup.manifest.contents
    for number, (name, (sha256, size)) in enumerate(contents.items()):
        on_progress(Progress("checksums", number, len(contents)))
        with backup.open(name) as file:
            found = hash_file(file)
        if found != (sha256, size):
            raise BackupDamaged(
                f"{name} has {found[1]} bytes with the sha256 {found[0]}, and the manifest says {size} with {sha256}: "
                "take another backup"
            )
    on_progress(Progress("checksums", len(contents), len(contents)))


def _check_migrations(manifest: Manifest) -> None:
    ours = {migration.number: migration for migration in shipped()}
    for number, applied in enumerate(manifest.migrations, start=1):
        known = ours.get(number)
        if known is None:
            raise SchemaMismatch(
                f"the backup has schema {manifest.version} and this version makes {len(ours)}: restore it with "
                f"Uneventful {manifest.program} or newer"
            )
        if (applied.number, applied.filename, applied.sha256) != (number, known.filename, known.sha256):
            raise SchemaMismatch(
                f"the backup's migration {applied.filename} is another one than this version's {known.filename}: "
                f"restore it with Uneventful {manifest.program}"
            )


async def restore(
    backup: Reader,
    *,
    database_url: str,
    store: Path | None,
    files: Mapping[str, Path],
    dry_run: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Restored | None:
    """Restore a backup into an empty database and store.

    Args:
        backup: From `open_backup`.
        database_url: An empty database; its user must be allowed to make schemas.
        store: Where the distribution's store is to be; None leaves payloads out.
        files: Where the files that were kept beside go, by their names; those without a place are left out.
        dry_run: Only check.
        on_progress: Called as it goes on.

    Returns:
        What was written; None after a dry run.

    Raises:
        Conflict: Something is there already.
        BackupDamaged: The backup is not what its manifest says.
        SchemaMismatch: It needs another version of Uneventful.
        Unavailable: Postgres could not be reached.
    """
    await asyncio.to_thread(check, backup, on_progress=on_progress)
    _check_empty(backup.manifest, store, files)
    connection = await connect(database_url, application_name="uneventful restore", statement_timeout_s=0)
    try:
        there = await connection.fetchval(QUERIES["anything_there"])
        if there is not None:
            raise Conflict(f"the database is not empty (it has {there}): restore into a new one")
        if dry_run:
            return None
        await migrate(database_url, target=backup.manifest.version)
        rows = await _load(backup, connection, on_progress)
        await connection.execute(QUERIES["analyze"])
        verified = await verify_chain(connection)
        if not verified.ok or (verified.last_seq, verified.last_hash.hex()) != (
            backup.manifest.ledger_seq,
            backup.manifest.ledger_hash,
        ):
            raise BackupDamaged(
                f"the restored ledger does not hold: {verified.reason or 'it ends elsewhere than the backup says'}; "
                "drop this database and use another backup"
            )
    finally:
        await connection.close()
    payloads = await asyncio.to_thread(_payloads, backup, store, on_progress)
    kept = await asyncio.to_thread(_files, backup, files)
    return Restored(rows=rows, payloads=payloads, files=kept, verified=verified.checked)


def _check_empty(manifest: Manifest, store: Path | None, files: Mapping[str, Path]) -> None:
    if store is not None and (store / "sha256").exists() and any((store / "sha256").iterdir()):
        raise Conflict(f"the store {store} has payloads already: restore into an empty one")
    for kept in manifest.files:
        path = files.get(kept.name)
        if path is not None and path.exists():
            raise Conflict(f"{path} is there already: move it away, or restore into another place")


async def _load(backup: Reader, connection: asyncpg.Connection[Any], on_progress: OnProgress) -> int:
    """All rows in one transaction; what migrations put into tables goes out before."""
    tables = {f"{table.schema}.{table.name}": table for table in backup.manifest.tables}
    there = {
        f"{row['schema']}.{row['name']}": tuple(row["columns"]) for row in await connection.fetch(QUERIES["tables"])
    }
    wrong = sorted(name for name in tables.keys() | there.keys() if name not in tables or name not in there)
    wrong += [name for name in tables if name in there and set(tables[name].columns) != set(there[name])]
    if wrong:
        raise SchemaMismatch(f"the backup and the schema differ in {', '.join(wrong)}: use another backup")
    references = [(row["child"], row["parent"]) for row in await connection.fetch(QUERIES["references"])]
    order = load_order(list(tables), references)
    rows = 0
    async with connection.transaction():
        await _partitions(connection, backup.manifest.ledger_blocks)
        for name in reversed(order):
            # Nobody may take rows out of the ledger; it has none yet.
            if name != "event_log.ledger":
                table = tables[name]
                await connection.execute(
                    await connection.fetchval(QUERIES["delete_statement"], table.schema, table.name)
                )
        for number, name in enumerate(order):
            on_progress(Progress(name, number, len(order)))
            rows += await _load_table(backup, connection, tables[name])
        for sequence in backup.manifest.sequences:
            await connection.execute(QUERIES["set_sequence"], sequence.schema, sequence.name, sequence.last_value)
        await connection.execute(QUERIES["ensure_partitions"], 2)
    on_progress(Progress("database", len(order), len(order)))
    return rows


async def _partitions(connection: asyncpg.Connection[Any], blocks: tuple[int, ...]) -> None:
    for first in range(blocks[0], blocks[-1] + 1, _MOST_BLOCKS) if blocks else ():
        await connection.execute(QUERIES["put_head"], first)
        ahead = min(_MOST_BLOCKS, blocks[-1] - first)
        await connection.execute(QUERIES["ensure_partitions"], max(1, ahead))


async def _load_table(backup: Reader, connection: asyncpg.Connection[Any], table: Table) -> int:
    with backup.open(table.file) as raw, gzip.GzipFile(fileobj=raw, mode="rb") as packed:
        said = await connection.copy_to_table(
            table.name, schema_name=table.schema, columns=list(table.columns), source=_pieces(packed)
        )
    rows = int(said.split()[-1])
    if rows != table.rows:
        raise BackupDamaged(f"{table.file} has {rows} rows, and the manifest says {table.rows}: use another backup")
    return rows


async def _pieces(file: IO[bytes] | gzip.GzipFile) -> AsyncIterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _payloads(backup: Reader, store: Path | None, on_progress: OnProgress) -> int:
    if store is None:
        return 0
    payloads = backup.manifest.payloads
    for number, payload in enumerate(payloads):
        on_progress(Progress("payloads", number, len(payloads)))
        path = store / payload.file.removeprefix("payloads/")
        _write(backup, payload.file, path, mode=0o644, sha256=payload.sha256)
    on_progress(Progress("payloads", len(payloads), len(payloads)))
    return len(payloads)


def _files(backup: Reader, files: Mapping[str, Path]) -> int:
    placed = [kept for kept in backup.manifest.files if kept.name in files]
    for kept in placed:
        _write(backup, kept.file, files[kept.name], mode=kept.mode, sha256=kept.sha256)
    return len(placed)


def _write(backup: Reader, name: str, path: Path, *, mode: int, sha256: str) -> None:
    """There under its name only once it is whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as into, backup.open(name) as file:
        found, _ = hash_file(file, into)
        into.flush()
        os.fsync(into.fileno())
    if found != sha256:
        part.unlink()
        raise BackupDamaged(f"{name} changed while it was restored: begin again with an empty place")
    part.rename(path)
