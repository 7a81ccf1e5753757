"""A simulated fleet against a small Omaha server over real HTTP: everybody goes through, and nothing is made up."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import pytest
from aiohttp import web

from services.simulator.__main__ import main, progress_line, simulate
from services.simulator.fates import Fate, FleetPlan
from services.simulator.fleet import Fleet
from services.simulator.node import NodeState, Span, Timing
from services.simulator.settings import Settings

OLD, NEW = "3033.2.0", "3033.2.1"
PAYLOAD = hashlib.shake_256(b"payload").digest(300_000)
SHA256 = base64.b64encode(hashlib.sha256(PAYLOAD).digest()).decode()
FACTOR = 5_000.0
DEADLINE_S = 60.0

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<response protocol="3.0"><app appid="a" status="ok">'
_MESSAGE = re.compile(rb' version="([^"]*)" track="[^"]*" bootid="\{([^"]*)\}".* machineid="([0-9a-f]{32})"')
_EVENT = re.compile(
    rb'<event eventtype="(\d+)" eventresult="(\d+)"(?: previousversion="([^"]*)")?(?: errorcode="(\d+)")?>'
)


@dataclass
class OmahaServer:
    """Speaks just enough Omaha: offers NEW once to who runs OLD, and keeps what it was told.

    Attributes:
        break_every: Every so manieth payload request breaks off in the middle; 0 never.
        ranges: It knows Range requests.
        payload_status: What payload requests are answered with.
        offering: It offers NEW at all.
        redirect_to: Where it sends every message instead.
        insists: It offers NEW again and again, and allows payload back-off.
        padding: So many blanks come before every answer.
    """

    break_every: int = 0
    ranges: bool = True
    payload_status: int = 200
    offering: bool = True
    redirect_to: str = ""
    insists: bool = False
    padding: int = 0
    url: str = ""
    offered: set[str] = field(default_factory=set)
    events: Counter[tuple[int, int, str, int]] = field(default_factory=Counter)
    boots: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    payload_requests: Counter[str] = field(default_factory=Counter)
    headers: dict[str, str] = field(default_factory=dict)

    async def update(self, request: web.Request) -> web.Response:
        if self.redirect_to:
            raise web.HTTPTemporaryRedirect(self.redirect_to)
        self.headers = dict(request.headers)
        body = await request.read()
        message = _MESSAGE.search(body)
        assert message is not None
        version, boot, machine = (group.decode() for group in message.groups())
        self.boots[machine].add(boot)
        for kind, result, previous, error in _EVENT.findall(body):
            self.events[int(kind), int(result), previous.decode(), int(error or 0)] += 1
        if b"<updatecheck>" not in body:
            return web.Response(text=f"{_HEAD}</app></response>", content_type="text/xml")
        if self.offering and version == OLD and (self.insists or machine not in self.offered):
            self.offered.add(machine)
            text = (
                f'{_HEAD}<updatecheck status="ok"><urls><url codebase="{self.url}/payloads/"></url></urls>'
                f'<manifest version="{NEW}"><packages><package name="update.gz" size="{len(PAYLOAD)}" required="true">'
                f'</package></packages><actions><action event="postinstall" sha256="{SHA256}" '
                f'DisablePayloadBackoff="{str(not self.insists).lower()}"></action></actions></manifest>'
                "</updatecheck></app></response>"
            )
        else:
            text = f'{_HEAD}<updatecheck status="noupdate"><urls></urls></updatecheck></app></response>'
        return web.Response(text=" " * self.padding + text, content_type="text/xml")

    async def payload(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.payload_requests["ranged" if asked else "whole"] += 1
        if self.payload_status != 200:
            return web.Response(status=self.payload_status)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        headers = {"Content-Range": f"bytes {start}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}"} if start else {}
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(PAYLOAD) - start
        await response.prepare(request)
        if self.break_every and self.payload_requests.total() % self.break_every == 0:
            await response.write(PAYLOAD[start : (start + len(PAYLOAD)) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(PAYLOAD[start:])
        return response


@asynccontextmanager
async def serving(server: OmahaServer):
    application = web.Application()
    application.router.add_post("/v1/update/", server.update)
    application.router.add_get("/payloads/update.gz", server.payload)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def fleet_of(server: OmahaServer, nodes: int, plan: FleetPlan | None = None, **more) -> Fleet:
    return Fleet(plan or FleetPlan(), f"{server.url}/v1/update/", nodes, 11, FACTOR, version=OLD, **more)


async def test_two_hundred_nodes_take_a_good_release():
    """Every node downloads the real payload over breaking connections, reboots, and reports once; all is as offered."""
    started = datetime.now(UTC)
    async with serving(OmahaServer(break_every=3)) as server, fleet_of(server, 200) as fleet:
        done = await fleet.run_until(
            lambda statistics: statistics.by_version[NEW].reported_committed == 200,
            DEADLINE_S,
        )
        assert done, fleet.statistics.as_dict()
        counts = fleet.statistics.by_version[NEW]
        assert (counts.granted, counts.exposed, counts.downloaded, counts.staged, counts.committed) == (200,) * 5
        assert fleet.statistics.running[NEW] == fleet.statistics.live == 200
        assert fleet.statistics.resumes == server.payload_requests["ranged"] >= 50
        assert fleet.statistics.bytes_downloaded == 200 * len(PAYLOAD)
        assert all(len(boots) == 2 for boots in server.boots.values())
        assert server.events[3, 2, OLD, 0] == server.events[13, 1, "", 0] == server.events[14, 1, "", 0] == 200
        assert server.events[3, 1, "", 0] == server.events[3, 2, "0.0.0.0", 0] == 200
        assert not [event for event in server.events if event[3]], "no errors"
        assert len(fleet.statistics.granted_after(started, NEW)) == 200
        assert fleet.statistics.granted_after(datetime.now(UTC), NEW) == []
        held = fleet.statistics.first_held_after(started)
        assert held is not None
        assert started <= held.sent_at <= held.answered_at
        assert (held.running, held.version) in {(OLD, ""), (NEW, "")}
        updated = fleet.statistics.first_held_after(started, running=NEW)
        assert updated is not None
        assert updated.answered_at >= held.answered_at
        assert fleet.statistics.first_held_after(started, running="1.0.0") is None


async def test_every_fate_at_once():
    """What the server was told agrees with what befell the nodes; reports are lost only where fate says so."""
    rates = {fate: 0.1 for fate in Fate if fate is not Fate.GOOD}
    plan = FleetPlan({NEW: rates})
    timing = Timing(reboot_after=Span(0.0, 7200.0))
    async with serving(OmahaServer()) as server, fleet_of(server, 200, plan, timing=timing) as fleet:
        counts = fleet.statistics.by_version[NEW]
        fates = counts.fates

        def everything_told(_statistics):
            stale_news_of_liars = server.events[3, 2, OLD, 0]
            return (
                counts.exposed == 200
                and counts.vanished == fates[Fate.SILENT]
                and counts.reports_lost == fates[Fate.LOSES_REPORT] + fates[Fate.LOSES_ROLLBACK_REPORT]
                and counts.reported_rolled_back == fates[Fate.ROLLS_BACK] + fates[Fate.RESETS_STATUS]
                and counts.reported_committed == fates[Fate.GOOD] + fates[Fate.LIES]
                and stale_news_of_liars == fates[Fate.GOOD] + 2 * fates[Fate.LIES]
                and counts.failed.total() == fates[Fate.FAILS_TO_DOWNLOAD] + fates[Fate.CORRUPT]
                and server.events[3, 0, "", 268435465] == fates[Fate.FAILS_TO_DOWNLOAD]
                and server.events[3, 0, "", 268435466] == fates[Fate.CORRUPT]
            )

        assert await fleet.run_until(everything_told, DEADLINE_S), (fleet.statistics.as_dict(), server.events)
        assert all(fates[fate] for fate in Fate)
        assert fleet.statistics.states[NodeState.OFF] == fates[Fate.SILENT] == 200 - fleet.statistics.live
        assert server.events[3, 0, "", 44] == counts.reported_rolled_back
        assert counts.committed == fates[Fate.GOOD] + fates[Fate.LIES] + fates[Fate.LOSES_REPORT]
        assert counts.rolled_back == fates[Fate.ROLLS_BACK] + fates[Fate.LOSES_ROLLBACK_REPORT]
        assert counts.reset == fates[Fate.RESETS_STATUS]
        assert fleet.statistics.pings > 0
        assert sum(fleet.statistics.running.values()) == fleet.statistics.live


async def test_acknowledged_reports_are_what_the_server_heard():
    """Every event that was answered is kept with the boot and the offer that it is about, and no other."""
    server = OmahaServer()
    plan = FleetPlan({NEW: {Fate.ROLLS_BACK: 0.4, Fate.LIES: 0.2, Fate.LOSES_REPORT: 0.2}})
    async with serving(server), fleet_of(server, 50, plan) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.reboots == 50, DEADLINE_S)
        counts = fleet.statistics.by_version[NEW]
        assert await fleet.run_until(
            lambda _: counts.reported_committed + counts.reported_rolled_back + counts.reports_lost == 50, DEADLINE_S
        )
        reports = list(fleet.statistics.acknowledged)
        heard = server.events.copy()
    told = Counter(
        (int(kind), int(result), previous.decode(), int(error or 0))
        for report in reports
        for kind, result, previous, error in _EVENT.findall(report.event.encode())
    )
    lies = (3, 2, OLD, 0)  # what is said once more on the next check may be under way
    assert told[lies] <= heard[lies]
    quiet = (3, 2, "", 0), (3, 2, "0.0.0.0", 0)
    assert all(told[event] == count for event, count in heard.items() if event not in (lies, *quiet))
    assert not told.keys() & {*quiet}
    assert {report.payload_url for report in reports} == {f"{server.url}/payloads/update.gz"}
    assert all(report.boot_id in server.boots[report.machine_id] for report in reports)


async def test_a_server_without_ranges():
    """Who is sent the whole payload instead of the rest begins again, and verifies."""
    async with serving(OmahaServer(break_every=2, ranges=False)) as server, fleet_of(server, 20) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.by_version[NEW].committed == 20, DEADLINE_S)
        assert server.payload_requests["ranged"] > 0


async def test_a_refused_payload_is_reported_as_its_http_status():
    """403 becomes 2403 with the private-server flag."""
    async with serving(OmahaServer(payload_status=403)) as server, fleet_of(server, 10) as fleet:
        assert await fleet.run_until(lambda _: server.events[3, 0, "", 2403 | 1 << 28] == 10, DEADLINE_S)
        assert fleet.statistics.by_version[NEW].failed == {2403: 10}


async def test_the_headers_are_those_of_update_engine():
    """No User-Agent, no Accept-Encoding, and text/xml."""
    async with serving(OmahaServer(offering=False)) as server, fleet_of(server, 1) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.held > 0, DEADLINE_S)
        assert server.headers.keys() == {"Host", "Content-Type", "Accept", "Content-Length"}
        assert (server.headers["Content-Type"], server.headers["Accept"]) == ("text/xml", "*/*")


async def test_a_redirect_to_another_machine_is_refused():
    """The one door to the network looks at the address, not at the URL."""
    server = OmahaServer(redirect_to="http://192.0.2.1:9/v1/update/")
    async with serving(server), fleet_of(server, 3) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.checks_failed >= 3, DEADLINE_S)
        assert fleet.statistics.remote_refused >= 3
        assert fleet.statistics.held == 0


async def test_nodes_that_join_later():
    """More nodes, of another version and track; equal seeds make equal machines."""
    async with serving(OmahaServer()) as server, fleet_of(server, 2) as fleet, fleet_of(server, 5) as twin:
        assert list(fleet.add_nodes(3, version="1.0.0", track="beta")) == [2, 3, 4]
        assert fleet.statistics.running == {OLD: 2, "1.0.0": 3}
        assert fleet.nodes[4].identity.track == "beta"
        assert [node.identity.machine_id for node in fleet.nodes] == [node.identity.machine_id for node in twin.nodes]
        assert not await fleet.run_until(lambda statistics: statistics.nodes > 5, 0.01), "the deadline holds"


async def test_what_each_track_saw():
    """Nodes of one track take the release and those of the other are never offered it: counted apart, as aliased."""
    started = datetime.now(UTC)
    async with serving(OmahaServer()) as server, fleet_of(server, 6) as fleet:
        fleet.add_nodes(4, version="1.0.0", track="beta", alias="fra-canary")
        assert [node.identity.machine_alias for node in fleet.nodes[5:8]] == ["", "fra-canary-1", "fra-canary-2"]

        def done(statistics) -> bool:
            asked = statistics.first_held_after(started, track="beta")
            return statistics.by_track["stable"].running[NEW] == 6 and asked is not None

        assert await fleet.run_until(done, DEADLINE_S), fleet.statistics.as_dict()
        assert fleet.statistics.first_held_after(started, track="beta", running=NEW) is None
        assert fleet.statistics.as_dict()["tracks"] == {
            "beta": {"nodes": 4, "running": {"1.0.0": 4}, "exposed": {}},
            "stable": {"nodes": 6, "running": {NEW: 6}, "exposed": {NEW: 6}},
        }


class BrokenPlan(FleetPlan):
    """A plan with a fault in its code."""

    def fate(self, seed, machine_id, version):
        raise ZeroDivisionError


async def test_a_fault_of_the_simulator_is_raised():
    """Nothing waits for its deadline when a task of the fleet broke, and nobody can overlook it."""

    async def overlook_it() -> None:
        async with fleet_of(server, 1, BrokenPlan()) as fleet:
            with pytest.raises(ZeroDivisionError):
                await fleet.run_until(lambda _: False, DEADLINE_S)

    async with serving(OmahaServer(insists=True)) as server:
        with pytest.raises(ZeroDivisionError):
            async with fleet_of(server, 1, BrokenPlan()) as fleet:
                await fleet.run_until(lambda _: False, DEADLINE_S)
        with pytest.raises(ZeroDivisionError):
            await overlook_it()


async def test_the_command(capsys):
    """Simulates for the given time and returns numbers that are ready for JSON."""
    async with serving(OmahaServer()) as server:
        numbers = await simulate(
            Settings(server=f"{server.url}/v1/update/", nodes=20, time_factor=FACTOR, seconds=2.5, version=OLD),
        )
    assert numbers["nodes"] == 20
    assert isinstance(numbers["requests_per_second"], float)
    assert "granted 20" in capsys.readouterr().err


async def test_the_command_line(capsys):
    """The last line on stdout is the numbers as JSON."""
    async with serving(OmahaServer()) as server:
        url = f"{server.url}/v1/update/"
        arguments = ["--server", url, "--nodes", "5", "--time-factor", "5000", "--seconds", "0.5", "--json"]
        assert await asyncio.to_thread(main, arguments) == 0
    assert orjson.loads(capsys.readouterr().out)["nodes"] == 5


async def test_a_download_that_keeps_breaking_is_given_up():
    """After twenty resumes it is error 9, and the node does without."""
    async with serving(OmahaServer(break_every=1)) as server, fleet_of(server, 3) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.by_version[NEW].failed[9] == 3, DEADLINE_S)
        assert server.payload_requests == {"whole": 3, "ranged": 60}
        assert await fleet.run_until(lambda _: server.events[3, 0, "", 268435465] == 3, DEADLINE_S)


async def test_an_answer_that_never_ends_is_cut():
    """More than a mebibyte is no Omaha answer: reported as malformed."""
    async with serving(OmahaServer(padding=2 << 20)) as server, fleet_of(server, 2) as fleet:
        assert await fleet.run_until(lambda _: server.events[3, 0, "", 31 | 1 << 28] >= 2, DEADLINE_S)
        assert fleet.statistics.held == fleet.statistics.grants == 0


async def test_a_server_that_is_away():
    """Four tries per check, one for its error event, and the nodes live on to find it back."""
    async with serving(OmahaServer()) as server:
        pass
    async with fleet_of(server, 2) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.events >= 4, DEADLINE_S)
        statistics = fleet.statistics
        assert statistics.polls >= 4 * statistics.checks_failed >= 16
        assert statistics.unanswered <= statistics.requests
        assert statistics.live == 2


async def test_a_dropped_offer_is_counted_as_backing_off():
    """Without DisablePayloadBackoff a node that rolled back defers the same payload."""
    server = OmahaServer(insists=True)
    plan = FleetPlan({NEW: {Fate.ROLLS_BACK: 1.0}})
    async with serving(server), fleet_of(server, 2, plan) as fleet:
        assert await fleet.run_until(lambda statistics: statistics.backing_off >= 2, DEADLINE_S)
        assert server.events[3, 9, "", 40 | 1 << 28] >= 1


async def test_the_progress_line():
    """Who runs what and does what."""
    async with serving(OmahaServer()) as server, fleet_of(server, 2) as fleet:
        assert progress_line(fleet.statistics, 1.0).startswith("   1.0 s  3033.2.0=2 | idle=2 | polls 0")
