"""What the demo does: a fleet of simulated nodes, a good release, a bad one; and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from services.cli.client import Client
from services.cli.errors import Refused
from services.cli.payload_file import read_payload_file
from services.cli.target import Options, find_target
from services.simulator.fates import Fate, FleetPlan
from services.simulator.fleet import Fleet
from services.simulator.node import Span, Timing
from services.simulator.statistics import FleetStatistics
from services.standalone.settings import Bus

OMAHA_ID: Final = "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
INSTALLED: Final = "3033.2.0"
GOOD: Final = "3033.2.1"
BAD: Final = "3033.2.2"
TIME_FACTOR: Final = 1_000.0
"""45 minutes between polls become 2.7 s."""
PAYLOAD_BYTES: Final = 4 * 1024 * 1024
START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 20.0

# The nodes live a thousand times faster than the machine that they run on, so deadlines of silence are not scaled
# down as far: a busy machine must not make a good release look silent.
POLICY: Final[Mapping[str, object]] = {
    "poll_interval_s": 2_700.0 / TIME_FACTOR,
    "contact_overdue_s": 20.0,
    "silence_deadline_s": 45.0,
    "offer_deadline_s": 120.0,
    "retry_after_s": 5.0,
    "concurrency": 100,
}

Show = Callable[["Scene"], None]


@dataclass(slots=True)
class Scene:
    """What is to be seen right now.

    Attributes:
        act: Which part of the story.
        rollout: Control's picture of the rollout that the act is about.
        statistics: The simulated fleet's own count.
    """

    act: str
    version: str = ""
    rollout: Mapping[str, Any] | None = None
    statistics: FleetStatistics | None = None


class GoodEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the good release went: nodes that committed it, that rolled back, and whether all live ones have it."""

    version: str
    committed: int
    rolled_back: int
    halted: bool
    complete: bool
    seconds: float


class BadEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How the bad release went.

    Attributes:
        nodes_exposed: Nodes that booted it.
        granted: Offers that were made.
        granted_after_halt: Offers that stand behind the halt in the ledger, or that a node got after it.
        report_to_halt_ms: From the report that decided to the halt's commit.
        report_to_first_refusal_ms: From that report to the first poll that was refused because of it.
    """

    version: str
    halted: bool
    nodes_exposed: int
    granted: int
    granted_after_halt: int
    rolled_back: int
    committed: int
    report_to_halt_ms: float | None
    report_to_first_refusal_ms: float | None
    reason: str | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The whole demo in numbers."""

    ok: bool
    nodes: int
    bad_rate: float
    seed: int
    good: GoodEnd
    bad: BadEnd
    events_in_ledger: int
    ledger_verified: bool
    bus: str
    seconds: float


@contextlib.asynccontextmanager
async def running(data: Path, say: Callable[[str], None], *, bus: Bus = Bus.AUTO) -> AsyncIterator[dict[str, Any]]:
    """Everything, started on free ports; what its ready file says. Stopped with SIGTERM at the end.

    Args:
        data: An empty directory for everything.
        say: Says one line.
        bus: Whether there is a broker.

    Raises:
        Refused: It did not start; the message has its last lines.
    """
    ready_file = data / "ready.json"
    log = data / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603, ASYNC220  # our own program; starting it takes milliseconds
            [
                sys.executable, "-m", "services.standalone", "--data", str(data), "--base-port", "0",
                "--ready-file", str(ready_file), "--bus", str(bus),
                "--set", "event_log.TICK_SECONDS=1",
                "--set", "update_check.REBOOT_AWAITED_EVERY_S=2",
            ],
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                how = "ended while starting" if process.poll() is not None else f"did not start in {START_SECONDS:g} s"
                raise Refused(f"`uneventful up` {how}:\n{tail}")
            await asyncio.sleep(0.1)
        ready: dict[str, Any] = orjson.loads(ready_file.read_bytes())
        broker = "a private RabbitMQ node" if ready["bus"] == "rabbitmq" else "no broker (services follow the ledger)"
        say(f"Everything runs: PostgreSQL, {broker}, {', '.join(ready['services'])}.")
        yield ready
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


async def play(
    *,
    data: Path,
    nodes: int,
    bad_rate: float,
    seed: int,
    show: Show,
    say: Callable[[str], None],
    bus: Bus = Bus.AUTO,
) -> Summary:
    """Run the story; ``show`` is called several times a second with what is to be seen.

    Args:
        data: An empty directory for everything.
        nodes: How many nodes.
        bad_rate: The share of nodes that the bad release makes roll back.
        seed: Fates, jitter and payloads.
        show: Draws a scene.
        say: Says one line.
        bus: Whether there is a broker.
    """
    began = time.monotonic()
    say("Starting PostgreSQL, the broker and six services in a directory of their own ...")
    async with running(data, say, bus=bus) as ready, contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(find_target(Options(ready_file=data / "ready.json"))))
        say(f"Publishing {INSTALLED} with a payload of {PAYLOAD_BYTES // 2**20} MiB, channel stable, group production.")
        await client.post("/applications", {"name": "flatcar", "omaha_id": OMAHA_ID})
        await client.post("/channels", {"application": "flatcar", "name": "stable", "arch": "amd64"})
        await _publish(client, data, INSTALLED, seed)
        await client.post(
            "/groups",
            {"application": "flatcar", "name": "production", "channel": "stable", "policy": dict(POLICY)},
        )
        await _promote(client, INSTALLED)
        plan = FleetPlan({BAD: {Fate.ROLLS_BACK: bad_rate}})
        fleet = await stack.enter_async_context(
            Fleet(
                plan,
                ready["services"]["update_check"]["url"] + "/v1/update/",
                nodes,
                seed,
                TIME_FACTOR,
                version=INSTALLED,
                timing=Timing(
                    prepare=Span(5, 30), install=Span(20, 60), reboot_after=Span(0, 300), reboot=Span(60, 180)
                ),
            )
        )
        theatre = _Theatre(client, fleet, show)
        say(f"{nodes} nodes boot with {INSTALLED} and begin to poll, {TIME_FACTOR:g} times faster than real ones.")
        await theatre.until("nodes join", lambda: theatre.known_nodes >= nodes, 60.0)
        good = await _good_act(theatre, data, nodes, seed, say)
        bad = await _bad_act(theatre, data, seed, say)
        verified = await client.get("/ledger/verify")
        head = (await client.get("/ledger"))["seq"]
        return Summary(
            ok=good.complete and not good.halted and bad.halted and bad.granted_after_halt == 0 and verified["ok"],
            nodes=nodes,
            bad_rate=bad_rate,
            seed=seed,
            good=good,
            bad=bad,
            events_in_ledger=head,
            ledger_verified=bool(verified["ok"]),
            bus=ready["bus"],
            seconds=round(time.monotonic() - began, 1),
        )


async def _good_act(theatre: _Theatre, data: Path, nodes: int, seed: int, say: Callable[[str], None]) -> GoodEnd:
    say(f"Promoting {GOOD}, a good release.")
    began = time.monotonic()
    await _publish(theatre.client, data, GOOD, seed + 1)
    theatre.rollout_id = await _promote(theatre.client, GOOD)
    statistics = theatre.fleet.statistics
    complete = await theatre.until(
        f"{GOOD} goes out", lambda: statistics.running[GOOD] >= nodes or theatre.halted, 100.0, version=GOOD
    )
    await theatre.until(
        f"{GOOD} goes out", lambda: theatre.attempts("committed") >= nodes or theatre.halted, 20.0, version=GOOD
    )
    return GoodEnd(
        version=GOOD,
        committed=theatre.attempts("committed"),
        rolled_back=theatre.attempts("rolled_back"),
        halted=theatre.halted,
        complete=complete and theatre.attempts("committed") >= nodes,
        seconds=round(time.monotonic() - began, 1),
    )


async def _bad_act(theatre: _Theatre, data: Path, seed: int, say: Callable[[str], None]) -> BadEnd:
    say(f"Promoting {BAD}, which makes some of its nodes roll back.")
    client, statistics = theatre.client, theatre.fleet.statistics
    await _publish(client, data, BAD, seed + 2)
    theatre.rollout_id = await _promote(client, BAD)
    await theatre.until(f"{BAD} goes out", lambda: theatre.halted or theatre.completed, 60.0, version=BAD)
    moments = await _halt_moments(client)
    if moments is not None:
        # A node that ran the release before, asked after the halt and was refused.
        await theatre.until(
            f"{BAD} is halted",
            lambda: statistics.first_held_after(moments[1], running=GOOD) is not None,
            20.0,
            version=BAD,
        )
        # The nodes that were under way when it was halted come home.
        # The analysis hears of the last ones a moment later.
        await theatre.until(
            f"{BAD} is halted",
            lambda: theatre.in_flight == 0 and theatre.started >= theatre.attempts("committed", "rolled_back"),
            30.0,
            version=BAD,
        )
    refusal = statistics.first_held_after(moments[1], running=GOOD) if moments is not None else None
    in_ledger = await _offers_after_halt(client)
    served = len(statistics.granted_after(moments[1], BAD)) if moments is not None else 0
    counts = statistics.by_version[BAD]
    return BadEnd(
        version=BAD,
        halted=theatre.halted,
        nodes_exposed=theatre.started,
        granted=counts.granted,
        granted_after_halt=max(in_ledger, served),
        rolled_back=theatre.attempts("rolled_back"),
        committed=theatre.attempts("committed"),
        report_to_halt_ms=_milliseconds(moments[0], moments[1]) if moments is not None else None,
        report_to_first_refusal_ms=_milliseconds(moments[0], refusal.answered_at)
        if moments is not None and refusal is not None
        else None,
        reason=theatre.rollout["reason"] if theatre.rollout is not None else None,
    )


class _Theatre:
    """Looks at control and at the fleet several times a second until something is so."""

    def __init__(self, client: Client, fleet: Fleet, show: Show) -> None:
        self.client = client
        self.fleet = fleet
        self.rollout_id: str | None = None
        self.rollout: dict[str, Any] | None = None
        self.known_nodes = 0
        self._show = show

    @property
    def halted(self) -> bool:
        return self.rollout is not None and self.rollout["state"] == "halted"

    @property
    def completed(self) -> bool:
        return self.rollout is not None and self.rollout["state"] == "completed"

    @property
    def in_flight(self) -> int:
        return int(self.rollout["changeset_in_flight"]) if self.rollout is not None else 0

    @property
    def started(self) -> int:
        evidence = self.rollout["evidence"] if self.rollout is not None else None
        return int(evidence["started"]) if evidence is not None else 0

    def attempts(self, *states: str) -> int:
        return sum(int(self.rollout["attempts"].get(state, 0)) for state in states) if self.rollout is not None else 0

    async def until(self, act: str, done: Callable[[], bool], seconds: float, *, version: str = "") -> bool:
        """Show what happens until ``done``; False at the deadline."""
        deadline = time.monotonic() + seconds
        while True:
            await self._look()
            self._show(Scene(act, version, self.rollout, self.fleet.statistics))
            if done():
                return True
            if time.monotonic() > deadline:
                return False
            # The fleet raises here if one of its tasks broke.
            await self.fleet.run_until(lambda _: False, 0.25)

    async def _look(self) -> None:
        if self.rollout_id is not None:
            self.rollout = await self.client.get(f"/rollouts/{self.rollout_id}")
            self.known_nodes = self.rollout["nodes"]["total"]
        else:
            self.known_nodes = len(await self.client.items("/nodes", most=100_000))


async def _publish(client: Client, data: Path, version: str, seed: int) -> None:
    path = data / f"flatcar-{version}.gz"
    await asyncio.to_thread(lambda: path.write_bytes(random.Random(seed).randbytes(PAYLOAD_BYTES)))  # noqa: S311
    payload = await asyncio.to_thread(read_payload_file, path)
    changeset = await client.post("/changesets", {"application": "flatcar", "version": version, "arch": "amd64"})
    await client.upload(path, sha256=payload.sha256, size=payload.size)
    await client.post(
        f"/changesets/{changeset['changeset_id']}/payloads",
        {
            "name": "flatcar_production_update.gz",
            "sha256": payload.sha256,
            "sha1_base64": payload.sha1_base64,
            "size": payload.size,
        },
    )
    await client.post(f"/changesets/{changeset['changeset_id']}/publish", {})


async def _promote(client: Client, version: str) -> str:
    changeset_id = await client.changeset_id(version)
    channel_id = await client.channel_id("stable")
    await client.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id, "reason": "demo"})
    return await client.rollout_id("production")


async def _halt_moments(client: Client) -> tuple[datetime, datetime] | None:
    """When the deciding report was heard and when the halt was committed; None where there was no halt."""
    halts = (await client.get("/events", type="changeset.halted.v1", limit=1))["items"]
    if not halts:
        return None
    evidence = halts[0]["data"]["evidence"]
    deciding = await client.get(f"/events/{evidence['deciding_seq']}")
    return datetime.fromisoformat(deciding["time"]), datetime.fromisoformat(halts[0]["time"])


async def _offers_after_halt(client: Client) -> int:
    halts = (await client.get("/events", type="changeset.halted.v1", limit=1))["items"]
    if not halts:
        return 0
    changeset_id = halts[0]["data"]["changeset_id"]
    after = int(halts[0]["sequence"])
    offers = 0
    while True:
        page = await client.get("/events", type="update.offered.v1", after=after, limit=500)
        offers += sum(1 for item in page["items"] if item["data"].get("changeset_id") == changeset_id)
        if page["next"] is None:
            return offers
        after = int(page["next"])


def _milliseconds(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds() * 1000, 1)
