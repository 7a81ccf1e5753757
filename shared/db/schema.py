"""The schema that all migrations make, as one file to read: ``shared/db/schema.sql``.

Made from the catalogs, so that it does not depend on where a ``pg_dump`` is, nor of which version. A test compares it
with what the migrations make; ``python -m shared.db.schema --write`` makes it anew in a database of its own, which it
creates on the server that ``UNEVENTFUL_DATABASE_URL`` names and drops again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from shared.db.migrate import migrate
from shared.db.pool import connect
from shared.db.queries import Queries
from shared.errors import MigrationFailed, SettingsInvalid

SCHEMA_FILE: Final = Path(__file__).with_name("schema.sql")
HEADER: Final = "-- What all migrations make. Never edited: written by `python -m shared.db.schema --write`.\n"

_QUERIES: Final = Queries.load("shared.db", "catalog.sql")


async def dump(connection: asyncpg.Connection[Any]) -> str:
    """The structure of our schemas as SQL: tables, constraints, indexes, triggers, functions, views; no rows.

    Raises:
        MigrationFailed: There is something that this dump has no words for.
    """
    schemas = [row["schema"] for row in await connection.fetch(_QUERIES["schemas"])]
    others = [row["name"] for row in await connection.fetch(_QUERIES["others"], schemas)]
    if others:
        raise MigrationFailed(f"shared.db.schema cannot write {', '.join(others)}: teach it sequences and types")
    parts = [HEADER, "".join(f"CREATE SCHEMA {schema};\n" for schema in schemas)]
    parts += [await _table(connection, row) for row in await connection.fetch(_QUERIES["tables"], schemas)]
    parts += [f"{row['definition'].rstrip()};\n" for row in await connection.fetch(_QUERIES["functions"], schemas)]
    parts += [
        f"{row['head']}\n{row['definition'].rstrip()}\n" for row in await connection.fetch(_QUERIES["views"], schemas)
    ]
    return "\n".join(parts)


async def _table(connection: asyncpg.Connection[Any], table: asyncpg.Record) -> str:
    oid, name = table["oid"], table["name"]
    inside = [_column(row) for row in await connection.fetch(_QUERIES["columns"], oid)]
    inside += [
        f"CONSTRAINT {row['name']} {row['definition']}" for row in await connection.fetch(_QUERIES["constraints"], oid)
    ]
    text = f"CREATE TABLE {name} (\n" + ",\n".join(f"    {line}" for line in inside) + "\n)"
    if table["partition_key"] is not None:
        text += f" PARTITION BY {table['partition_key']}"
    if table["reloptions"]:
        text += f" WITH ({', '.join(sorted(table['reloptions']))})"
    lines = [text + ";"]
    lines += [
        f"CREATE TABLE {row['name']} PARTITION OF {name} {row['bound']};"
        for row in await connection.fetch(_QUERIES["partitions"], oid)
    ]
    lines += [f"{row['definition']};" for row in await connection.fetch(_QUERIES["indexes"], oid)]
    lines += [f"{row['definition']};" for row in await connection.fetch(_QUERIES["triggers"], oid)]
    if table["comment"] is not None:
        quoted = table["comment"].replace("'", "''")
        lines.append(f"COMMENT ON TABLE {name} IS '{quoted}';")
    return "\n".join(lines) + "\n"


def _column(row: asyncpg.Record) -> str:
    text = f"{row['name']} {row['type']}"
    if row["not_null"]:
        text += " NOT NULL"
    if row["identity"]:
        text += f" GENERATED {'ALWAYS' if row['identity'] == 'a' else 'BY DEFAULT'} AS IDENTITY"
    elif row["generated"]:
        text += f" GENERATED ALWAYS AS ({row['expression']}) STORED"
    elif row["expression"] is not None:
        text += f" DEFAULT {row['expression']}"
    return text


async def dump_of_all_migrations(server_url: str) -> str:
    """Migrate an empty database, made for this on the server of ``server_url``, and dump it; then drop it.

    Raises:
        MigrationFailed: A migration failed, or made something that cannot be dumped.
        Unavailable: The server could not be reached.
    """
    name = f"uneventful_schema_{uuid.uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    admin = await connect(server_url, application_name="uneventful schema")
    try:
        await admin.execute(await admin.fetchval(_QUERIES["create_database"], name))
        try:
            await migrate(url)
            connection = await connect(url, application_name="uneventful schema")
            try:
                return await dump(connection)
            finally:
                await connection.close()
        finally:
            await admin.execute(await admin.fetchval(_QUERIES["drop_database"], name))
    finally:
        await admin.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """``--write`` rewrites the file; without it, 1 where the file is not what the migrations make."""
    parser = argparse.ArgumentParser(prog="python -m shared.db.schema", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the file instead of comparing")
    parser.add_argument("--file", type=Path, default=SCHEMA_FILE, help="the file, if not shared/db/schema.sql")
    options = parser.parse_args(arguments)
    url = os.environ.get("UNEVENTFUL_DATABASE_URL")
    if not url:
        raise SettingsInvalid(("set UNEVENTFUL_DATABASE_URL to a server on which a database may be made for a moment",))
    text = asyncio.run(dump_of_all_migrations(url))
    if options.write:
        options.file.write_text(text, encoding="utf-8")
        return 0
    if options.file.exists() and options.file.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{options.file} is not what the migrations make; run `python -m shared.db.schema --write`\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
