"""Backup and restore of Uneventful itself: what runs goes on elsewhere."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from services.cli.__main__ import cli
from services.control.__main__ import keep_token
from services.control.app import make_app as make_control
from services.control.settings import Settings as ControlSettings
from services.control.tokens import Role
from services.event_log.mover import Mover
from services.standalone.postgres import PostgresServer
from services.standalone.processes import free_ports
from services.update_check.app import make_app
from services.update_check.settings import Settings
from shared.backup import check, create, open_backup, restore
from shared.db import create_pool, migrate
from shared.db.pool import connect
from shared.errors import BackupDamaged, Conflict, NotFound, SchemaMismatch
from shared.settings import Secret
from shared.testing.rollouts import make_world, pretend_analysis_keeps_up

sys.path.insert(0, str(Path(__file__).parent))
from omaha_node import Node

PAYLOAD = b"payload"


@asynccontextmanager
async def update_check_on(database_url: str, spool: Path):
    settings = Settings(
        database_url=Secret(database_url),
        distribution_url="http://127.0.0.1:9/",
        spool_dir=str(spool),
        contact_flush_s=0.05,
    )
    server = TestServer(make_app(settings))
    await server.start_server(access_log=None)
    try:
        yield str(server.make_url("/v1/update/"))
    finally:
        await server.close()


async def move_all(database_url: str) -> None:
    """Bring the inbox into the ledger."""
    connection = await connect(database_url, application_name="mover")
    try:
        mover = Mover(connection, batch_size=100, idle_s=0.01, partitions_ahead=1)
        while await mover.step():
            pass
    finally:
        await connection.close()


@pytest.fixture
def store(tmp_path) -> Path:
    """A payload store with the world's payload."""
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    path = tmp_path / "store" / "sha256" / digest[:2] / digest
    path.parent.mkdir(parents=True)
    path.write_bytes(PAYLOAD)
    return tmp_path / "store"


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
async def running(database_url, pool, tmp_path, session):
    """A rollout under way: one node has staged it, the ledger tells so, and events still wait in the inbox."""
    async with pool.acquire() as connection:
        await pretend_analysis_keeps_up(connection)
        world = await make_world(connection, payload=PAYLOAD)
    async with update_check_on(database_url, tmp_path / "spool-before") as url:
        node = Node(session, url)
        assert (await node.poll()).offered
        await node.stage()
        await move_all(database_url)
        late = Node(session, url)
        assert (await late.poll()).offered
    return world, node


@pytest.fixture
async def token(database_url) -> str:
    return await keep_token(database_url, name="operator", role=Role.ADMIN)


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
async def test_a_restored_uneventful_goes_on_with_its_rollout(
    *, name, running, database_url, empty_database_url, store, tmp_path, session, token
):
    """Into an empty place: the ledger verifies, the operator's token works, nodes finish what they began."""
    world, node = running
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "signing.key").write_bytes(b"secret")
    place = tmp_path / name
    told = []
    await create(
        place,
        database_url=database_url,
        store=store,
        files={"keys/signing.key": keys / "signing.key"},
        settings={},
        on_progress=told.append,
    )
    assert {"database", "payloads"} <= {progress.what for progress in told}
    elsewhere = tmp_path / "elsewhere"
    files = {"keys/signing.key": elsewhere / "keys" / "signing.key"}
    with open_backup(place) as backup:
        assert await restore(
            backup, database_url=empty_database_url, store=elsewhere / "store", files=files, dry_run=True
        ) is None  # fmt: skip
        assert not elsewhere.exists()
        done = await restore(backup, database_url=empty_database_url, store=elsewhere / "store", files=files)
        with pytest.raises(Conflict, match="not empty"):
            await restore(backup, database_url=empty_database_url, store=None, files={})
        with pytest.raises(Conflict, match="has payloads already"):
            await restore(backup, database_url=database_url, store=elsewhere / "store", files={})
        with pytest.raises(Conflict, match="is there already"):
            await restore(backup, database_url=database_url, store=None, files=files)
    assert (done.payloads, done.files) == (1, 1)
    assert done.verified > 0
    assert (elsewhere / "keys" / "signing.key").read_bytes() == b"secret"
    assert (elsewhere / "store" / "sha256" / world.sha256[:2] / world.sha256).read_bytes() == PAYLOAD

    control = TestServer(make_control(ControlSettings(database_url=Secret(empty_database_url))))
    await control.start_server(access_log=None)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(control.make_url(f"/api/v1/rollouts/{world.rollout_id}"), headers=headers) as answer:
            rollout = await answer.json()
        assert rollout["state"] == "running"
        assert sum(rollout["attempts"].values()) == 2
    finally:
        await control.close()

    async with update_check_on(empty_database_url, tmp_path / "spool-after") as url:
        node.url = url
        node.reboot(world.version)
        assert not (await node.poll()).offered
        fresh = Node(session, url)
        assert (await fresh.poll()).offered
    await move_all(empty_database_url)
    pool = await create_pool(empty_database_url, application_name="test", max_size=1)
    try:
        states = await pool.fetch("SELECT state, count(*) FROM fleet.attempts GROUP BY 1 ORDER BY 1")
        assert {row["state"]: row["count"] for row in states} == {"committed": 1, "offered": 2}
        head = await pool.fetchval("SELECT seq FROM event_log.head")
        assert head > done.verified
        committed = await pool.fetchval("SELECT count(*) FROM event_log.ledger WHERE type = 'update.committed.v1'")
        assert committed == 1
    finally:
        await pool.close()


async def test_a_ledger_of_many_partitions_is_restored(database_url, empty_database_url, pool, tmp_path):
    """Blocks of the ledger that migrations do not make are made before its rows come in."""
    await pool.execute("UPDATE event_log.head SET seq = 4999999")
    await pool.execute("SELECT event_log.ensure_partitions_v1(2)")
    await pool.execute("UPDATE event_log.head SET seq = 0")
    manifest = await create(tmp_path / "b", database_url=database_url, store=None, files={}, settings={})
    assert manifest.ledger_blocks == (0, 1, 2, 5, 6, 7)
    with open_backup(tmp_path / "b") as backup:
        await restore(backup, database_url=empty_database_url, store=None, files={})
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('event_log.ledger_000007') IS NOT NULL")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await connection.execute("TRUNCATE event_log.ledger_000007")
    finally:
        await connection.close()


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
async def test_a_damaged_backup_is_refused_before_anything_is_written(
    *, name, running, database_url, empty_database_url, store, tmp_path
):
    """A byte that changed, a file that is gone, a manifest of something else: all is checked first."""
    place = tmp_path / name
    manifest = await create(place, database_url=database_url, store=store, files={}, settings={})
    table = next(table for table in manifest.tables if table.name == "nodes")
    if place.is_dir():
        path = place / table.file
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    else:
        raw = bytearray(place.read_bytes())
        with tarfile.open(place) as tar:
            member = tar.getmember(table.file)
        raw[member.offset_data + member.size - 1] ^= 0xFF
        place.write_bytes(raw)
    with open_backup(place) as backup, pytest.raises(BackupDamaged, match=r"fleet\.nodes"):
        await restore(backup, database_url=empty_database_url, store=None, files={})
    connection = await asyncpg.connect(empty_database_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('migrations.applied')") is None
    finally:
        await connection.close()
    if place.is_dir():
        (place / table.file).unlink()
        with open_backup(place) as backup, pytest.raises(BackupDamaged, match="no whole backup"):
            check(backup)


async def test_a_backup_that_cannot_be_made_leaves_nothing(
    *, database_url, empty_database_url, store, tmp_path, running
):
    """Neither half a backup nor one over another."""
    world, _ = running
    (tmp_path / "taken").mkdir()
    where = {"database_url": database_url, "files": {}, "settings": {}}
    with pytest.raises(Conflict, match="there already"):
        await create(tmp_path / "taken", store=None, **where)
    with pytest.raises(NotFound, match="make it first"):
        await create(tmp_path / "no" / "where", store=None, **where)
    with pytest.raises(SchemaMismatch, match="not Uneventful's"):
        await create(tmp_path / "b", store=None, **{**where, "database_url": empty_database_url})
    payload = store / "sha256" / world.sha256[:2] / world.sha256
    payload.write_bytes(b"other")
    with pytest.raises(BackupDamaged, match="upload it again"):
        await create(tmp_path / "b", store=store, **where)
    payload.unlink()
    linked = await create(tmp_path / "b", store=store, link=True, **where)
    assert linked.missing == (world.sha256,)
    payload.write_bytes(PAYLOAD)
    await create(tmp_path / "c", store=store, link=True, **where)
    assert payload.stat().st_nlink == 2
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left == []


async def test_a_backup_of_another_schema_is_refused(database_url, tmp_path):
    """A newer schema asks for a newer version; a migration that is another one, for the version that made it."""
    manifest = await create(tmp_path / "b", database_url=database_url, store=None, files={}, settings={})
    path = tmp_path / "b" / "manifest.json"
    said = json.loads(path.read_bytes())
    newer = {"number": manifest.version + 1, "filename": "9999_pre_newer.sql", "sha256": "0" * 64}
    for change, words in [
        ({"migrations": [*said["migrations"], newer]}, "or newer"),
        ({"migrations": [{**said["migrations"][0], "sha256": "0" * 64}]}, "is another one"),
    ]:
        path.write_text(json.dumps({**said, **change}))
        with open_backup(tmp_path / "b") as backup, pytest.raises(SchemaMismatch, match=words):
            check(backup)


async def test_the_command_backs_up_checks_and_restores(*, running, database_url, empty_database_url, store, tmp_path):
    """As an operator uses it, with words and with JSON."""

    async def run(*arguments: str):
        return await asyncio.to_thread(CliRunner().invoke, cli, ["backup", *arguments])

    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "one.key").write_bytes(b"1")
    where = ("--database-url", database_url, "--store", str(store), "--keys", str(keys))
    made = await run("create", "--to", str(tmp_path / "b"), *where)
    assert made.exit_code == 0, made.output
    assert "1 payloads, 7 B; 1 files beside" in made.stdout
    checked = await run("check", str(tmp_path / "b"), "--json")
    assert json.loads(checked.stdout)["files"] == ["keys/one.key"]
    assert json.loads(checked.stdout)["ledger_seq"] > 0
    apart = await run("create", "--to", str(tmp_path / "apart"), *where, "--without-keys", "--json")
    assert json.loads(apart.stdout)["files"] == []
    again = await run("create", "--to", str(tmp_path / "b"), *where, "--json")
    assert again.exit_code == 1
    assert json.loads(again.stderr)["code"] == "conflict"
    new = ("--database-url", empty_database_url, "--store", str(tmp_path / "s"), "--keys", str(tmp_path / "k"))
    assert "nothing was written" in (await run("restore", str(tmp_path / "b"), "--dry-run", *new)).stdout
    restored = await run("restore", str(tmp_path / "b"), *new)
    assert restored.exit_code == 0, restored.output
    assert "The ledger holds" in restored.stdout
    assert (tmp_path / "k" / "one.key").read_bytes() == b"1"
    nothing = await run("check", str(tmp_path / uuid.uuid4().hex))
    assert (nothing.exit_code, "no backup" in nothing.stderr) == (1, True)
    (tmp_path / "no.tar").write_bytes(b"no tar")
    assert "no tar file" in (await run("check", str(tmp_path / "no.tar"))).stderr
    (keys / "a b").write_bytes(b"")
    assert "does not keep" in (await run("create", "--to", str(tmp_path / "c"), *where)).stderr


@pytest.fixture
def directory():
    """One that other users may pass through."""
    made = Path(tempfile.mkdtemp(prefix="uneventful-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.processes
async def test_what_up_keeps_is_backed_up_and_restored(directory, database_url):
    """By its data directory alone, also where it does not run; the token of its operator goes along."""
    data, new, place = directory / "data", directory / "new", directory / "b.tar"

    async def run(*arguments: str):
        return await asyncio.to_thread(CliRunner().invoke, cli, [*arguments])

    assert "holds no `uneventful up`" in (
        await run("--data", str(data), "backup", "create", "--to", str(place))
    ).stderr  # fmt: skip
    data.mkdir(mode=0o711)
    server = PostgresServer(data / "postgres", port=free_ports(1)[0], durable=False)
    await server.start()
    try:
        await server.create_database("uneventful")
        await migrate(server.url("uneventful"))
    finally:
        await server.stop()
    (data / "token").write_text("une_secret")
    made = await run("--data", str(data), "backup", "create", "--to", str(place))
    assert made.exit_code == 0, made.output
    assert (
        "holds an `uneventful up` already" in (await run("--data", str(data), "backup", "restore", str(place))).stderr
    )
    assert "nothing was written" in (await run("--data", str(new), "backup", "restore", "--dry-run", str(place))).stdout
    assert not new.exists()
    restored = await run("--data", str(new), "backup", "restore", str(place))
    assert restored.exit_code == 0, restored.output
    assert (new / "token").read_text() == "une_secret"
    assert (new / "postgres" / "pgdata" / "PG_VERSION").exists()
    with (data / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (data / "run" / "database.url").write_text(database_url + "\n")
        running = await run("--data", str(data), "backup", "create", "--to", str(directory / "c"))
        assert running.exit_code == 0, running.output
