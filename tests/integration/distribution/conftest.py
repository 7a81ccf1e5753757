"""A published payload, an admin's token, and a running distribution service."""

from __future__ import annotations

import base64
import hashlib
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from services.distribution.app import make_app
from services.distribution.settings import Settings
from shared.settings import Secret

ADMIN = "admin-token-of-this-test"
VIEWER = "viewer-token-of-this-test"


@dataclass(frozen=True)
class Published:
    """A changeset with one payload, and an open attempt at it."""

    content: bytes
    sha256: str
    changeset_id: uuid.UUID
    token: str
    name: str = "update.gz"

    @property
    def path(self) -> str:
        return f"/payloads/{self.sha256}/{self.name}"

    @property
    def token_path(self) -> str:
        return f"/payloads/{self.sha256}/{self.token}/{self.name}"

    @property
    def etag(self) -> str:
        return f'"{self.sha256}"'


async def _publish(pool: asyncpg.Pool, content: bytes, *, version: str = "2.0", application_id=None) -> Published:
    """Write the rows that control and update_check would write."""
    sha256 = hashlib.sha256(content).hexdigest()
    changeset_id, token = uuid.uuid4(), uuid.uuid4().hex
    application_id = application_id or uuid.uuid4()
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO control.applications (application_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            application_id,
            f"app {application_id}",
        )
        await connection.execute(
            "INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state, published_at) "
            "VALUES ($1, $2, $3, 'amd64', 'image', 'published', now())",
            changeset_id,
            application_id,
            version,
        )
        await connection.execute(
            "INSERT INTO control.changeset_gates (changeset_id, pace) VALUES ($1, 10)", changeset_id
        )
        await connection.execute(
            "INSERT INTO control.payloads (changeset_id, position, role, name, sha256, sha1_base64, size) "
            "VALUES ($1, 0, 'main', 'update.gz', $2, $3, $4)",
            changeset_id,
            sha256,
            base64.b64encode(hashlib.sha1(content).digest()).decode(),  # noqa: S324  # Omaha's hash
            len(content),
        )
        await connection.execute(
            "INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id, "
            "group_id, arch, from_version, to_version, state, boot_id, granted_at, changed_at) VALUES "
            "(gen_random_uuid(), $1, gen_random_uuid(), $2, $3, gen_random_uuid(), gen_random_uuid(), "
            "'amd64', '1.0', $4, 'offered', 'b', now(), now())",
            token,
            application_id,
            changeset_id,
            version,
        )
        await connection.execute("SELECT control.raise_policy_version_v1()")
    return Published(content, sha256, changeset_id, token)


def _put_in_store(store: Path, content: bytes) -> Path:
    """Lay a payload into a store as an upload would."""
    digest = hashlib.sha256(content).hexdigest()
    path = store / "sha256" / digest[:2] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def publish(pool):
    """What publishes a payload as control would: call it with the content, and await it."""

    async def with_pool(content: bytes, **arguments) -> Published:
        return await _publish(pool, content, **arguments)

    return with_pool


@pytest.fixture
def put_in_store(store_dir):
    """What lays a payload into the store as an upload would: call it with the content."""
    return lambda content: _put_in_store(store_dir, content)


@pytest.fixture
async def tokens(pool) -> None:
    """An admin's and a viewer's token."""
    for name, token, role in (("ada", ADMIN, "admin"), ("vic", VIEWER, "viewer")):
        await pool.execute(
            "INSERT INTO control.tokens (name, token_sha256, role) VALUES ($1, $2, $3)",
            name,
            hashlib.sha256(token.encode()).digest(),
            role,
        )


@pytest.fixture
def admin() -> dict[str, str]:
    """Headers of an admin."""
    return {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture
def viewer() -> dict[str, str]:
    """Headers of somebody who may only look."""
    return {"Authorization": f"Bearer {VIEWER}"}


@pytest.fixture
def store_dir(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def published(pool, store_dir) -> Published:
    """A published payload of 100,003 bytes, in the store."""
    content = random.Random(1).randbytes(100_003)
    _put_in_store(store_dir, content)
    return await _publish(pool, content)


@pytest.fixture
def overrides() -> dict[str, object]:
    """Settings that a test changes."""
    return {}


@pytest.fixture
async def client(database_url, store_dir, tokens, overrides) -> AsyncIterator[TestClient]:
    """A client of a distribution service on the test's database and store."""
    settings = Settings(database_url=Secret(database_url), store_dir=str(store_dir), **overrides)
    async with TestClient(TestServer(make_app(settings), access_log=None, auto_decompress=False)) as client:
        yield client
