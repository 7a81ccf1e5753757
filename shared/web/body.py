"""Reading request bodies within limits of size and time, and writing JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import msgspec
from aiohttp import hdrs, web

from shared.errors import InvalidInput, TooLarge, TooSlow, UnsupportedType

MAX_BODY_BYTES: Final = 1024 * 1024
REQUEST_TIMEOUT_S: Final = 20.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """An application's limits.

    Attributes:
        max_body_bytes: The largest body.
        request_timeout_s: Seconds that a body may take to arrive.
    """

    max_body_bytes: int = MAX_BODY_BYTES
    request_timeout_s: float = REQUEST_TIMEOUT_S


LIMITS: Final = web.AppKey("LIMITS", Limits)
KEPT_BODY: Final = web.RequestKey("KEPT_BODY", bytes)
_DEFAULT: Final = Limits()


async def keep_body(request: web.Request, *, max_bytes: int | None = None) -> bytes:
    """Read the whole body before the handler does; `read_body` gives it again.

    Raises:
        UneventfulError: What `read_body` raises.
    """
    body = await read_body(request, max_bytes=max_bytes)
    request[KEPT_BODY] = body
    return body


async def read_body(request: web.Request, *, max_bytes: int | None = None, timeout_s: float | None = None) -> bytes:
    """Read the whole body.

    Args:
        request: Where it comes from.
        max_bytes: The most that is read; None means the application's limit.
        timeout_s: Seconds until all of it must be here; None means the application's limit.

    Raises:
        TooLarge: It is larger, as announced or as counted.
        TooSlow: It did not arrive in time.
        UnsupportedType: It has a content coding; only plain bodies are read.
        InvalidInput: It ended early.
    """
    kept: bytes | None = request.get(KEPT_BODY)
    if kept is not None:
        if max_bytes is not None and len(kept) > max_bytes:
            raise _too_large(max_bytes)
        return kept
    if max_bytes is None or timeout_s is None:
        limits = request.config_dict.get(LIMITS, _DEFAULT)
        max_bytes = limits.max_body_bytes if max_bytes is None else max_bytes
        timeout_s = limits.request_timeout_s if timeout_s is None else timeout_s
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedType("send the body without Content-Encoding")
    announced = request.content_length
    if announced is not None and announced > max_bytes:
        raise _too_large(max_bytes)
    content = request.content
    try:
        if content.is_eof():
            # A small body comes in the same segment as its header: no timer needed.
            body = content.read_nowait()
        else:
            async with asyncio.timeout(timeout_s):
                body = await _gather(content, max_bytes)
    except TimeoutError as error:
        raise TooSlow(f"the body did not arrive within {timeout_s:g} s") from error
    except web.RequestPayloadError as error:
        raise InvalidInput("the body ended early or is not well-formed HTTP") from error
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


async def read_json(
    request: web.Request, kind: type[T], *, max_bytes: int | None = None, timeout_s: float | None = None
) -> T:
    """Read the body as JSON of a type.

    Args:
        request: Where it comes from.
        kind: What msgspec decodes and validates: a Struct, usually.
        max_bytes: As for `read_body`.
        timeout_s: As for `read_body`.

    Raises:
        UnsupportedType: The media type is given and is not JSON.
        InvalidInput: It is not JSON, or not of that type; the message holds the path of the fault.
        UneventfulError: What `read_body` raises.
    """
    media_type = request.headers.get(hdrs.CONTENT_TYPE)
    if media_type is not None:
        essence = media_type.partition(";")[0].strip().lower()
        if essence != "application/json" and not essence.endswith("+json"):
            raise UnsupportedType(f"send the body as application/json, not {essence[:100]!r}")
    return decode_json(await read_body(request, max_bytes=max_bytes, timeout_s=timeout_s), kind)


def decode_json(body: bytes, kind: type[T]) -> T:
    """Decode and validate JSON.

    Raises:
        InvalidInput: With the path of the fault, like ``$.payloads[0].size``.
    """
    try:
        decoded: T = _decoder(cast("Hashable", kind)).decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidInput("the body is nested too deeply") from error
    return decoded


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with ``value`` as JSON: Structs, dataclasses, UUIDs and aware times included."""
    return web.Response(
        status=status, body=msgspec.json.encode(value), headers={"Content-Type": "application/json", **(headers or {})}
    )


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


async def _gather(content: Any, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes", details={"max_bytes": max_bytes})
