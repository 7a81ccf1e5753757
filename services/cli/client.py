"""Talking to control and distribution, within limits of time and size."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson
import stamina
from yarl import URL

from services.cli.errors import Refused, Unreachable, Waits, from_problem
from services.cli.target import Target

API: Final = "/api/v1"
TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0, sock_connect=5.0)
UPLOAD_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=300.0)
STREAM_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=30.0)
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024
_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

Item = dict[str, Any]


class Client:
    """A session with the API; an ``async with`` block.

    Every method raises `Refused` where the server will not, `Unreachable` where it does not answer, and `Waits` where
    another one has to allow it first.

    Args:
        target: Where, and with which token.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": "uneventful-cli", "Accept": "application/json"}
        if self._target.token is not None:
            headers["Authorization"] = f"Bearer {self._target.token}"
        self._session = aiohttp.ClientSession(headers=headers, timeout=TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: Any) -> Any:
        """GET; what fails to connect is tried again for a few seconds."""
        given = {name: _text(value) for name, value in query.items() if value is not None}
        try:
            async for attempt in stamina.retry_context(
                on=aiohttp.ClientConnectorError, attempts=3, timeout=5.0, wait_initial=0.2
            ):
                with attempt:
                    return await self._ask("GET", path, query=given)
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise self._unreachable(fault) from fault
        raise AssertionError  # stamina either runs the block or raises

    async def lines(self, path: str, **query: Any) -> AsyncGenerator[Item, None]:
        """GET of what comes as NDJSON, a line at a time, for as long as it comes; empty lines are left out."""
        given = {name: _text(value) for name, value in query.items() if value is not None}
        url = URL(self._target.url + API + path, encoded=True)
        try:
            async with self._session.get(url, params=given, timeout=STREAM_TIMEOUT, allow_redirects=False) as answer:
                if answer.status != 200:
                    await _read(answer)
                async for line in answer.content:
                    if line.strip():
                        yield orjson.loads(line)
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise self._unreachable(fault) from fault

    async def post(self, path: str, body: Mapping[str, Any], **query: Any) -> Any:
        """POST, once: whether a lost answer was a change is for the operator to see."""
        return await self._send("POST", path, body, query)

    async def patch(self, path: str, body: Mapping[str, Any], **query: Any) -> Any:
        """PATCH, once."""
        return await self._send("PATCH", path, body, query)

    async def delete(self, path: str, body: Mapping[str, Any], **query: Any) -> Any:
        """DELETE, once, with a body that says why."""
        return await self._send("DELETE", path, body, query)

    async def post_report(
        self, path: str, report: bytes, *, media_type: str, signature: str | None = None, **query: Any
    ) -> Any:
        """POST a file's bytes, once; ``signature`` is a tester's, as ``KEY_ID:BASE64``."""
        given = {name: _text(value) for name, value in query.items() if value is not None}
        headers = {"Content-Type": media_type}
        if signature is not None:
            headers["Uneventful-Signature"] = signature
        try:
            return await self._ask("POST", path, query=given, data=report, headers=headers)
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise self._unreachable(fault) from fault

    async def _send(self, method: str, path: str, body: Mapping[str, Any], query: Mapping[str, Any]) -> Any:
        given = {name: _text(value) for name, value in query.items() if value is not None}
        try:
            return await self._ask(
                method, path, query=given, data=orjson.dumps(body), headers={"Content-Type": "application/json"}
            )
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise self._unreachable(fault) from fault

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        url = URL(self._target.url + API + path, encoded=True)
        headers = dict(headers or {})
        if method != "GET" and self._target.approval is not None:
            headers["Uneventful-Approval"] = self._target.approval
        async with self._session.request(
            method, url, params=query, data=data, headers=headers, allow_redirects=False
        ) as answer:
            value = await _read(answer)
            if answer.status == 202 and isinstance(value, dict) and "approval_id" in value:
                raise Waits(value)
            return value

    def _unreachable(self, fault: BaseException) -> Unreachable:
        what = "did not answer in time" if isinstance(fault, TimeoutError) else f"cannot be reached ({fault})"
        return Unreachable(
            f"control at {self._target.url} {what}",
            hint="See that it runs (`uneventful up`), or name another server by --url.",
        )

    async def items(self, path: str, *, most: int = 1_000, **query: Any) -> list[Item]:
        """All items of a list, page by page, up to ``most``."""
        found: list[Item] = []
        cursor = None
        while len(found) < most:
            page = await self.get(path, **query, cursor=cursor, limit=min(500, most - len(found)))
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        return found

    # References: what people call things

    async def changeset_id(self, reference: str, *, app: str | None = None, arch: str | None = None) -> str:
        """A changeset by id or version."""
        return await self._one("changeset", "version", reference, "/changesets", application=app, arch=arch)

    async def channel_id(self, reference: str, *, app: str | None = None, arch: str | None = None) -> str:
        """A channel by id or name."""
        return await self._one("channel", "name", reference, "/channels", application=app, arch=arch)

    async def group_id(self, reference: str, *, app: str | None = None) -> str:
        """A group by id or name."""
        return await self._one("group", "name", reference, "/groups", application=app)

    async def node_id(self, reference: str, *, app: str | None = None) -> str:
        """A node by id, machine id or alias."""
        if not _ID.fullmatch(reference):
            named = (await self.get("/nodes", alias=reference, application=app, limit=2))["items"]
            known = (await self.get("/nodes", machine=reference, application=app, limit=2))["items"]
            if not known and len(named) == 1:
                return str(named[0]["node_id"])
        return await self._one("node", "machine", reference, "/nodes", application=app)

    async def rollout_id(self, reference: str, *, app: str | None = None) -> str:
        """A rollout by id, or the active, else newest one of a group by the group's name."""
        if _ID.fullmatch(reference):
            return reference
        group_id = await self.group_id(reference, app=app)
        found = (await self.get("/rollouts", group=group_id, purpose="update", limit=50))["items"]
        active = [item for item in found if item["state"] not in ("completed", "aborted", "superseded")]
        if not found:
            raise Refused(f"group {reference} has no rollout: promote a changeset to its channel")
        if len(active) > 1:
            shown = ", ".join(f"{item['rollout_id']} ({item['arch']})" for item in active)
            raise Refused(f"group {reference} has several active rollouts: {shown}. Name one by its id.")
        return str((active or found)[0]["rollout_id"])

    async def _one(self, what: str, by: str, reference: str, path: str, **query: Any) -> str:
        if _ID.fullmatch(reference):
            return reference
        found = (await self.get(path, **{by: reference}, **query, limit=5))["items"]
        key = f"{what}_id"
        if not found:
            raise Refused(f"there is no {what} {reference!r}; `uneventful {what} list` shows what there is")
        if len(found) > 1:
            shown = ", ".join(
                " ".join(str(part) for part in (item[key], item.get("application"), item.get("arch")) if part)
                for item in found
            )
            raise Refused(f"{reference!r} is several: {shown}. Name one by its id, or say --app and --arch.")
        return str(found[0][key])

    # Payloads

    async def upload(
        self, path: Path, *, sha256: str, size: int, on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Send a file to the distribution, unless it is there."""
        base = self._target.distribution_url or (await self.get("/server"))["distribution_url"]
        if base is None:
            raise Unreachable("control does not know where the distribution is", hint="Name it by --distribution-url.")
        url = URL(f"{base.rstrip('/')}/payloads/{sha256}")
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        try:
            async with self._session.put(
                url,
                data=_pieces(path, on_progress),
                headers=headers,
                timeout=UPLOAD_TIMEOUT,
                allow_redirects=False,
            ) as answer:
                await _read(answer)
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise Unreachable(
                f"the upload to {base} broke off ({type(fault).__name__}: {fault})",
                hint="Run the same command again; what is complete is not sent twice.",
            ) from fault


async def _pieces(path: Path, on_progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    with contextlib.closing(await asyncio.to_thread(path.open, "rb")) as file:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece
            on_progress(len(piece))


async def _read(answer: aiohttp.ClientResponse) -> Any:
    body = await answer.content.read(MAX_ANSWER_BYTES + 1) if answer.content_length == 0 else await _all_of(answer)
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as fault:
        raise Refused(
            f"{answer.url.origin()} answered {answer.status} with something that is not JSON: is it control?"
        ) from fault
    if not 200 <= answer.status < 300:
        raise from_problem(answer.status, value if isinstance(value, dict) else {})
    return value


async def _all_of(answer: aiohttp.ClientResponse) -> bytes:
    pieces = bytearray()
    async for piece in answer.content.iter_any():
        pieces += piece
        if len(pieces) > MAX_ANSWER_BYTES:
            raise Refused(f"{answer.url.origin()} answered with more than {MAX_ANSWER_BYTES} bytes")
    return bytes(pieces)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)
