"""Requests of the load generator, made as they are sent: bytes with a few places to fill."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from shared.omaha.request import App, Event, Request
from shared.testing.omaha_clients import render_request
from shared.testing.rollouts import OMAHA_ID

_MACHINE = "0123456789abcdef0123456789abcdef"
_BOOT = "01234567-89ab-cdef-0123-456789abcdef"
OLD_VERSION = "3033.2.0"
NEW_VERSION = "3033.2.1"
STEADY = Event(3, 2, None, "")


def machine_id(number: int) -> str:
    """The machine id of the bench's node of this number."""
    return hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()


def boot_id(number: int, boots: int = 0) -> str:
    """The node's boot id after so many reboots."""
    return f"{boots:08x}-0000-4000-8000-{number:012x}"


def attempt_id(number: int) -> str:
    """The id of the node's attempt; without its dashes it is the attempt's token."""
    digest = hashlib.md5(b"attempt %d" % number, usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def http(method: str, path: str, body: bytes = b"", content_type: str | None = None, headers: str = "") -> bytes:
    """A whole HTTP/1.1 request for a connection that is kept alive."""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n{headers}{kind}{length}\r\n".encode() + body


def omaha_template(version: str, *events: Event, alias: str = "") -> tuple[bytes, bytes, bytes]:
    """An update check exactly as update_engine sends it, cut where boot id and machine id belong."""
    app = App(
        appid="{" + OMAHA_ID + "}",
        version=version,
        track="stable",
        bootid="{" + _BOOT + "}",
        oem="ami",
        alephversion="3033.2.0",
        machineid=_MACHINE,
        machinealias=alias,
        board="amd64-usr",
        lang="en-US",
        ping=True,
        update_check=True,
        events=events,
    )
    request = Request(
        protocol="3.0",
        updater_version="update_engine-0.4.10",
        install_source="scheduler",
        is_machine=True,
        os_platform="CoreOS",
        os_version="Chateau",
        os_service_pack=f"{version}_x86_64",
        apps=(app,),
    )
    whole = http("POST", "/v1/update/", render_request(request), "text/xml")
    before, rest = whole.split(_BOOT.encode())
    middle, after = rest.split(_MACHINE.encode())
    return before, middle, after


def native_check(application: str, version: str) -> tuple[bytes, bytes, bytes]:
    """A check exactly as an agent of our own sends it, cut where boot id and machine id belong."""
    said = {
        "application": application,
        "boot_id": _BOOT,
        "machine_id": _MACHINE,
        "version": version,
        "arch": "amd64",
        "facts": {"track": "stable", "oem": "ami", "alephversion": "3033.2.0", "platform": "CoreOS"},
    }
    whole = http("POST", "/v1/check", orjson.dumps(said), "application/json")
    before, rest = whole.split(_BOOT.encode())
    middle, after = rest.split(_MACHINE.encode())
    return before, middle, after


def graph_request(application: str, version: str) -> tuple[bytes, bytes]:
    """A request exactly as zincati sends it, cut where the node's uuid belongs."""
    query = (
        f"basearch=x86_64&stream=stable&os_version={version}&os_checksum={'ab' * 32}&node_uuid={_MACHINE}"
        "&group=default&platform=metal&oci=false"
    )
    before, after = http("GET", f"/cincinnati/{application}/v1/graph?{query}").split(_MACHINE.encode())
    return before, after


@dataclass(frozen=True)
class Fixed:
    """The same bytes for ever."""

    request: bytes

    def stream(self, _connection: int) -> Iterator[bytes]:
        return itertools.repeat(self.request)


class Polls:
    """Update checks of nodes ``first`` to ``first + count - 1``, over all connections; again and again if ``cycle``.

    What a node is called is looked up in a table made beforehand, so that the generator stays cheap.

    Args:
        request_of: The whole request of the node of a number.
        first: Of the first node.
        count: Of nodes.
        cycle: Whether they ask again and again.
    """

    def __init__(self, request_of: Callable[[int], bytes], first: int, count: int, *, cycle: bool) -> None:
        numbers = range(first, first + count)
        if cycle and count <= 20_000:
            self._next: Iterator[bytes] = itertools.cycle(list(map(request_of, numbers)))
        else:
            chosen = itertools.chain.from_iterable(itertools.repeat(numbers)) if cycle else numbers
            self._next = map(request_of, chosen)

    def stream(self, _connection: int) -> Iterator[bytes]:
        return self._next


def request_of(plan: dict[str, object]) -> Callable[[int], bytes]:
    """How a node asks in the plan's dialect, Omaha unless it names another one."""
    dialect, version, application = plan.get("dialect", "omaha"), str(plan["version"]), str(plan.get("application"))
    if dialect == "cincinnati":
        start, end = graph_request(application, version)
        return lambda number: b"%b%b%b" % (start, machine_id(number).encode(), end)
    template = native_check(application, version) if dialect == "native" else omaha_template(version, STEADY)
    before, middle, after = template
    return lambda number: b"%b%b%b%b%b" % (before, boot_id(number).encode(), middle, machine_id(number).encode(), after)


WHOLE_UPDATE = ("download_started", "downloaded", "staged", "booted", "committed")


def report(application: str, number: int, kind: str, version: str, boots: int) -> bytes:
    """One report of a native agent, as JSON."""
    event = hashlib.md5(b"%d %b" % (number, kind.encode()), usedforsecurity=False).hexdigest()
    return (
        f'{{"event_id":"{event}","application":"{application}","machine_id":"{machine_id(number)}","kind":"{kind}",'
        f'"version":"{version}","boot_id":"{boot_id(number, boots)}","arch":"amd64",'
        f'"at":"{datetime.now(UTC).isoformat()}",'
        '"facts":{"arch":"amd64","track":"stable","oem":"ami","alephversion":"3033.2.0","platform":"CoreOS"}}'
    ).encode()


def step(application: str, number: int, kind: str, new_version: str) -> bytes:
    """What a healthy node reports at this step of its update."""
    booted = kind in {"booted", "committed"}
    return report(application, number, kind, new_version if booted else OLD_VERSION, int(booted))


class Reports:
    """Every node goes through its update, each step after the last one was acknowledged.

    A connection has nodes of its own; with ``pack`` above 1 it takes so many nodes at a time, and a POST holds the same
    step of each of them.
    """

    def __init__(self, plan: dict[str, object]) -> None:
        self._application = str(plan["application"])
        self._numbers = range(int(plan["first"]), int(plan["first"]) + int(plan["count"]))
        self._connections, self._pack = int(plan["connections"]), int(plan["pack"])
        self._kinds = [str(kind) for kind in plan["kinds"]]
        self._version = str(plan["version"])

    def stream(self, connection: int) -> Iterator[bytes]:
        mine = self._numbers[connection :: self._connections]
        for start in range(0, len(mine), self._pack):
            for kind in self._kinds:
                reports = [step(self._application, n, kind, self._version) for n in mine[start : start + self._pack]]
                body = reports[0] if self._pack == 1 else b"[%b]" % b",".join(reports)
                yield http("POST", "/v1/reports", body, "application/json")


def make(plan: dict[str, object]) -> Fixed | Polls | Reports:
    """The source that a plan names."""
    kind = plan["kind"]
    if kind == "fixed":
        return Fixed(str(plan["request"]).encode("latin-1"))
    if kind == "polls":
        return Polls(request_of(plan), int(plan["first"]), int(plan["count"]), cycle=bool(plan.get("cycle", True)))
    if kind == "reports":
        return Reports(plan)
    raise ValueError(f"no source is called {kind}")
