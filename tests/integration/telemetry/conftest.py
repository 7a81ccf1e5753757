"""An application, a changeset on its way to nodes, and a running telemetry service."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp.test_utils import TestClient, TestServer

from services.telemetry.app import make_app
from services.telemetry.settings import Settings
from shared.domain.identity import node_id_for
from shared.settings import Secret


@dataclass(frozen=True)
class Fleet:
    """Nodes ``m0``, ``m1``, ... on 1.0, each with an open attempt at 2.0, offered in boot ``b0``."""

    application_id: uuid.UUID
    changeset_id: uuid.UUID
    granted_at: datetime
    name: str = "flatcar"

    def node_id(self, number: int) -> uuid.UUID:
        return node_id_for(self.application_id, f"m{number}")

    def report(self, number: int, kind: str, *, seconds: float = 0, **changes) -> dict:
        """A report of a node, so many seconds after its grant; what comes after the reboot says so."""
        rebooted = kind in {"booted", "committed"}
        return {
            "event_id": str(uuid.uuid4()),
            "machine_id": f"m{number}",
            "application": self.name,
            "kind": kind,
            "version": "2.0" if rebooted else "1.0",
            "boot_id": "b1" if rebooted or kind == "rolled_back" else "b0",
            "at": (self.granted_at + timedelta(seconds=seconds)).isoformat(),
            "facts": {"platform": "ami", "site": "fra1"},
            **changes,
        }


SEED = """
WITH a AS (INSERT INTO control.applications (application_id, name, omaha_id) VALUES ($1, 'flatcar', $1::uuid::text)),
c AS (INSERT INTO control.changesets (changeset_id, application_id, version, arch, kind, state)
      VALUES ($2, $1, '2.0', 'amd64', 'image', 'published'))
SELECT 1
"""
NODES = """
WITH n AS (
  INSERT INTO fleet.nodes (node_id, application_id, machine_id, version, arch, boot_id, boot_seen_at, facts,
                           first_seen_at, last_contact_at, last_attempt_id)
  SELECT u.node_id, $1, u.machine_id, '1.0', 'amd64', 'b0', $5::timestamptz - interval '1 h', '{}', $5, $5, u.attempt_id
    FROM unnest($3::uuid[], $4::text[], $6::uuid[]) AS u(node_id, machine_id, attempt_id))
INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id, group_id, arch,
                            from_version, to_version, state, boot_id, granted_at, changed_at)
SELECT u.attempt_id, md5(u.attempt_id::text), u.node_id, $1, $2, gen_random_uuid(), gen_random_uuid(), 'amd64',
       '1.0', '2.0', 'offered', 'b0', $5, $5
  FROM unnest($3::uuid[], $4::text[], $6::uuid[]) AS u(node_id, machine_id, attempt_id)
"""


@pytest.fixture
def grow(pool):
    """What makes a fleet: call it with the number of nodes, and await it."""

    async def of(count: int, pool=pool) -> Fleet:
        fleet = Fleet(uuid.uuid4(), uuid.uuid4(), datetime.now(UTC) - timedelta(minutes=10))
        await pool.execute(SEED, fleet.application_id, fleet.changeset_id)
        await pool.execute(
            NODES,
            fleet.application_id,
            fleet.changeset_id,
            [fleet.node_id(i) for i in range(count)],
            [f"m{i}" for i in range(count)],
            fleet.granted_at,
            [uuid.uuid4() for _ in range(count)],
        )
        return fleet

    return of


@pytest.fixture
def overrides() -> dict[str, object]:
    """Settings that a test changes."""
    return {}


@pytest.fixture
async def client(database_url, overrides) -> AsyncIterator[TestClient]:
    """A client of a telemetry service on the test's database."""
    settings = Settings(database_url=Secret(database_url), **overrides)
    async with TestClient(TestServer(make_app(settings), access_log=None, auto_decompress=False)) as client:
        yield client
