"""The pool and the migration runner on a real Postgres."""

from __future__ import annotations

import asyncio
import sys
import uuid

import asyncpg
import msgspec
import orjson
import pytest

from shared.db import check_schema, connect, create_pool, is_transient, migrate
from shared.db.migrate import newest_pre, shipped
from shared.errors import MigrationFailed, SchemaMismatch, Unavailable


class Facts(msgspec.Struct):
    arch: str
    count: int = 0


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of migrations that a test fills; called with file names and texts."""
    name = f"migrations_{uuid.uuid4().hex}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def fill(**files: str) -> str:
        for stem, text in files.items():
            (folder / f"{stem.removeprefix('m')}.sql").write_text(text)
        return name

    yield fill
    sys.modules.pop(name, None)


async def schema_of(url: str) -> tuple[int, int, list[int]]:
    connection = await connect(url, application_name="test")
    try:
        version = await connection.fetchrow("SELECT version, compat_version FROM migrations.schema_version")
        numbers = await connection.fetch("SELECT number FROM migrations.applied ORDER BY number")
        return version["version"], version["compat_version"], [row["number"] for row in numbers]
    finally:
        await connection.close()


# ---- the pool


async def test_jsonb_is_python(pool):
    """As parameter, as result, in arrays and by COPY; Structs and ready JSON included."""
    async with pool.acquire() as connection:
        value = {"text": "ü", "list": [1, 2.5, None, True]}
        assert await connection.fetchval("SELECT $1::jsonb", value) == value
        assert await connection.fetchval("SELECT $1::json", Facts("amd64")) == {"arch": "amd64", "count": 0}
        assert await connection.fetchval("SELECT $1::jsonb IS NULL", None) is True
        rows = await connection.fetch("SELECT * FROM unnest($1::jsonb[]) AS t(v)", [{"a": 1}, orjson.Fragment(b"[2]")])
        assert [row["v"] for row in rows] == [{"a": 1}, [2]]
        await connection.execute("CREATE TEMPORARY TABLE t (id uuid, data jsonb)")
        identity = uuid.uuid4()
        await connection.copy_records_to_table("t", records=[(identity, Facts("arm64", 3)), (str(identity), {})])
        found = await connection.fetch("SELECT id, data FROM t ORDER BY data DESC")
        assert [(row["id"], row["data"]) for row in found] == [
            (identity, {"arch": "arm64", "count": 3}),
            (identity, {}),
        ]


async def test_sessions_are_bounded(database_url):
    """Long statements and forgotten transactions are ended by the server; the application has a name; time is UTC."""
    pool = await create_pool(database_url, application_name="bounded", statement_timeout_s=0.05)
    try:
        assert await pool.fetchval("SHOW application_name") == "bounded"
        assert await pool.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
        assert await pool.fetchval("SHOW timezone") == "UTC"
        with pytest.raises(asyncpg.QueryCanceledError) as caught:
            await pool.fetchval("SELECT pg_sleep(10)")
        assert is_transient(caught.value)
    finally:
        await pool.close()


async def test_a_closed_pool_is_a_passing_error_and_a_wrong_call_is_not(database_url):
    """So that one becomes 503 and the other 500."""
    pool = await create_pool(database_url, application_name="test")
    with pytest.raises(asyncpg.InterfaceError) as wrong:
        await pool.fetchval("SELECT $1::int")
    await pool.close()
    with pytest.raises(asyncpg.InterfaceError) as closed:
        await pool.fetchval("SELECT 1")

    assert is_transient(closed.value)
    assert not is_transient(wrong.value)


async def test_a_server_that_is_away_is_named_without_its_password():
    """After the time given to it."""
    url = "postgresql://ann:hunter2@127.0.0.1:1/fleet"
    for attempt in (create_pool, connect):
        with pytest.raises(Unavailable, match=r"Postgres at 127\.0\.0\.1:1/fleet could not be reached") as caught:
            await attempt(url, application_name="test", connect_timeout_s=0.2)
        assert "hunter2" not in str(caught.value)


async def test_a_wrong_database_is_not_tried_again(postgres_server):
    """Waiting does not make it appear."""
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await create_pool(postgres_server.url("no_such_database"), application_name="test")


# ---- migrations


async def test_all_migrations_run_on_an_empty_database(empty_database_url):
    """Once; the second time nothing is left. Before, the service refuses; after, it starts."""
    seen: list[int] = []
    connection = await connect(empty_database_url, application_name="test")
    with pytest.raises(SchemaMismatch, match="uneventful migrate"):
        await check_schema(connection)

    done = await migrate(empty_database_url, on_progress=lambda row: seen.append(row.number))

    assert [row.number for row in done] == seen == [file.number for file in shipped()]
    assert await migrate(empty_database_url) == []
    await check_schema(connection)
    await connection.close()


async def test_a_database_that_is_too_new_is_refused(empty_database_url):
    """By services and by `migrate`."""
    await migrate(empty_database_url)
    connection = await connect(empty_database_url, application_name="test")
    await connection.execute("UPDATE migrations.schema_version SET version = 9999, compat_version = 9999")

    with pytest.raises(SchemaMismatch, match="start a newer version"):
        await check_schema(connection)
    with pytest.raises(SchemaMismatch, match="start a newer version"):
        await migrate(empty_database_url)
    await connection.close()


async def test_two_runners_do_not_meet(empty_database_url):
    """One runs everything, the other finds nothing to do."""
    both = await asyncio.gather(migrate(empty_database_url), migrate(empty_database_url))

    assert sorted(len(done) for done in both) == [0, len(shipped())]


async def test_a_migration_that_fails_leaves_nothing(empty_database_url, package):
    """The file and the line are named; those before it stay; mended, it goes on."""
    name = package(m0001_pre_a="CREATE TABLE a ();", m0002_pre_b="CREATE TABLE b ();\n\nCREATE TABLE a (;\n")

    with pytest.raises(MigrationFailed, match=r"0002_pre_b\.sql, line 3: .*; nothing of it was applied"):
        await migrate(empty_database_url, package=name)

    assert await schema_of(empty_database_url) == (1, 0, [1])
    package(m0002_pre_b="-- compat: 2\nCREATE TABLE b ();")
    assert [row.filename for row in await migrate(empty_database_url, package=name)] == ["0002_pre_b.sql"]
    assert await schema_of(empty_database_url) == (2, 2, [1, 2])


async def test_pre_files_run_before_and_post_files_after(empty_database_url, package):
    """Those that follow the newest pre file wait until the old code is gone."""
    name = package(
        m0001_pre_a="CREATE TABLE a ();",
        m0002_post_b="CREATE TABLE b ();",
        m0003_pre_c="CREATE TABLE c ();",
        m0004_post_d="-- compat: 3\nDROP TABLE a;",
    )

    assert [row.number for row in await migrate(empty_database_url, package=name, target=1)] == [1]
    assert [row.number for row in await migrate(empty_database_url, package=name, pre_only=True)] == [2, 3]
    assert newest_pre(shipped(name)) == 3
    assert [row.number for row in await migrate(empty_database_url, package=name)] == [4]
    assert await schema_of(empty_database_url) == (4, 3, [1, 2, 3, 4])


async def test_a_file_changed_after_it_was_applied_is_refused(empty_database_url, package):
    """By its name."""
    name = package(m0001_pre_a="CREATE TABLE a ();")
    await migrate(empty_database_url, package=name)
    package(m0001_pre_a="CREATE TABLE b ();")

    with pytest.raises(MigrationFailed, match=r"0001_pre_a\.sql was changed after it was applied"):
        await migrate(empty_database_url, package=name)
