"""The migration runner: plain SQL files, each in one transaction, in the order of their numbers.

A file is named ``NNNN_{pre|post}_name.sql``. *pre* files run before the new code starts and must leave the old code
working; *post* files run after the old code is gone. A line ``-- compat: N`` in a file says that code whose newest
migration is below N cannot run on the schema from then on. Numbers are dense from 1; a file that was applied never
changes again (its SHA-256 is kept).
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any, Final

import asyncpg

from shared.db.pool import connect
from shared.db.queries import Queries
from shared.errors import MigrationFailed, SchemaMismatch

PACKAGE: Final = "shared.db.migrations"
LOCK_WAIT_S: Final = 60
# A migration that waits for a table lock makes everybody else wait behind it: give up soon instead.
FILE_LOCK_WAIT_S: Final = 10

_QUERIES: Final = Queries.load("shared.db", "migrate.sql")
_FILE_NAME: Final = re.compile(r"(?P<number>\d{4})_(?P<phase>pre|post)_(?P<name>[a-z0-9]+(?:_[a-z0-9]+)*)\.sql")
_COMPAT: Final = re.compile(r"^--\s*compat:\s*(?P<version>.*?)\s*$", re.MULTILINE)
_TRANSACTION: Final = re.compile(
    r"^\s*(?:BEGIN(?:\s+(?:WORK|TRANSACTION)\b[^;]*)?|START\s+TRANSACTION[^;]*|COMMIT|ROLLBACK)\s*;",
    re.IGNORECASE | re.MULTILINE,
)


class Phase(enum.StrEnum):
    """When a file runs: before the new code starts, or after the old code is gone."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file.

    Attributes:
        number: Its place in the order, from 1.
        phase: When it runs.
        name: What it does, in words with underscores.
        sql: The text.
        sha256: The text's SHA-256, in hexadecimal.
        compat: The number below which code cannot run any more once this is applied; 0 where it does not say.
    """

    number: int
    phase: Phase
    name: str
    sql: str
    sha256: str
    compat: int = 0

    @property
    def filename(self) -> str:
        """The file's name."""
        return f"{self.number:04d}_{self.phase}_{self.name}.sql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A migration that the database has."""

    number: int
    phase: Phase
    name: str
    sha256: str
    applied_at: datetime

    @property
    def filename(self) -> str:
        """The name of the file that it came from."""
        return f"{self.number:04d}_{self.phase}_{self.name}.sql"


def parse_migration(filename: str, text: str) -> Migration:
    """Read one file.

    Raises:
        MigrationFailed: The name has another form, ``-- compat:`` holds no number up to the file's own, or the text
            begins or ends transactions itself.
    """
    match = _FILE_NAME.fullmatch(filename)
    if match is None:
        raise MigrationFailed(f"{filename} is no migration's name; it must look like 0007_pre_add_holds.sql")
    number = int(match["number"])
    compat = 0
    for found in _COMPAT.finditer(text):
        if not found["version"].isdecimal() or not 1 <= int(found["version"]) <= number:
            raise MigrationFailed(f"{filename}: `-- compat: {found['version']}` must be a number from 1 to {number}")
        compat = max(compat, int(found["version"]))
    if (found_transaction := _TRANSACTION.search(text)) is not None:
        statement = found_transaction.group().strip()
        raise MigrationFailed(f"{filename} holds {statement!r}; the runner runs each file in one transaction itself")
    return Migration(
        number=number,
        phase=Phase(match["phase"]),
        name=match["name"],
        sql=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        compat=compat,
    )


def shipped(package: str = PACKAGE) -> list[Migration]:
    """The migrations that this code ships, in order.

    Raises:
        MigrationFailed: A file is malformed, or the numbers are not dense from 1.
    """
    files = sorted(
        (entry for entry in resources.files(package).iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return in_order(parse_migration(entry.name, entry.read_text(encoding="utf-8")) for entry in files)


def in_order(files: Iterable[Migration]) -> list[Migration]:
    """Sort by number; numbers must be dense from 1, each used once.

    Raises:
        MigrationFailed: Naming the files that share a number, or the number that is missing.
    """
    ordered = sorted(files, key=lambda file: (file.number, file.filename))
    for expected, file in enumerate(ordered, start=1):
        if file.number < expected and expected > 1:
            raise MigrationFailed(
                f"{ordered[expected - 2].filename} and {file.filename} share a number; renumber the newer"
            )
        if file.number != expected:
            raise MigrationFailed(f"{file.filename} comes where number {expected:04d} should; numbers have no gaps")
    return ordered


def plan(files: Sequence[Migration], applied: Sequence[Applied], *, target: int | None = None) -> list[Migration]:
    """What is left to run, in order: a pure function of what is shipped and what the database has.

    Migrations that the database has beyond the newest shipped one are newer code's, and are left alone.

    Args:
        files: From `shipped`.
        applied: What the database has.
        target: The last number to run; None means all.

    Raises:
        MigrationFailed: An applied file was changed or renamed, an earlier one is missing in the database, or there
            is no file of the target's number.
    """
    if target is not None and not 0 <= target <= len(files):
        raise MigrationFailed(f"there is no migration {target:04d}; the newest is {len(files):04d}")
    by_number = {row.number: row for row in applied}
    newest = max(by_number, default=0)
    pending: list[Migration] = []
    for file in files:
        row = by_number.get(file.number)
        if row is None:
            if file.number < newest:
                raise MigrationFailed(f"{file.filename} was never applied, though {newest:04d} was; restore a backup")
            pending.append(file)
        elif row.filename != file.filename:
            raise MigrationFailed(f"{file.filename} was applied under the name {row.filename}; give it that name again")
        elif row.sha256 != file.sha256:
            raise MigrationFailed(
                f"{file.filename} was changed after it was applied at {row.applied_at:%Y-%m-%d %H:%M} UTC; "
                "restore the file and put the change into a new one"
            )
    return [file for file in pending if target is None or file.number <= target]


def newest_pre(files: Sequence[Migration]) -> int:
    """The number that code needs to start: that of the newest *pre* file; later *post* files may follow it."""
    return max((file.number for file in files if file.phase is Phase.PRE), default=0)


def fit(files: Sequence[Migration], *, version: int, compat_version: int) -> None:
    """Whether this code can run on a schema of these versions.

    Raises:
        SchemaMismatch: The schema is too old (run ``uneventful migrate``) or too new (run newer code).
    """
    needed = newest_pre(files)
    if version < needed:
        raise SchemaMismatch(
            f"the database is at schema {version}, this version needs {needed}; run `uneventful migrate`",
            details={"version": version, "needed": needed},
        )
    if compat_version > len(files):
        raise SchemaMismatch(
            f"the database's schema needs code of schema {compat_version} or newer, this version has {len(files)}; "
            "start a newer version of Uneventful",
            details={"compat_version": compat_version, "newest": len(files)},
        )


async def migrate(
    database_url: str,
    *,
    target: int | None = None,
    pre_only: bool = False,
    on_progress: Callable[[Applied], None] | None = None,
    package: str = PACKAGE,
) -> list[Applied]:
    """Bring the database's schema up to date; what is there already is left alone.

    Args:
        database_url: postgresql://user:password@host:port/database; the user must own the schemas.
        target: The last number to run; None means all.
        pre_only: Run up to the newest *pre* file and leave the *post* files after it for later.
        on_progress: Called after each file.
        package: Where the files are.

    Returns:
        What was applied by this call, in order.

    Raises:
        MigrationFailed: Naming the file and, where Postgres tells, the line; that file changed nothing.
        SchemaMismatch: The database belongs to newer code.
        Unavailable: Postgres could not be reached.
    """
    files = shipped(package)
    if pre_only:
        needed = newest_pre(files)
        target = needed if target is None else min(target, needed)
    connection = await connect(database_url, application_name="uneventful migrate", statement_timeout_s=0)
    try:
        await _lock(connection)
        await connection.execute(_QUERIES["create_tables"])
        applied = [_applied(row) for row in await connection.fetch(_QUERIES["applied"])]
        row = await connection.fetchrow(_QUERIES["version"])
        if row is not None and row["compat_version"] > len(files):
            fit(files, version=row["version"], compat_version=row["compat_version"])
        done: list[Applied] = []
        for file in plan(files, applied, target=target):
            done.append(await _apply(connection, file))
            if on_progress is not None:
                on_progress(done[-1])
        return done
    finally:
        # Closing the session gives back its locks and settings too.
        await connection.close()


async def check_schema(connection: asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]) -> None:
    """Refuse to run on a schema that does not fit this code; services call it before they serve.

    Raises:
        SchemaMismatch: The schema is too old (the message names ``uneventful migrate``) or too new.
    """
    files = shipped()
    if not await connection.fetchval(_QUERIES["has_tables"]):
        fit(files, version=0, compat_version=0)
        return
    row = await connection.fetchrow(_QUERIES["version"])
    fit(
        files,
        version=0 if row is None else row["version"],
        compat_version=0 if row is None else row["compat_version"],
    )


async def _lock(connection: asyncpg.Connection[Any]) -> None:
    await connection.execute(f"SET lock_timeout = '{LOCK_WAIT_S}s'")
    try:
        await connection.execute(_QUERIES["lock"])
    except asyncpg.LockNotAvailableError as error:
        raise MigrationFailed(f"another migration has been running for {LOCK_WAIT_S} s; wait until it ends") from error
    await connection.execute(f"SET lock_timeout = '{FILE_LOCK_WAIT_S}s'")


async def _apply(connection: asyncpg.Connection[Any], file: Migration) -> Applied:
    try:
        async with connection.transaction():
            await connection.execute(file.sql)
            applied_at = await connection.fetchval(
                _QUERIES["record"], file.number, file.phase.value, file.name, file.sha256
            )
            await connection.execute(_QUERIES["raise_version"], file.number, file.compat)
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"{file.filename}{_line(file, error)}: {error}; nothing of it was applied") from error
    return Applied(number=file.number, phase=file.phase, name=file.name, sha256=file.sha256, applied_at=applied_at)


def _line(file: Migration, error: asyncpg.PostgresError) -> str:
    position = getattr(error, "position", None)
    if position is None or not str(position).isdecimal():
        return ""
    return f", line {file.sql.count(chr(10), 0, int(position) - 1) + 1}"


def _applied(row: asyncpg.Record) -> Applied:
    return Applied(
        number=row["number"],
        phase=Phase(row["phase"]),
        name=row["name"],
        sha256=row["sha256"],
        applied_at=row["applied_at"],
    )
