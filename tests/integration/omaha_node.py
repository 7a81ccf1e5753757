"""A node for tests: says what it is told to say, as update_engine would."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import aiohttp

from shared.omaha.request import App, Event, Request
from shared.testing.omaha_clients import render_request
from shared.testing.rollouts import OMAHA_ID

STEADY = Event(eventtype=3, eventresult=2, previousversion="")


@dataclass
class Answer:
    status: int
    body: bytes

    @property
    def check(self) -> ET.Element:
        found = ET.fromstring(self.body).find("app/updatecheck")  # noqa: S314  # our own answer
        assert found is not None, self.body
        return found

    @property
    def offered(self) -> bool:
        return self.check.get("status") == "ok"

    @property
    def token(self) -> str:
        url = self.check.find("urls/url")
        assert url is not None
        return url.attrib["codebase"].rstrip("/").rsplit("/", 1)[1]


@dataclass
class Node:
    session: aiohttp.ClientSession
    url: str
    version: str = "3033.2.0"
    machine_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    boot_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    board: str = "amd64-usr"
    track: str = "stable"

    def request(self, *events: Event, ping: bool = False, check: bool = False) -> bytes:
        app = App(
            appid="{" + OMAHA_ID + "}",
            version=self.version,
            track=self.track,
            bootid="{" + self.boot_id + "}",
            oem="ami",
            alephversion="3033.2.0",
            machineid=self.machine_id,
            board=self.board,
            lang="en-US",
            ping=ping,
            update_check=check,
            events=events,
        )
        return render_request(
            Request(
                protocol="3.0",
                updater_version="update_engine-0.4.10",
                install_source="scheduler",
                is_machine=True,
                os_platform="CoreOS",
                os_version="Chateau",
                os_service_pack=f"{self.version}_x86_64",
                apps=(app,),
            )
        )

    async def send(self, body: bytes) -> Answer:
        async with self.session.post(self.url, data=body, headers={"Content-Type": "text/xml"}) as response:
            return Answer(response.status, await response.read())

    async def poll(self, *events: Event) -> Answer:
        return await self.send(self.request(*(events or (STEADY,)), ping=True, check=True))

    async def event(self, eventtype: int, eventresult: int = 1, errorcode: int | None = None) -> Answer:
        return await self.send(self.request(Event(eventtype, eventresult, errorcode)))

    async def ping(self) -> Answer:
        return await self.send(self.request(ping=True))

    async def stage(self) -> None:
        """Download and install what was offered."""
        await self.event(13)
        await self.event(14)
        await self.event(3)

    def reboot(self, version: str | None = None) -> None:
        self.boot_id = str(uuid.uuid4())
        if version is not None:
            self.version = version
