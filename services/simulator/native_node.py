"""A node of our own agent: checks and reports as JSON, and asks again before it reboots and before it commits."""

from __future__ import annotations

import enum
import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import msgspec

from services.simulator.fates import Fate

TIMEOUT: Final = aiohttp.ClientTimeout(total=30.0)


class Step(enum.Enum):
    """What a tick came to."""

    NO_UPDATE = "no_update"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    RECALLED = "recalled"
    SILENT = "silent"


class Refused(Exception):  # noqa: N818  # says what the server did
    """The server answered with an error.

    Args:
        status: HTTP's.
        body: What it said.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:200].decode(errors='replace')}")
        self.status = status


@dataclass(slots=True, kw_only=True)
class NativeNode:
    """One machine.

    Attributes:
        check_url: Where update_check is.
        report_url: Where telemetry is.
        rng: Makes boot ids, event ids and the nonce.
        token: Its own, once it has enrolled.
        fate: What happens to it when it boots a new release.
        last: The last answer to a check.
    """

    machine_id: str
    application: str
    version: str
    check_url: str
    report_url: str
    rng: random.Random
    arch: str = "amd64"
    facts: dict[str, str] = field(default_factory=dict)
    fate: Fate = Fate.GOOD
    token: str | None = None
    boot_id: str = ""
    silent: bool = False
    last: dict[str, Any] = field(default_factory=dict, repr=False)
    nonce: str = ""

    def __post_init__(self) -> None:
        """Boots."""
        self.boot_id = self.boot_id or self._uuid()
        self.nonce = self.nonce or f"{self.rng.getrandbits(256):064x}"

    async def enrol(self, session: aiohttp.ClientSession, enrolment_token: str) -> None:
        """Get a token of its own; asking again gives the same one.

        Raises:
            Refused: The token is not in force, or the machine has another one.
        """
        body = {"application": self.application, "machine_id": self.machine_id, "nonce": self.nonce}
        self.token = (await self._post(session, self.check_url + "/v1/enrol", body, enrolment_token))["token"]

    async def check(self, session: aiohttp.ClientSession, attempt: tuple[str, str] | None = None) -> dict[str, Any]:
        """Ask what is to be done; ``attempt`` is the token and state of the one under way.

        Raises:
            Refused: The server answered with an error.
        """
        body: dict[str, Any] = {
            "application": self.application,
            "machine_id": self.machine_id,
            "boot_id": self.boot_id,
            "version": self.version,
            "arch": self.arch,
            "facts": self.facts,
        }
        if attempt is not None:
            body["attempt"] = {"token": attempt[0], "state": attempt[1]}
        self.last = await self._post(session, self.check_url + "/v1/check", body, self.token)
        return self.last

    async def report(self, session: aiohttp.ClientSession, kind: str) -> None:
        """Say what happened; taken once the call returns.

        Raises:
            Refused: It was not taken.
        """
        body = {
            "event_id": self._uuid(),
            "machine_id": self.machine_id,
            "application": self.application,
            "kind": kind,
            "version": self.version,
            "boot_id": self.boot_id,
            "at": datetime.now(UTC).isoformat(),
            "arch": self.arch,
            "facts": self.facts,
        }
        answer = await self._post(session, self.report_url + "/v1/reports", body, self.token)
        if answer["errors"]:
            raise Refused(202, msgspec.json.encode(answer["errors"]))

    async def tick(self, session: aiohttp.ClientSession) -> Step:
        """Check once, and take what is offered with all that follows from it.

        Raises:
            Refused: The server answered with an error.
        """
        if self.silent:
            return Step.SILENT
        update = (await self.check(session))["update"]
        if update is None:
            return Step.NO_UPDATE
        for kind in ("download_started", "downloaded", "staged"):
            await self.report(session, kind)
        if await self._is_recalled(session, update, "staged"):
            await self.report(session, "failed")
            return Step.RECALLED
        former = self.version
        self.boot_id = self._uuid()
        if self.fate is Fate.SILENT:
            self.silent = True
            return Step.SILENT
        self.version = update["version"]
        if self.fate is not Fate.ROLLS_BACK:
            await self.report(session, "booted")
            if not await self._is_recalled(session, update, "probation"):
                await self.report(session, "committed")
                return Step.COMMITTED
        self.version, self.boot_id = former, self._uuid()
        await self.report(session, "rolled_back")
        return Step.ROLLED_BACK

    async def _is_recalled(self, session: aiohttp.ClientSession, update: dict[str, Any], state: str) -> bool:
        return bool((await self.check(session, (update["attempt"], state)))["recall"])

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    async def _post(self, session: aiohttp.ClientSession, url: str, body: object, token: str | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with session.post(url, data=msgspec.json.encode(body), headers=headers, timeout=TIMEOUT) as answer:
            content = await answer.read()
            if answer.status >= 300:
                raise Refused(answer.status, content)
            decoded: dict[str, Any] = msgspec.json.decode(content)
            return decoded
