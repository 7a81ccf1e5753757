"""Thousands of simulated nodes in one asyncio process, over real HTTP, with few resources.

One heap holds who does something next and when; a fixed number of tasks send messages and download payloads. A node
costs an object and a generator, not a task, a timer or a connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import ipaddress
import random
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from services.simulator.fates import FleetPlan
from services.simulator.node import (
    CheckResult,
    Download,
    DownloadDone,
    Effect,
    Elapsed,
    Expects,
    Input,
    News,
    Node,
    NodeState,
    Off,
    Outcome,
    Reboot,
    Response,
    Send,
    Timing,
    Wait,
)
from services.simulator.payload_download import RETRY_S, PayloadDownload
from services.simulator.statistics import AcknowledgedReport, CheckAnswer, FleetStatistics
from services.simulator.wire import FLATCAR_APPLICATION_ID, Arch, ErrorCode, Identity
from shared.clock import Clock, SystemClock
from shared.errors import InvalidInput

MAX_ANSWER_BYTES: Final = 1 << 20
_STEPS_AT_A_TIME: Final = 200
_CONNECT_S: Final = 30.0
_STALLED_S: Final = 90.0
_KEEPALIVE_S: Final = 10.0  # shorter than any server's, so that no message meets a connection that is being closed
_MAX_REDIRECTS: Final = 10

_AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]


class Fleet:
    """A fleet of simulated nodes; an async context manager: nodes live while the context is open.

    Args:
        plan: What happens to nodes that take a version.
        server_url: The whole URL that messages are posted to; nothing is appended.
        nodes: How many nodes there are at first.
        seed: Machine ids, fates and every drawn time follow from it.
        time_factor: Every time that a node waits is divided by it. Time on the network is what it is.
        version: What the nodes run at first.
        track: The channel or group that they name.
        arch: Their architecture.
        application_id: With braces, as update_engine sends it.
        timing: How long things take on a node.
        first_ever: The nodes are fresh machines, which say ``0.0.0.0`` on their first check.
        connections: Messages in flight at once.
        downloads: Downloads in flight at once.
        clock: Stamps the answers in the statistics.
        allow_remote: Connect to other machines too; otherwise loopback only, redirects and payload URLs included.

    Raises:
        InvalidInput: An argument out of range, or a server that is not on this machine.
    """

    _session: aiohttp.ClientSession

    def __init__(
        self,
        plan: FleetPlan,
        server_url: str,
        nodes: int,
        seed: int = 0,
        time_factor: float = 1.0,
        *,
        version: str = "3033.2.0",
        track: str = "stable",
        arch: Arch = Arch.AMD64,
        application_id: str = FLATCAR_APPLICATION_ID,
        timing: Timing | None = None,
        first_ever: bool = True,
        connections: int = 48,
        downloads: int = 16,
        clock: Clock | None = None,
        allow_remote: bool = False,
    ) -> None:
        if time_factor <= 0.0 or connections < 1 or downloads < 1 or nodes < 0:
            raise InvalidInput(
                "Give a time factor above 0, at least one connection and one download, and no nodes < 0."
            )
        self.statistics = FleetStatistics()
        self._plan = plan
        self._server_url = _server_url(server_url, allow_remote=allow_remote)
        self._seed = seed
        self._time_factor = time_factor
        self._version = version
        self._track = track
        self._arch = arch
        self._application_id = application_id
        self._timing = timing or Timing()
        self._first_ever = first_ever
        self._connections = connections
        self._download_slots = downloads
        self._clock = clock or SystemClock()
        self._allow_remote = allow_remote
        self._first_nodes = nodes
        self._nodes: list[Node] = []
        self._exposed: defaultdict[str, set[str]] = defaultdict(set)
        self._heap: list[tuple[float, int, int | PayloadDownload]] = []
        self._pushed = 0
        self._sends: asyncio.Queue[tuple[int, Send]] = asyncio.Queue()
        self._downloads: asyncio.Queue[PayloadDownload] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes, also those that are off; for looking at, not for stepping."""
        return self._nodes

    async def __aenter__(self) -> Self:
        """Switches the first nodes on."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections + self._download_slots,
                keepalive_timeout=_KEEPALIVE_S,
                socket_factory=self._open_socket,
            ),
            headers={"Content-Type": "text/xml", "Accept": "*/*"},
            skip_auto_headers=["User-Agent", "Accept-Encoding"],
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_STALLED_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        work = [self._run_heap()]
        work += [self._run_sends() for _ in range(self._connections)]
        work += [self._run_downloads() for _ in range(self._download_slots)]
        for coroutine in work:
            task = asyncio.create_task(coroutine)
            task.add_done_callback(self._task_done)
            self._tasks.append(task)
        self.add_nodes(self._first_nodes)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Switches everything off at once, whatever is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        if error is None and self._failure is not None:
            raise self._failure

    def add_nodes(self, count: int, *, version: str | None = None, track: str | None = None, alias: str = "") -> range:
        """Switches more nodes on.

        Args:
            count: How many.
            version: What they run; the fleet's where None.
            track: The channel or group that they name; the fleet's where None.
            alias: What their aliases begin with, before a number from 1 on; none where empty.

        Returns:
            Their indices in ``nodes``.
        """
        first = len(self._nodes)
        running = self._version if version is None else version
        named = self._track if track is None else track
        for index in range(first, first + count):
            machine_id = hashlib.blake2b(f"machine:{self._seed}:{index}".encode(), digest_size=16).hexdigest()
            node = Node(
                Identity(
                    machine_id=machine_id,
                    aleph_version=running,
                    track=named,
                    arch=self._arch,
                    application_id=self._application_id,
                    machine_alias=f"{alias}-{index - first + 1}" if alias else "",
                ),
                running,
                fate_of=partial(self._plan.fate, self._seed, machine_id),
                rng=random.Random(f"node:{self._seed}:{index}"),
                timing=self._timing,
                first_ever=self._first_ever,
            )
            self._nodes.append(node)
            self.statistics.nodes += 1
            self.statistics.running[running] += 1
            self.statistics.by_track[named].nodes += 1
            self.statistics.by_track[named].running[running] += 1
            self.statistics.states[node.state] += 1
            self._dispatch(index, node.start())
        return range(first, first + count)

    async def run_until(self, predicate: Callable[[FleetStatistics], bool], deadline_s: float) -> bool:
        """Lets the nodes live until the statistics say so.

        Args:
            predicate: Asked after every change.
            deadline_s: Real seconds after which to give up.

        Returns:
            Whether the predicate came true in time.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while not self._holds(predicate):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return self._holds(predicate)
        return True

    def _holds(self, predicate: Callable[[FleetStatistics], bool]) -> bool:
        if self._failure is not None:
            raise self._failure
        return predicate(self.statistics)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()
            self._changed.set()

    def _open_socket(self, address: _AddressInfo) -> socket.socket:
        """The one door to the network: names, redirects and payload URLs all end here."""
        family, kind, protocol, _name, host = address
        if not self._allow_remote and not ipaddress.ip_address(str(host[0]).partition("%")[0]).is_loopback:
            self.statistics.remote_refused += 1
            raise PermissionError(f"{host[0]} is another machine; allow remote servers if that is meant.")
        return socket.socket(family, kind, protocol)

    # What happens next, and when

    def _push(self, seconds: float, what: int | PayloadDownload) -> None:
        due = asyncio.get_running_loop().time() + seconds / self._time_factor
        self._pushed += 1
        heapq.heappush(self._heap, (due, self._pushed, what))
        if self._heap[0][1] == self._pushed:
            self._wake.set()

    async def _run_heap(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(_STEPS_AT_A_TIME):
                if not self._heap or self._heap[0][0] > loop.time():
                    break
                what = heapq.heappop(self._heap)[2]
                if isinstance(what, PayloadDownload):
                    self._downloads.put_nowait(what)
                else:
                    self._advance(what, Elapsed())
            else:
                await asyncio.sleep(0)
                continue
            self._wake.clear()
            alarm = loop.call_at(self._heap[0][0], self._wake.set) if self._heap else None
            await self._wake.wait()
            if alarm is not None:
                alarm.cancel()

    def _dispatch(self, index: int, effect: Effect) -> None:
        match effect:
            case Wait(seconds=seconds):
                self._push(seconds, index)
            case Reboot(seconds=seconds):
                self.statistics.reboots += 1
                self._push(seconds, index)
            case Send():
                self._sends.put_nowait((index, effect))
            case Download():
                self.statistics.downloads += 1
                self._downloads.put_nowait(PayloadDownload(index, effect))
            case Off():
                pass

    def _advance(self, index: int, result: Input) -> None:
        node = self._nodes[index]
        state, version = node.state, node.version
        effect = node.step(result)
        if node.state is not state:
            self._count_move(node, state, version)
        self._dispatch(index, effect)
        self._changed.set()

    def _count_move(self, node: Node, state: NodeState, version: str) -> None:
        statistics = self.statistics
        statistics.states[state] -= 1
        statistics.states[node.state] += 1
        counts = statistics.by_version[node.target] if node.target else None
        if counts is None:
            return
        if state is NodeState.DOWNLOADING and node.state in {NodeState.STAGED, NodeState.REBOOTING}:
            counts.staged += 1
        elif state is NodeState.STAGED and node.state is NodeState.IDLE:
            counts.reset += 1
        elif state is NodeState.REBOOTING:
            of_track = statistics.by_track[node.identity.track]
            statistics.running[version] -= 1
            of_track.running[version] -= 1
            if node.state is NodeState.OFF:
                counts.vanished += 1
                return
            statistics.running[node.version] += 1
            of_track.running[node.version] += 1
            if node.last_outcome is Outcome.COMMITTED:
                counts.committed += 1
            else:
                counts.rolled_back += 1

    # Messages

    async def _run_sends(self) -> None:
        while True:
            index, send = await self._sends.get()
            sent_at = self._clock.now()
            response = await self._post(send)
            node = self._nodes[index]
            if send.report and response.status is not None and 200 <= response.status < 300:
                self._count_acknowledged(send.report, node)
            self._advance(index, response)
            if send.news is not None:
                self._count_news(send.news, node, response)
            if send.expects is Expects.CHECK:
                self._count_check(node, sent_at)

    async def _post(self, send: Send) -> Response:
        statistics = self.statistics
        if send.lost:
            statistics.lost += 1
            return Response(None)
        match send.expects:
            case Expects.CHECK:
                statistics.polls += 1
            case Expects.EVENT:
                statistics.events += 1
            case Expects.PING:
                statistics.pings += 1
        try:
            async with self._session.post(self._server_url, data=send.body, max_redirects=_MAX_REDIRECTS) as response:
                pieces: list[bytes] = []
                total = 0
                async for piece in response.content.iter_any():
                    total += len(piece)
                    if total > MAX_ANSWER_BYTES:
                        break
                    pieces.append(piece)
                return Response(response.status, b"".join(pieces))
        except (aiohttp.ClientError, TimeoutError, OSError):
            statistics.unanswered += 1
            return Response(None)

    def _count_check(self, node: Node, sent_at: datetime) -> None:
        """Counts what the node made of the answer to a check."""
        statistics = self.statistics
        machine_id, track = node.identity.machine_id, node.identity.track
        now = self._clock.now()
        match node.last_check:
            case CheckResult.GRANTED:
                statistics.grants += 1
                statistics.grant_answers.append(CheckAnswer(machine_id, track, node.version, sent_at, now, node.target))
                counts = statistics.by_version[node.target]
                counts.granted += 1
                exposed = self._exposed[node.target]
                if machine_id not in exposed:
                    exposed.add(machine_id)
                    counts.exposed += 1
                    counts.fates[node.fate] += 1
                    statistics.by_track[track].exposed[node.target] += 1
            case CheckResult.NO_UPDATE:
                statistics.held += 1
                statistics.held_answers.append(CheckAnswer(machine_id, track, node.version, sent_at, now, ""))
            case CheckResult.BACKING_OFF:
                statistics.backing_off += 1
            case CheckResult.FAILED:
                statistics.checks_failed += 1
            case CheckResult.NO_ANSWER | None:
                pass

    def _count_acknowledged(self, report: str, node: Node) -> None:
        self.statistics.acknowledged.append(
            AcknowledgedReport(
                node.identity.machine_id, node.boot_id, node.version, node.payload_url, report, self._clock.now()
            )
        )

    def _count_news(self, news: News, node: Node, response: Response) -> None:
        """Counts whether the one report of an update's end reached the server."""
        if node.last_check is CheckResult.NO_ANSWER:
            return  # the same bytes are sent once more
        counts = self.statistics.by_version[news.version]
        if response.status is None or not 200 <= response.status < 300:
            counts.reports_lost += 1
        elif news.outcome is Outcome.COMMITTED:
            counts.reported_committed += 1
        else:
            counts.reported_rolled_back += 1

    # Payloads

    async def _run_downloads(self) -> None:
        while True:
            download = await self._downloads.get()
            done = await self._fetch(download)
            if done is None:
                done = download.broken()
                if done is None:
                    self.statistics.resumes += 1
                    self._push(RETRY_S, download)
                    continue
            counts = self.statistics.by_version[self._nodes[download.node].target]
            if done.error is None:
                counts.downloaded += 1
            else:
                counts.failed[done.error] += 1
            self._advance(download.node, done)

    async def _fetch(self, download: PayloadDownload) -> DownloadDone | None:
        """Downloads what is missing; None when the connection broke."""
        try:
            url = URL(download.wanted.url, encoded=True)
            async with self._session.get(
                url,
                headers=download.request_headers(),
                max_redirects=_MAX_REDIRECTS,
            ) as response:
                done = download.begin(response.status, response.headers.get("Content-Range", ""))
                if done is not None:
                    return done
                async for piece in response.content.iter_any():
                    self.statistics.bytes_downloaded += len(piece)
                    done = download.take(piece)
                    if done is not None:
                        return done
                return download.finish()
        except (aiohttp.InvalidURL, ValueError):
            return DownloadDone(ErrorCode.DOWNLOAD_TRANSFER)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


def _server_url(text: str, *, allow_remote: bool) -> URL:
    """Checks the server's URL.

    Raises:
        InvalidInput: It is no http or https URL, or names another machine although that is not allowed.
    """
    try:
        url = URL(text)
        host = url.host
    except ValueError as error:
        raise InvalidInput(f"Give the server as a URL like http://127.0.0.1:8000/v1/update/: {error}.") from error
    if url.scheme not in {"http", "https"} or not host:
        raise InvalidInput("Give the server as a URL like http://127.0.0.1:8000/v1/update/.")
    if not allow_remote and not _is_loopback(host):
        raise InvalidInput(f"{host} is another machine: simulate against 127.0.0.1, or allow remote servers.")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
