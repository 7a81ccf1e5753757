"""HTTP in and out; who may have a payload is decided in `access`, which bytes in `ranges` and `preconditions`."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog
from aiohttp import hdrs, web

from services.distribution.access import Allowed, Refused, Unlisted
from services.distribution.errors import problem_of
from services.distribution.gate_watch import GATES
from services.distribution.payload_files import OpenPayload, PayloadFiles
from services.distribution.preconditions import Precondition, evaluate, http_date, if_range_holds
from services.distribution.ranges import (
    ByteRange,
    Whole,
    content_range,
    multipart_end,
    part_head,
    select,
    unsatisfied_range,
)
from services.distribution.sending import Interrupted, Part, send
from services.distribution.settings import Settings
from shared.errors import (
    InvalidInput,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    RangeUnsatisfiable,
    TooLarge,
    TooSlow,
    Unavailable,
    UnsupportedType,
)
from shared.observability import counter, gauge
from shared.web import PRINCIPAL, Role, json_response, problem_response

PAYLOAD_TYPE: Final = "application/octet-stream"
# A digest names the same bytes for ever; "public" would let a shared cache answer for us after a halt.
CACHE_CONTROL: Final = "private, max-age=31536000, immutable"
BUSY_RETRY_AFTER_S: Final = 15.0

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")

_log = structlog.get_logger()
_DOWNLOADS: Final = counter(
    "uneventful_distribution_downloads", "Downloads asked for, by what became of them.", ("outcome",)
)
_UPLOADS: Final = counter("uneventful_distribution_uploads", "Uploads, by what became of them.", ("outcome",))
_ACTIVE: Final = gauge("uneventful_distribution_active_downloads", "Downloads under way.")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a path asks for."""

    sha256: str
    name: str
    token: str | None


class PayloadRoutes:
    """The routes under /payloads.

    Args:
        files: Where the payloads are.
        settings: Limits.
    """

    def __init__(self, files: PayloadFiles, settings: Settings) -> None:
        self._files = files
        self._settings = settings
        self._downloads = 0
        self._uploads = 0
        _ACTIVE.watch(lambda: self._downloads)

    def table(self) -> list[web.RouteDef]:
        """The routes, as openapi.yaml has them."""
        return [
            # aiohttp answers HEAD with the handler of GET.
            web.get("/payloads/{sha256}/{name}", self.download),
            web.get("/payloads/{sha256}/{token}/{name}", self.download),
            web.head("/payloads/{sha256}", self.look_up),
            web.put("/payloads/{sha256}", self.upload),
        ]

    async def download(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD of a payload, or of ranges of it."""
        wanted = _wanted(request)
        decision = await request.app[GATES].decide(wanted.sha256, wanted.name, wanted.token)
        match decision:
            case Unlisted():
                _DOWNLOADS.add(1, ("not_found",))
                raise NotFound("no published changeset has a payload of this digest and name")
            case Refused():
                _DOWNLOADS.add(1, (decision.code.value,))
                raise problem_of(decision)
            case Allowed():
                wanted = replace(wanted, sha256=decision.sha256)
        if self._settings.accel_prefix is not None:
            _DOWNLOADS.add(1, ("accelerated",))
            return self._accelerated(wanted, self._settings.accel_prefix)
        if request.method == hdrs.METH_HEAD:
            return await self._respond(request, wanted)
        if self._downloads >= self._settings.max_downloads:
            _DOWNLOADS.add(1, ("busy",))
            raise Unavailable(
                f"{self._downloads} downloads are under way, which is the most; try again later",
                retry_after_s=BUSY_RETRY_AFTER_S,
            )
        self._downloads += 1
        try:
            return await self._respond(request, wanted)
        finally:
            self._downloads -= 1

    async def look_up(self, request: web.Request) -> web.StreamResponse:
        """HEAD by an operator: whether the store has a payload, published or not, and its size."""
        sha256 = request.match_info["sha256"]
        if _DIGEST.fullmatch(sha256) is None:
            raise InvalidInput("the path must end in a sha256, 64 lower-case hexadecimal digits")
        payload = await asyncio.to_thread(self._files.open, sha256)
        if payload is None:
            raise NotFound("this payload is not in this store; upload it")
        payload.file.close()
        return web.Response(
            headers={hdrs.CONTENT_LENGTH: str(payload.size), hdrs.CONTENT_TYPE: PAYLOAD_TYPE, hdrs.ETAG: f'"{sha256}"'}
        )

    async def upload(self, request: web.Request) -> web.StreamResponse:
        """PUT of a payload by an operator: stored if its bytes have the digest in the path."""
        sha256 = request.match_info["sha256"]
        if _DIGEST.fullmatch(sha256) is None:
            raise InvalidInput("the path must end in a sha256, 64 lower-case hexadecimal digits")
        if not request[PRINCIPAL].role.covers(Role.OPERATOR):
            raise NotPermitted("only a token of the role operator or above may upload")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise UnsupportedType("send the payload without Content-Encoding")
        limit = self._settings.max_upload_bytes
        if (request.content_length or 0) > limit:
            raise TooLarge(f"a payload may have {limit} bytes", details={"max_bytes": limit})
        if self._uploads >= self._settings.max_uploads:
            raise Unavailable("too many uploads are under way; try again later", retry_after_s=BUSY_RETRY_AFTER_S)
        self._uploads += 1
        outcome = "failed"
        try:
            stored = await self._files.receive(sha256, self._chunks(request), max_bytes=limit)
            outcome = "created" if stored.created else "known"
        finally:
            self._uploads -= 1
            _UPLOADS.add(1, (outcome,))
        _log.info("payload.stored", sha256=sha256, size=stored.size, created=stored.created, by=request[PRINCIPAL].name)
        body = {"sha256": stored.sha256, "sha1_base64": stored.sha1_base64, "size": stored.size}
        return json_response(body, status=201 if stored.created else 200)

    async def _chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._settings.stall_seconds):
                    chunk = await request.content.readany()
            except TimeoutError as error:
                raise TooSlow(f"nothing came for {self._settings.stall_seconds:g} s") from error
            if not chunk:
                return
            yield chunk

    def _accelerated(self, wanted: _Wanted, prefix: str) -> web.StreamResponse:
        """Let nginx send it: ranges and conditions are its business then, on the same file."""
        return web.Response(
            headers={
                "X-Accel-Redirect": prefix + self._files.relative_path(wanted.sha256),
                hdrs.CONTENT_TYPE: PAYLOAD_TYPE,
                hdrs.CACHE_CONTROL: CACHE_CONTROL,
            }
        )

    async def _respond(self, request: web.Request, wanted: _Wanted) -> web.StreamResponse:
        payload = await asyncio.to_thread(self._files.open, wanted.sha256)
        if payload is None:
            _DOWNLOADS.add(1, ("missing",))
            _log.error("payload.missing", sha256=wanted.sha256, name=wanted.name)
            raise NotFound("this payload is listed, and is not in this store; upload it")
        try:
            return await self._respond_with(request, wanted, payload)
        finally:
            payload.file.close()

    async def _respond_with(self, request: web.Request, wanted: _Wanted, payload: OpenPayload) -> web.StreamResponse:
        etag = f'"{wanted.sha256}"'
        headers: dict[str, str] = {
            hdrs.ETAG: etag,
            hdrs.LAST_MODIFIED: http_date(payload.modified),
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CACHE_CONTROL: CACHE_CONTROL,
        }
        match evaluate(request.headers, etag, payload.modified):
            case Precondition.NOT_MODIFIED:
                _DOWNLOADS.add(1, ("not_modified",))
                return web.Response(status=304, headers=headers)
            case Precondition.FAILED:
                _DOWNLOADS.add(1, ("precondition_failed",))
                raise PreconditionFailed(f"this is {etag}; ask without If-Match and If-Unmodified-Since")
            case Precondition.PROCEED:
                pass
        ranges: tuple[ByteRange, ...] | Whole = Whole.WHOLE
        if request.method == hdrs.METH_GET and if_range_holds(
            request.headers.get(hdrs.IF_RANGE), etag, payload.modified
        ):
            ranges = select(_joined(request, hdrs.RANGE), payload.size)
        if ranges is Whole.UNSATISFIABLE:
            _DOWNLOADS.add(1, ("unsatisfiable",))
            answer = problem_response(RangeUnsatisfiable(f"the payload has {payload.size} bytes; ask for some of them"))
            answer.headers.update(headers | {"Content-Range": unsatisfied_range(payload.size)})
            return answer
        outcome, status, body_headers, parts, end = _plan(ranges, payload.size)
        length = sum(len(part.head) + part.span.length for part in parts) + len(end)
        response = web.StreamResponse(status=status, headers={**headers, **body_headers})
        response.content_length = length
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            _DOWNLOADS.add(1, ("head",))
            return response
        gates = request.app[GATES]
        try:
            await send(
                request,
                response,
                payload.file,
                parts,
                end,
                may_go_on=lambda: isinstance(gates.still(wanted.sha256, wanted.name, wanted.token), Allowed),
                stall_seconds=self._settings.stall_seconds,
            )
        except Interrupted as interruption:
            outcome = interruption.why
            if outcome == "file_cut":
                _log.error("payload.cut_short", sha256=wanted.sha256, size=payload.size)
            # Part of the body is out: only the end of the connection can say that the rest does not come.
            response.force_close()
            if request.transport is not None:
                request.transport.abort()
        _DOWNLOADS.add(1, (outcome,))
        return response


def _wanted(request: web.Request) -> _Wanted:
    info: Mapping[str, str] = request.match_info
    sha256, token = info["sha256"], info.get("token")
    if _DIGEST.fullmatch(sha256) is None or (token is not None and _TOKEN.fullmatch(token) is None):
        raise NotFound("a payload's path is /payloads/<sha256>/<name> or /payloads/<sha256>/<token>/<name>")
    return _Wanted(sha256, info["name"], token)


def _joined(request: web.Request, field: str) -> str | None:
    """A field's value; several lines of it count as one list (RFC 9110 5.3)."""
    values = request.headers.getall(field, [])
    return ", ".join(values) if values else None


def _plan(ranges: tuple[ByteRange, ...] | Whole, size: int) -> tuple[str, int, dict[str, str], tuple[Part, ...], bytes]:
    """Outcome, status, headers of the body, parts and end."""
    if isinstance(ranges, Whole):
        spans = (Part(b"", ByteRange(0, size)),) if size else ()
        return "whole", 200, {"Content-Type": PAYLOAD_TYPE}, spans, b""
    if len(ranges) == 1:
        headers = {"Content-Type": PAYLOAD_TYPE, "Content-Range": content_range(ranges[0], size)}
        return "range", 206, headers, (Part(b"", ranges[0]),), b""
    boundary = secrets.token_hex(16)
    parts = tuple(Part(part_head(span, size, boundary, PAYLOAD_TYPE), span) for span in ranges)
    headers = {"Content-Type": f"multipart/byteranges; boundary={boundary}"}
    return "ranges", 206, headers, parts, multipart_end(boundary)
