"""What the end-to-end tests share: a running `uneventful up`, an operator, nodes of their own, and the accounts."""

# ruff: noqa: ASYNC240  # a test holds nobody up
from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import aiohttp
import asyncpg
import msgspec
import orjson
import psutil

from services.cli.client import Client
from services.cli.payload_file import read_payload_file
from services.cli.target import Options, find_target
from services.simulator.fates import FleetPlan
from services.simulator.fleet import Fleet
from services.simulator.node import Span, Timing
from services.simulator.statistics import AcknowledgedReport
from services.simulator.wire import Envelope, Identity, event_previous_version
from services.standalone.processes import plain_environment, port_is_free, tail
from services.standalone.supervisor import Ready
from shared.db.pool import set_codecs

OMAHA_ID = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
OLD, NEW, NEWER = "3033.2.0", "3033.2.1", "3033.2.2"
PAYLOAD_BYTES = 256 * 1024
TIME_FACTOR = 600.0
"""45 minutes between polls become 4.5 s."""

# Deadlines are not scaled down as far as the nodes' lives: a busy machine must not make nodes look silent.
POLICY: Mapping[str, object] = {
    "poll_interval_s": 2_700.0 / TIME_FACTOR,
    "contact_overdue_s": 30.0,
    "silence_deadline_s": 90.0,
    "offer_deadline_s": 300.0,
    "retry_after_s": 0.5,
    "max_attempts": 20,
}
QUICK_TICKS = ("--set", "event_log.TICK_SECONDS=1", "--set", "update_check.REBOOT_AWAITED_EVERY_S=2")


async def until(
    condition: Callable[[], bool], what: str, *, seconds: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Poll until ``condition``; fail at the deadline, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}\n{explain()}")
        await asyncio.sleep(0.05)


def is_there(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended and waits for its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_base_port() -> int:
    """A port from which on all that `up` needs are free, below those that the kernel gives out by itself."""
    while True:
        base = random.randrange(20_000, 32_000, 30)
        if all(port_is_free(base + offset) for offset in range(30)):
            return base


class Up:
    """One `uneventful up` on data below ``directory``."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.data = directory / "data"
        self.ready_file = directory / "ready.json"
        self.output = directory / "output"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.standalone"),
                    *("--data", self.data, "--base-port", "0", "--ready-file", self.ready_file),
                    *options,
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=plain_environment(os.environ),
            )

    async def serve(self, *, seconds: float = 90.0) -> Ready:
        await until(
            lambda: self.ready_file.exists() or self.process.poll() is not None,
            "everything serves",
            seconds=seconds,
            explain=self.logs,
        )
        assert self.ready_file.exists(), f"`up` ended with {self.process.returncode}\n{self.logs()}"
        return self.ready

    @property
    def ready(self) -> Ready:
        """What runs now, by the ready file."""
        return msgspec.json.decode(self.ready_file.read_bytes(), type=Ready)

    def pid(self, name: str) -> int:
        """Of a service, of ``postgres`` (the postmaster) or of ``rabbitmq`` (the Erlang machine)."""
        ready = self.ready
        if name == "postgres":
            return ready.postgres.pid
        if name == "rabbitmq":
            assert ready.rabbitmq is not None
            return ready.rabbitmq.pid
        return ready.services[name].pid

    def kill(self, name: str) -> int:
        """``kill -9``; returns the pid that it was."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def is_back(self, name: str, *, instead_of: int, seconds: float = 60.0) -> None:
        """Wait until `up` runs ``name`` again in another process."""
        await until(lambda: self.pid(name) != instead_of, f"{name} runs again", seconds=seconds, explain=self.logs)

    @contextlib.contextmanager
    def stopped(self, name: str):
        """SIGSTOP inside, SIGCONT at the end: not dead, but it does nothing."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGCONT)

    def family(self) -> list[psutil.Process]:
        owner = psutil.Process(self.process.pid)
        return [owner, *owner.children(recursive=True)]

    async def stop(self) -> float:
        """SIGTERM; returns the seconds until it had ended."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await until(lambda: self.process.poll() is not None, "`up` ends", seconds=30, explain=self.logs)
        return time.monotonic() - began

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def logs(self) -> str:
        """The end of what everything said, for a failure's message."""
        parts = [f"--- up\n{tail(self.output, 20)}"]
        parts += [f"--- {log.name}\n{tail(log, 8)}" for log in sorted((self.data / "log").glob("*.log"))]
        return "\n".join(line[:400] for part in parts for line in part.splitlines())

    async def database(self) -> asyncpg.Connection[Any]:
        connection = await asyncpg.connect(Path(self.ready.postgres.url_file).read_text().strip(), timeout=30)
        await set_codecs(connection)
        return connection


@contextlib.asynccontextmanager
async def running(directory: Path, *options: str) -> AsyncIterator[Up]:
    """`up` that serves; stopped at the end whatever happened. A failure inside gets the ends of all logs."""
    up = Up(directory, *options)
    try:
        await up.serve()
        yield up
    except BaseException as error:
        error.add_note(up.logs())
        raise
    finally:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(up.process.wait, 20)
            except subprocess.TimeoutExpired:
                up.process.kill()
                up.process.wait()


class Operator:
    """Who publishes and promotes: application flatcar, channel stable, group production."""

    def __init__(self, up: Up, client: Client) -> None:
        self.up = up
        self.client = client

    async def prepare(self, **policy: object) -> None:
        await self.client.post("/applications", {"name": "flatcar", "omaha_id": OMAHA_ID})
        await self.client.post("/channels", {"application": "flatcar", "name": "stable", "arch": "amd64"})
        await self.client.post(
            "/groups",
            {"application": "flatcar", "name": "production", "channel": "stable", "policy": {**POLICY, **policy}},
        )

    async def change_policy(self, **policy: object) -> None:
        await self.client.patch(f"/groups/{await self.client.group_id('production')}", {"policy": policy})

    async def publish(self, version: str) -> str:
        """A changeset with a payload of random bytes; returns its id."""
        path = self.up.data.parent / f"flatcar-{version}.gz"
        path.write_bytes(random.Random(version).randbytes(PAYLOAD_BYTES))
        payload = await asyncio.to_thread(read_payload_file, path)
        changeset = await self.client.post(
            "/changesets", {"application": "flatcar", "version": version, "arch": "amd64"}
        )
        await self.client.upload(path, sha256=payload.sha256, size=payload.size)
        await self.client.post(
            f"/changesets/{changeset['changeset_id']}/payloads",
            {
                "name": "flatcar_production_update.gz",
                "sha256": payload.sha256,
                "sha1_base64": payload.sha1_base64,
                "size": payload.size,
            },
        )
        await self.client.post(f"/changesets/{changeset['changeset_id']}/publish", {})
        return str(changeset["changeset_id"])

    async def promote(self, version: str) -> str:
        """Points the channel to it; returns the rollout's id."""
        channel_id = await self.client.channel_id("stable")
        await self.client.post(
            f"/channels/{channel_id}/promote",
            {"changeset": await self.client.changeset_id(version), "reason": "test"},
        )
        return await self.client.rollout_id("production")

    async def roll_out(self, version: str) -> str:
        await self.publish(version)
        return await self.promote(version)

    async def rollout(self, rollout_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.client.get(f"/rollouts/{rollout_id}")
        return found

    async def rollout_becomes(self, rollout_id: str, state: str, *, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (found := await self.rollout(rollout_id))["state"] != state:
            assert time.monotonic() < deadline, f"the rollout is not {state} within {seconds:g} s: {found}"
            await asyncio.sleep(0.2)
        return found

    async def knows(self, nodes: int, *, seconds: float = 60.0) -> None:
        """Wait until so many nodes are in the group: a rollout freezes its numbers when it is made."""
        deadline = time.monotonic() + seconds
        while (known := len(await self.client.items("/nodes", most=100_000))) < nodes:
            assert time.monotonic() < deadline, f"{known} of {nodes} nodes are known after {seconds:g} s"
            await asyncio.sleep(0.2)

    def fleet(self, nodes: int, plan: FleetPlan | None = None, *, seed: int = 1, **more: Any) -> Fleet:
        return Fleet(
            plan or FleetPlan(),
            self.up.ready.services["update_check"].url + "/v1/update/",
            nodes,
            seed,
            TIME_FACTOR,
            version=OLD,
            timing=Timing(prepare=Span(5, 30), install=Span(20, 60), reboot_after=Span(0, 300), reboot=Span(60, 180)),
            **more,
        )


@contextlib.asynccontextmanager
async def operating(up: Up) -> AsyncIterator[Operator]:
    async with Client(find_target(Options(ready_file=up.ready_file))) as client:
        yield Operator(up, client)


class Prober:
    """One node of its own that polls whenever it is told to."""

    def __init__(self, up: Up, session: aiohttp.ClientSession, machine_id: str) -> None:
        self._url = up.ready.services["update_check"].url + "/v1/update/"
        self._session = session
        identity = Identity(machine_id=machine_id, aleph_version=OLD)
        self._body = Envelope.of(identity, version=OLD, boot_id=str(uuid.UUID(int=int(machine_id, 16)))).check(
            event_previous_version("")
        )

    async def poll(self) -> tuple[int, str, str]:
        """HTTP status, the app's status and the update check's status."""
        async with self._session.post(self._url, data=self._body, timeout=aiohttp.ClientTimeout(total=30)) as answer:
            body = await answer.read()
        if answer.status != 200:
            return answer.status, "", body.decode(errors="replace")
        app = ET.fromstring(body).find("app")  # noqa: S314  # our own answer
        assert app is not None, body
        check = app.find("updatecheck")
        assert check is not None, body
        return answer.status, app.attrib["status"], check.attrib["status"]


@dataclass
class NativeAgent:
    """Posts reports to telemetry all the time, each again with the same ids until it is answered 202.

    Attributes:
        acknowledged: The ids of the reports that were.
        attempts: Posts in all.
        duplicates: Reports that telemetry said it had already.
    """

    url: str
    acknowledged: list[uuid.UUID] = field(default_factory=list)
    attempts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    _stopping: bool = False

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            number = 0
            while not self._stopping:
                number += 1
                reports = [_native_report(number, kind) for kind in ("download_started", "downloaded", "staged")]
                body = orjson.dumps({"reports": reports})
                accepted = await self._post_until_acknowledged(session, body)
                assert accepted["errors"] == []
                if number % 7 == 0:  # as if the answer had been lost
                    again = await self._post_until_acknowledged(session, body)
                    assert again["duplicates"] == len(reports), again
                self.acknowledged += [report["event_id"] for report in reports]
                await asyncio.sleep(0.02)  # its own pace

    async def _post_until_acknowledged(self, session: aiohttp.ClientSession, body: bytes) -> dict[str, Any]:
        while True:
            self.attempts += 1
            try:
                async with session.post(
                    self.url + "/v1/reports", data=body, headers={"Content-Type": "application/json"}
                ) as answer:
                    content = await answer.read()
                    if answer.status == 202:
                        said: dict[str, Any] = orjson.loads(content)
                        self.duplicates += said["duplicates"]
                        return said
                    assert answer.status == 503, content
                    self.refused[str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError) as fault:
                self.refused[type(fault).__name__] += 1
            await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[NativeAgent]:
        task = asyncio.create_task(self.run())
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.wait_for(task, 60)


def _native_report(number: int, kind: str) -> dict[str, Any]:
    return {
        "event_id": uuid.uuid4(),
        "machine_id": f"native-{number % 50}",
        "application": "flatcar",
        "kind": kind,
        "version": OLD,
        "boot_id": f"boot-{number % 50}",
        "at": datetime.now(UTC),
        "arch": "amd64",
    }


# The accounts: what must be true of the ledger, whatever was killed


@dataclass(frozen=True)
class Entry:
    seq: int
    event_id: uuid.UUID
    type: str
    data: Mapping[str, Any]


async def settled(connection: asyncpg.Connection[Any], *, seconds: float = 60.0) -> None:
    """Wait until all that was appended is in the ledger, and the analysis has judged it."""
    deadline = time.monotonic() + seconds
    wanted = None
    while True:
        waiting, head, judged = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM event_log.inbox WHERE type <> 'log.ticked.v1'), h.seq, f.seq"
            " FROM event_log.head h, event_log.followers f WHERE f.name = 'rollback_analysis'"
        )
        if waiting == 0 and wanted is None:
            wanted = head
        if wanted is not None and judged >= wanted:
            return
        assert time.monotonic() < deadline, f"{waiting} events in the inbox, ledger at {head}, judged up to {judged}"
        await asyncio.sleep(0.1)


async def ledger_of(connection: asyncpg.Connection[Any]) -> list[Entry]:
    rows = await connection.fetch("SELECT seq, event_id, type, event FROM event_log.ledger ORDER BY seq")
    return [Entry(row["seq"], row["event_id"], row["type"], orjson.loads(row["event"])["data"]) for row in rows]


def check_order(entries: list[Entry]) -> None:
    """Dense, and no event twice."""
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    twice = [event_id for event_id, count in Counter(entry.event_id for entry in entries).items() if count > 1]
    assert not twice


def check_counted_once(entries: Iterable[Entry]) -> None:
    """No event moved an attempt twice in the same way; every attempt was offered once and ended at most once."""
    applied: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        if entry.type.startswith("update.") and entry.data.get("attempt_id") and entry.data["applied"]:
            applied[entry.data["attempt_id"]][entry.type.split(".")[1]] += 1
    for attempt_id, kinds in applied.items():
        repeated = {kind for kind, count in kinds.items() if count > 1 and kind != "reboot_awaited"}
        assert not repeated, f"attempt {attempt_id} was moved more than once by {repeated}: {kinds}"
        assert kinds["offered"] == 1, f"attempt {attempt_id}: {kinds}"
        ends = [kind for kind in ("committed", "rolled_back", "failed", "recalled", "presumed_lost") if kinds[kind]]
        assert len(ends) <= 1, f"attempt {attempt_id} ended as {ends}"


async def check_attempts(connection: asyncpg.Connection[Any], entries: Iterable[Entry]) -> None:
    """The rows say what the ledger says: no grant without its event and none the other way round."""
    last: dict[str, str] = {}
    for entry in entries:
        if entry.type.startswith("update.") and entry.data.get("attempt_id") and entry.data["applied"]:
            last[entry.data["attempt_id"]] = entry.data.get("state_after", "")
    rows = {str(row[0]): row[1] for row in await connection.fetch("SELECT attempt_id, state FROM fleet.attempts")}
    assert rows == last


_KINDS = {("13", "1"): "download_started", ("14", "1"): "downloaded", ("3", "1"): "staged"}


def expected_types(event: str) -> set[str] | None:
    """The ledger types that an acknowledged Omaha event may have become; None where it says nothing of an attempt.

    An error that a node reports after its reboot tells by itself where the node is, and ends the attempt as that.
    """
    attributes = ET.fromstring(event).attrib  # noqa: S314  # our own simulator's
    key = attributes["eventtype"], attributes["eventresult"]
    if key in _KINDS:
        return {_KINDS[key]}
    if key == ("3", "2"):
        return {"committed"}
    if key == ("3", "0") and attributes.get("errorcode") == "44":
        return {"rolled_back"}
    if key == ("3", "0"):
        return {"failed", "committed", "rolled_back"}
    return None


async def check_acknowledged(
    connection: asyncpg.Connection[Any], entries: Iterable[Entry], reports: Iterable[AcknowledgedReport]
) -> int:
    """Every report that a node got a 200 for is in the ledger, under the attempt that it was about.

    Returns:
        How many were looked for.
    """
    tokens = {row["token"]: str(row["attempt_id"]) for row in await connection.fetch("SELECT * FROM fleet.attempts")}
    said: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for entry in entries:
        if entry.type.startswith("update."):
            where = (entry.data["machine_id"], entry.data.get("attempt_id", ""), entry.data.get("boot_id", ""))
            said[where].add(entry.type.split(".")[1])
    looked_for = 0
    missing = []
    for report in reports:
        kinds = expected_types(report.event)
        if kinds is None:
            continue
        looked_for += 1
        attempt_id = tokens[report.payload_url.rsplit("/", 2)[1]] if report.payload_url else ""
        if not said[report.machine_id, attempt_id, report.boot_id] & kinds:
            missing.append((report, attempt_id, sorted(said[report.machine_id, attempt_id, report.boot_id])))
    assert not missing, f"{len(missing)} of {looked_for} acknowledged reports are lost, the first: {missing[:3]}"
    return looked_for


async def check_evidence(
    connection: asyncpg.Connection[Any], entries: Iterable[Entry], changeset_id: str
) -> Mapping[str, Any]:
    """The analysis counted each node that booted the changeset once, and each that came back as bad once."""
    started, bad = set(), set()
    for entry in entries:
        if entry.data.get("changeset_id") == changeset_id and entry.data.get("applied"):
            if entry.type in ("update.booted.v1", "update.rolled_back.v1", "update.presumed_lost.v1"):
                started.add(entry.data["node_id"])
            if entry.type in ("update.rolled_back.v1", "update.presumed_lost.v1"):
                bad.add(entry.data["node_id"])
    view: Mapping[str, Any] = await connection.fetchval(
        "SELECT view FROM analysis.changesets WHERE changeset_id = $1", uuid.UUID(changeset_id)
    )
    assert (view["started"], view["bad"]) == (len(started), len(bad)), view
    return view


def replay(up: Up) -> Mapping[str, Any]:
    """Judge the ledger again, by the command for it."""
    done = subprocess.run(
        [sys.executable, "-m", "services.rollback_analysis", "replay"],
        env=plain_environment(os.environ) | {"UNEVENTFUL_DATABASE_URL_FILE": up.ready.postgres.url_file},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    said: Mapping[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    assert (done.returncode == 0) == said["equal"]
    return said
