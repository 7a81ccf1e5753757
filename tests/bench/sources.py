"""Requests of the load generator, made as they are sent: bytes with a few places to fill."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.omaha.request import App, Event, Request
from shared.testing.omaha_clients import render_request
from shared.testing.rollouts import OMAHA_ID

_MACHINE = "0123456789abcdef0123456789abcdef"
_BOOT = "01234567-89ab-cdef-0123-456789abcdef"
OLD_VERSION = "3033.2.0"
STEADY = Event(3, 2, None, "")


def machine_id(number: int) -> str:
    """The machine id of the bench's node of this number."""
    return hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()


def boot_id(number: int, boots: int = 0) -> str:
    """The node's boot id after so many reboots."""
    return f"{boots:08x}-0000-4000-8000-{number:012x}"


def http(method: str, path: str, body: bytes = b"", content_type: str | None = None, headers: str = "") -> bytes:
    """A whole HTTP/1.1 request for a connection that is kept alive."""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n{headers}{kind}{length}\r\n".encode() + body


def omaha_template(version: str, *events: Event, ping: bool = True, check: bool = True) -> tuple[bytes, bytes, bytes]:
    """A request exactly as update_engine sends it, cut where boot id and machine id belong."""
    app = App(
        appid="{" + OMAHA_ID + "}",
        version=version,
        track="stable",
        bootid="{" + _BOOT + "}",
        oem="ami",
        alephversion="3033.2.0",
        machineid=_MACHINE,
        board="amd64-usr",
        lang="en-US",
        ping=ping,
        update_check=check,
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


@dataclass(frozen=True)
class Fixed:
    """The same bytes for ever."""

    request: bytes

    def stream(self, _connection: int) -> Iterator[bytes]:
        return itertools.repeat(self.request)


class Polls:
    """Update checks of nodes ``first`` to ``first + count - 1``, over all connections; again and again if ``cycle``.

    What a node is called is looked up in a table made beforehand, so that the generator stays cheap.
    """

    def __init__(self, version: str, first: int, count: int, *, cycle: bool) -> None:
        before, middle, after = omaha_template(version, STEADY)
        if cycle and count <= 20_000:
            ready = [before + boot_id(n).encode() + middle + machine_id(n).encode() + after for n in range(first, first + count)]
            self._next: Iterator[bytes] = itertools.cycle(ready)
        else:
            numbers = itertools.chain.from_iterable(itertools.repeat(range(first, first + count))) if cycle else iter(range(first, first + count))
            self._next = (
                b"%b%b%b%b%b" % (before, boot_id(n).encode(), middle, machine_id(n).encode(), after) for n in numbers
            )

    def stream(self, _connection: int) -> Iterator[bytes]:
        return self._next


NATIVE_STEPS = ("download_started", "downloaded", "staged", "booted", "committed")


def make(plan: dict[str, object]) -> Fixed | Polls:
    """The source that a plan names."""
    kind = plan["kind"]
    if kind == "fixed":
        return Fixed(str(plan["request"]).encode("latin-1"))
    if kind == "polls":
        return Polls(str(plan["version"]), int(plan["first"]), int(plan["count"]), cycle=bool(plan.get("cycle", True)))
    raise ValueError(f"no source is called {kind}")
