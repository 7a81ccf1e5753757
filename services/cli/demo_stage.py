"""Where the demo plays: everything started on free ports, a simulated fleet on it, and eyes on both of its groups."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from services.cli.client import Client
from services.cli.demo_cast import CANARIES, PRODUCTION, Cast
from services.cli.errors import Refused
from services.cli.payload_file import read_payload_file
from services.simulator.fleet import Fleet
from services.simulator.statistics import FleetStatistics
from services.standalone.settings import Bus

PAYLOAD_BYTES: Final = 4 * 1024 * 1024
TRACKS: Final[Mapping[str, str]] = {CANARIES: "beta", PRODUCTION: "stable"}
"""The channel that each group follows, which its nodes name as their track."""
_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.25


class StoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened.

    Attributes:
        at_s: Seconds after the demo began.
        act: Which part of the story.
        version: The release that it is about.
        what: In words.
        group: Where it happened.
    """

    at_s: float
    act: str
    version: str
    what: str
    group: str | None = None


@dataclass(slots=True)
class Troupe:
    """A group on the stage, as it was seen last.

    Attributes:
        rollout: Control's picture of the rollout that is being watched.
        running: Its nodes by the version that they run, by the simulator's own count.
    """

    name: str
    nodes: int
    rollout_id: str | None = None
    rollout: Mapping[str, Any] | None = None
    running: Mapping[str, int] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The rollout's; empty without one."""
        return "" if self.rollout is None else str(self.rollout["state"])

    @property
    def braked(self) -> bool:
        """Whether the rollout runs and nobody may be offered it."""
        return self.rollout is not None and self.state == "running" and self.rollout["pace"] == 0

    @property
    def started(self) -> int:
        """Nodes of all groups that booted the release, as the analysis counts them."""
        evidence = None if self.rollout is None else self.rollout["evidence"]
        return 0 if evidence is None else int(evidence["started"])

    @property
    def in_flight(self) -> int:
        """Nodes of all groups that are on their way to the release."""
        return 0 if self.rollout is None else int(self.rollout["changeset_in_flight"])

    def attempts(self, *states: str) -> int:
        """Attempts of the rollout that ended so."""
        return 0 if self.rollout is None else sum(int(self.rollout["attempts"].get(state, 0)) for state in states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is to be seen right now.

    Attributes:
        act: The part of the story that plays; empty before the first.
        told: What has happened so far.
        seconds: Since the demo began.
    """

    act: str
    told: tuple[StoryLine, ...]
    seconds: float
    canaries: Troupe
    production: Troupe
    statistics: FleetStatistics
    cast: Cast


Show = Callable[[Scene], None]
Say = Callable[[str], None]


@contextlib.asynccontextmanager
async def running(data: Path, say: Say, *, bus: Bus = Bus.AUTO) -> AsyncIterator[dict[str, Any]]:
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
        deadline = time.monotonic() + _START_SECONDS
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                how = "ended while starting" if process.poll() is not None else f"did not start in {_START_SECONDS:g} s"
                raise Refused(f"`uneventful up` {how}:\n{tail}")
            await asyncio.sleep(0.1)
        ready: dict[str, Any] = orjson.loads(ready_file.read_bytes())
        broker = "a private RabbitMQ node" if ready["bus"] == "rabbitmq" else "no broker (services follow the ledger)"
        say(f"Everything runs: PostgreSQL, {broker}, {', '.join(ready['services'])}.")
        yield ready
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


class Stage:
    """Publishes, promotes, and looks at control and at the fleet several times a second until something is so.

    Args:
        client: Speaks to control.
        fleet: The nodes.
        cast: How they are divided.
        data: Where payloads are made.
        seed: Their bytes.
        show: Draws a scene.
        say: Says one line.
        began: When the demo did, on the monotonic clock.
    """

    def __init__(
        self, client: Client, fleet: Fleet, cast: Cast, *, data: Path, seed: int, show: Show, say: Say, began: float
    ) -> None:
        self.client = client
        self.fleet = fleet
        self.cast = cast
        self.canaries = Troupe(CANARIES, cast.canary_nodes)
        self.production = Troupe(PRODUCTION, cast.production_nodes)
        self.told: list[StoryLine] = []
        self.act = ""
        self._data = data
        self._seed = seed
        self._show = show
        self._say = say
        self._began = began

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return round(time.monotonic() - self._began, 1)

    def begin(self, act: str) -> None:
        """Another part of the story begins."""
        self.act = act

    def tell(self, version: str, what: str, group: str | None = None) -> None:
        """Something happened just now."""
        line = StoryLine(at_s=self.seconds, act=self.act, version=version, what=what, group=group)
        self.told.append(line)
        self._say(f"{line.at_s:6.1f} s  {version}  {what}")

    def exposed(self, group: str, *versions: str) -> int:
        """Nodes of a group that were offered any of these versions, as the nodes themselves saw it."""
        counts = self.fleet.statistics.by_track[TRACKS[group]].exposed
        return sum(counts[version] for version in versions)

    def runs(self, group: str, version: str) -> int:
        """Nodes of a group that run a version, as the nodes themselves see it."""
        return self.fleet.statistics.by_track[TRACKS[group]].running[version]

    async def publish(self, version: str) -> str:
        """A changeset with a payload of random bytes; returns its id."""
        path = self._data / f"flatcar-{version}.gz"
        content = random.Random(f"{self._seed}:{version}")  # noqa: S311  # the same bytes in every run
        await asyncio.to_thread(lambda: path.write_bytes(content.randbytes(PAYLOAD_BYTES)))
        payload = await asyncio.to_thread(read_payload_file, path)
        changeset = await self.client.post(
            "/changesets", {"application": "flatcar", "version": version, "arch": "amd64"}
        )
        changeset_id = str(changeset["changeset_id"])
        await self.client.upload(path, sha256=payload.sha256, size=payload.size)
        await self.client.post(
            f"/changesets/{changeset_id}/payloads",
            {
                "name": "flatcar_production_update.gz",
                "sha256": payload.sha256,
                "sha1_base64": payload.sha1_base64,
                "size": payload.size,
            },
        )
        await self.client.post(f"/changesets/{changeset_id}/publish", {})
        return changeset_id

    async def promote(self, channel: str, version: str, reason: str) -> None:
        """Points a channel to a published version; the group that follows it is watched from now on."""
        changeset_id = await self.client.changeset_id(version)
        channel_id = await self.client.channel_id(channel)
        await self.client.post(f"/channels/{channel_id}/promote", {"changeset": changeset_id, "reason": reason})
        for troupe in (self.canaries, self.production):
            if TRACKS[troupe.name] == channel:
                rollouts = await self.rollouts(version, troupe.name)
                troupe.rollout_id = str(rollouts[0]["rollout_id"])

    async def rollouts(self, version: str, group: str | None = None) -> list[dict[str, Any]]:
        """The rollouts of a version, to one group or to all, the newest first."""
        changeset_id = await self.client.changeset_id(version)
        found = await self.client.items("/rollouts", changeset=changeset_id)
        return [item for item in found if group is None or item["group_name"] == group]

    async def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Show what happens until ``done``; False at the deadline."""
        deadline = time.monotonic() + seconds
        while True:
            await self.look()
            if done():
                return True
            if time.monotonic() > deadline:
                return False
            # The fleet raises here if one of its tasks broke.
            await self.fleet.run_until(lambda _: False, _LOOK_SECONDS)

    async def look(self) -> None:
        """See how both groups are, and show it."""
        statistics = self.fleet.statistics
        for troupe in (self.canaries, self.production):
            troupe.running = dict(+statistics.by_track[TRACKS[troupe.name]].running)
            if troupe.rollout_id is not None:
                troupe.rollout = await self.client.get(f"/rollouts/{troupe.rollout_id}")
        self._show(
            Scene(
                act=self.act,
                told=tuple(self.told),
                seconds=self.seconds,
                canaries=self.canaries,
                production=self.production,
                statistics=statistics,
                cast=self.cast,
            )
        )
