"""All migrations together make the schema that is checked in; and how the runner treats its files."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from shared.db import connect
from shared.db.migrate import PACKAGE, Phase, migrate, shipped
from shared.db.schema import SCHEMA_FILE, dump, dump_of_all_migrations, main
from shared.errors import MigrationFailed, SettingsInvalid


@pytest.fixture
def server_url(postgres_server) -> str:
    return postgres_server.url("postgres")


async def test_all_migrations_make_the_schema_that_is_checked_in(server_url):
    """Where they do not, ``UNEVENTFUL_WRITE_SCHEMA=1 pytest tests/migration`` rewrites the file."""
    made = await dump_of_all_migrations(server_url)
    if os.environ.get("UNEVENTFUL_WRITE_SCHEMA") == "1":
        SCHEMA_FILE.write_text(made, encoding="utf-8")

    assert SCHEMA_FILE.read_text(encoding="utf-8") == made


async def test_the_checked_in_schema_is_sql_that_makes_itself(empty_database_url):
    """Run on an empty database, it makes a schema whose dump is the file again."""
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    statements = text.split("\nCREATE SCHEMA", 1)[1]
    connection = await connect(empty_database_url, application_name="test")
    try:
        # Functions of SQL and references to later tables are looked up when they are called.
        await connection.execute("SET check_function_bodies = off")
        tables = "CREATE SCHEMA" + statements
        for statement in re.findall(r"^CREATE SCHEMA \w+;", tables, re.MULTILINE):
            await connection.execute(statement)
        functions = "CREATE OR REPLACE" + tables.split("CREATE OR REPLACE", 1)[1]
        body = tables.split("CREATE OR REPLACE", 1)[0]
        body = re.sub(r"^CREATE SCHEMA \w+;", "", body, flags=re.MULTILINE)
        foreign = re.compile(r",\n    CONSTRAINT (\w+) (FOREIGN KEY [^\n]*?)(?=,?\n)")
        added = []
        for table in re.findall(r"^CREATE TABLE ([\w.]+) \(\n(.*?)^\)", body, re.MULTILINE | re.DOTALL):
            added += [f"ALTER TABLE {table[0]} ADD CONSTRAINT {k} {d};" for k, d in foreign.findall(table[1])]
        triggers = re.findall(r"^CREATE TRIGGER [^\n]*;$", body, re.MULTILINE)
        body = foreign.sub("", re.sub(r"^CREATE TRIGGER [^\n]*;$", "", body, flags=re.MULTILINE))
        await connection.execute(body)
        await connection.execute("\n".join(added))
        # Those that have a table's row type as a variable find it now.
        await connection.execute(functions)
        await connection.execute("\n".join(triggers))
        assert await dump(connection) == text
    finally:
        await connection.close()


async def test_what_cannot_be_written_is_refused(empty_database_url):
    """A materialized view would be missing from the file: the dump says so instead."""
    connection = await connect(empty_database_url, application_name="test")
    try:
        await connection.execute(
            "CREATE SCHEMA s; CREATE MATERIALIZED VIEW s.v AS SELECT 1; CREATE TYPE s.t AS ENUM ('a')"
        )
        with pytest.raises(MigrationFailed, match=r"s\.t, s\.v"):
            await dump(connection)
    finally:
        await connection.close()


async def test_the_command_compares_and_rewrites(server_url, tmp_path, monkeypatch, capsys):
    """1 and what to do where the file differs; --write makes it; without a server nothing is guessed."""
    monkeypatch.setenv("UNEVENTFUL_DATABASE_URL", server_url)
    copy = tmp_path / "schema.sql"
    assert await asyncio.to_thread(main, ["--file", str(copy)]) == 1
    assert "--write" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["--file", str(copy), "--write"]) == 0
    assert copy.read_text() == SCHEMA_FILE.read_text()
    assert await asyncio.to_thread(main, ["--file", str(copy)]) == 0
    monkeypatch.delenv("UNEVENTFUL_DATABASE_URL")
    with pytest.raises(SettingsInvalid, match="UNEVENTFUL_DATABASE_URL"):
        main([])


def test_files_are_named_and_numbered():
    """NNNN_{pre|post}_name.sql, dense from 1; all that is shipped is found."""
    files = shipped()
    assert [file.number for file in files] == list(range(1, len(files) + 1))
    assert all(re.fullmatch(r"\d{4}_(pre|post)_[a-z0-9_]+\.sql", file.filename) for file in files)
    assert files[0].phase is Phase.PRE
    assert PACKAGE == "shared.db.migrations"


async def test_migrating_twice_changes_nothing(empty_database_url):
    """And two at once are one after the other: together they apply each file once."""
    both = await asyncio.gather(migrate(empty_database_url), migrate(empty_database_url))
    connection = await connect(empty_database_url, application_name="test")
    try:
        before = await dump(connection)
        assert sorted(len(done) for done in both) == [0, len(shipped())]
        assert await migrate(empty_database_url) == []
        assert await dump(connection) == before
        assert await connection.fetchval("SELECT count(*) FROM migrations.applied") == len(shipped())
    finally:
        await connection.close()
