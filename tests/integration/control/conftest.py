"""Control as a real server, an operator who talks to it, and nodes as rows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import aiohttp
import asyncpg
import pytest
import structlog
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from services.cli.__main__ import cli
from services.control.__main__ import keep_token
from services.control.app import make_app
from services.control.routes import STORE
from services.control.settings import Settings
from services.control.store import Store
from services.control.tokens import Role
from services.distribution.app import make_app as make_distribution
from services.distribution.settings import Settings as DistributionSettings
from shared.domain.identity import node_id_for
from shared.settings import Secret
from tests.integration.control.contract import check

API = "/api/v1"
ACTED = "operator.acted.v1"
SHA1 = "2jmj7l5rSw0yVb/vlWAYkK/YBwk="


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: Any

    def ok(self) -> Any:
        assert self.status in (200, 201), (self.status, self.body)
        return self.body

    def refused(self, status: int, code: str) -> str:
        """The detail of a problem with this status and code."""
        assert (self.status, self.body["code"]) == (status, code), self.body
        assert self.headers["Content-Type"] == "application/problem+json"
        return self.body["detail"]


class Operator:
    """Talks to control with a token."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self.session = session
        self.url = url
        self.token = token

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        **query: Any,
    ) -> Answer:
        headers = {**headers} | ({} if self.token is None else {"Authorization": f"Bearer {self.token}"})
        if raw is not None:
            headers["Content-Type"] = "application/json"
        async with self.session.request(
            method,
            self.url + API + path,
            json=body,
            data=raw,
            headers=headers,
            params={name: str(value) for name, value in query.items()},
        ) as answer:
            content = await answer.json(content_type=None)
            media_type = answer.headers.get("Content-Type", "")
            dry_run = str(query.get("dry_run", "")).lower() in ("true", "1")
            check(method, answer.url.raw_path, answer.status, media_type, content, dry_run=dry_run)
            return Answer(answer.status, content, answer.headers)

    async def get(self, path: str, **query: Any) -> Any:
        return (await self.ask("GET", path, **query)).ok()

    async def post(self, path: str, body: Any) -> Any:
        return (await self.ask("POST", path, body)).ok()

    # What most tests begin with

    async def changeset(self, version: str, *, app: str = "os", arch: str = "x86_64", publish: bool = True) -> str:
        made = await self.post("/changesets", {"application": app, "version": version, "arch": arch})
        changeset_id = made["changeset_id"]
        digest = uuid.uuid5(uuid.NAMESPACE_DNS, version + arch).hex * 2
        await self.post(
            f"/changesets/{changeset_id}/payloads",
            {"name": "update.gz", "sha256": digest, "sha1_base64": SHA1, "size": 1234},
        )
        if publish:
            await self.post(f"/changesets/{changeset_id}/publish", {})
        return changeset_id

    async def channel(self, name: str = "stable", *, app: str = "os", arch: str = "x86_64") -> str:
        # The least stable position: by Flatcar's scheme the tests' x.0.0 are alphas.
        asked = {"application": app, "name": name, "arch": arch, "position": 0}
        return (await self.post("/channels", asked))["channel_id"]

    async def group(self, name: str = "all", *, app: str = "os", channel: str = "stable", **more: Any) -> str:
        return (await self.post("/groups", {"application": app, "name": name, "channel": channel, **more}))["group_id"]

    async def promote(self, channel_id: str, changeset_id: str) -> list[str]:
        return (await self.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id}))["rollouts"]


@dataclass(frozen=True)
class Control:
    """A running control."""

    url: str
    token: str
    store: Store


@pytest.fixture
async def control(database_url) -> AsyncIterator[Control]:
    """Control on the test's database; its own look at rollouts is rare, tests call it."""
    settings = Settings(database_url=Secret(database_url), conduct_every_s=3600, token_cache_s=0)
    server = TestServer(app := make_app(settings))
    await server.start_server(access_log=None)
    token = await keep_token(database_url, name="operator", role=Role.ADMIN)
    try:
        yield Control(str(server.make_url("")).rstrip("/"), token, app[STORE])
    finally:
        await server.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def operator_at(session):
    """Makes an operator for a URL and a token."""
    return lambda url, token: Operator(session, url, token)


@pytest.fixture
async def operator(control, operator_at) -> Operator:
    """An admin."""
    return operator_at(control.url, control.token)


@pytest.fixture
async def app(operator) -> dict[str, Any]:
    """The application ``os``."""
    return await operator.post("/applications", {"name": "os", "omaha_id": "{E96281A6-D1AF-4BDE-9A0A-97B76E56DC57}"})


@pytest.fixture
def store(control) -> Store:
    return control.store


class Fleet:
    """Nodes and attempts, written as update_check's functions would."""

    def __init__(self, pool: asyncpg.Pool[Any], application_id: str) -> None:
        self.pool = pool
        self._application_id = uuid.UUID(application_id)

    async def node(
        self,
        name: str,
        group_id: str,
        version: str,
        *,
        arch: str | None = "x86_64",
        silent_for_s: float = 0,
        **more: Any,
    ) -> uuid.UUID:
        node_id = node_id_for(self._application_id, name)
        heard = datetime.now(UTC) - timedelta(seconds=silent_for_s)
        await self.pool.execute(
            """INSERT INTO fleet.nodes (node_id, application_id, machine_id, group_id, version, arch, boot_id,
                                        boot_seen_at, first_seen_at, last_contact_at, cloned, facts, address)
               VALUES ($1, $2, $3, $4, $5, $6, 'boot-1', $7, $7, $7, $8, $9, '192.0.2.7')""",
            node_id,
            self._application_id,
            name,
            uuid.UUID(group_id),
            version,
            arch,
            heard,
            more.get("cloned", False),
            more.get("facts", {}),
        )
        return node_id

    async def runs(self, node_id: uuid.UUID, version: str) -> None:
        await self.pool.execute("UPDATE fleet.nodes SET version = $2 WHERE node_id = $1", node_id, version)

    async def attempt(self, node_id: uuid.UUID, rollout_id: str, state: str = "offered") -> uuid.UUID:
        attempt_id = uuid.uuid4()
        closed = state in ("committed", "rolled_back", "failed", "presumed_lost", "recalled")
        await self.pool.execute(
            """INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id,
                                           group_id, arch, from_version, to_version, state, boot_id, granted_at,
                                           changed_at, closed_at)
               SELECT $1, $2, $3, r.application_id, r.changeset_id, r.rollout_id, r.group_id, r.arch, '1.0.0',
                      c.version, $5, 'boot-1', now(), now(), CASE WHEN $6 THEN now() END
                 FROM control.rollouts r JOIN control.changesets c USING (changeset_id) WHERE r.rollout_id = $4""",
            attempt_id,
            attempt_id.hex,
            node_id,
            uuid.UUID(rollout_id),
            state,
            closed,
        )
        await self.pool.execute("UPDATE fleet.nodes SET last_attempt_id = $2 WHERE node_id = $1", node_id, attempt_id)
        return attempt_id

    async def close(self, attempt_id: uuid.UUID, state: str) -> None:
        await self.pool.execute(
            "UPDATE fleet.attempts SET state = $2, closed_at = now() WHERE attempt_id = $1", attempt_id, state
        )

    async def quarantine(self, node_id: uuid.UUID, changeset_id: str) -> None:
        await self.pool.execute(
            "INSERT INTO fleet.quarantine (node_id, changeset_id, reason) VALUES ($1, $2, 'reported')",
            node_id,
            uuid.UUID(changeset_id),
        )


@pytest.fixture
def fleet(pool, app) -> Fleet:
    return Fleet(pool, app["application_id"])


@pytest.fixture
def fleet_of(pool):
    """Writes a node of a group."""

    async def node(group: dict[str, Any], name: str, version: str) -> uuid.UUID:
        return await Fleet(pool, group["application_id"]).node(name, group["group_id"], version)

    return node


@pytest.fixture
def events(pool):
    """Types of the events in the inbox, in the order in which they were appended; who acted only where asked for."""

    async def read(*prefixes: str) -> list[str]:
        rows = await pool.fetch("SELECT type FROM event_log.inbox ORDER BY position")
        types = [row["type"] for row in rows]
        return [name for name in types if name.startswith(prefixes or "") and (prefixes or name != ACTED)]

    return read


@pytest.fixture
async def viewer(control, session, database_url) -> Operator:
    """Somebody who may only look."""
    return Operator(session, control.url, await keep_token(database_url, name="guest", role=Role.VIEWER))


def _mind_ctrl_c() -> None:
    """Where tests run in the background of a script, SIGINT is ignored, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Terminal:
    """Runs the command beside the event loop, like another process."""

    options: tuple[str, ...]

    async def run(self, *arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, [*self.options, *arguments])

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """As a process of its own: in one process only one command can have the terminal."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("UNEVENTFUL_")}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *self.options, *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ, preexec_fn=_mind_ctrl_c,
        )  # fmt: skip

    async def json(self, *arguments: str) -> Any:
        result = await self.run(*arguments, "--json")
        assert result.exit_code == 0, (arguments, result.output)
        return json.loads(result.stdout)

    async def text(self, *arguments: str) -> str:
        result = await self.run(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
        return result.stdout

    async def fails(self, status: int, *arguments: str) -> str:
        result = await self.run(*arguments)
        assert result.exit_code == status, (arguments, result.output)
        assert result.stdout == ""
        return result.stderr


@pytest.fixture
def quiet_services():
    """The services run beside the command in one process here: their logs are not its output."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def terminal_with():
    """Makes a terminal that is used with some options."""
    return lambda *options: Terminal(options)


@pytest.fixture
async def distribution(database_url, tmp_path):
    """A real distribution."""
    settings = DistributionSettings(database_url=Secret(database_url), store_dir=str(tmp_path / "store"))
    server = TestServer(make_distribution(settings))
    await server.start_server(access_log=None)
    yield str(server.make_url("")).rstrip("/")
    await server.close()


@pytest.fixture
async def terminal(control, distribution, tmp_path, quiet_services) -> Terminal:
    """An operator's terminal, which finds the services as it finds a running `up`."""
    (tmp_path / "token").write_text(control.token + "\n")
    services = {"control": {"url": control.url}, "distribution": {"url": distribution}}
    (tmp_path / "ready.json").write_text(
        json.dumps({"services": services, "token_file": str(tmp_path / "token"), "version": "more than we read"})
    )
    return Terminal(("--data", str(tmp_path)))
