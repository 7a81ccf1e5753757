"""Sending parts of files by sendfile: the kernel copies, so a download costs a few KiB of memory whatever its size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Final, cast

from aiohttp import web

from services.distribution.ranges import ByteRange
from shared.observability import counter

SLICE_BYTES: Final = 4 * 1024 * 1024
"""After each slice the gates are looked at again, and the peer must have taken it within the stall time."""

BYTES: Final = counter("uneventful_distribution_bytes", "Bytes of payloads that the kernel took for peers.")


class Interrupted(Exception):  # noqa: N818  # an end, not a fault
    """The download was ended early; ``why`` is a bounded word."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a body: text before it, then bytes of the file."""

    head: bytes
    span: ByteRange


async def send(
    request: web.Request,
    response: web.StreamResponse,
    file: FileIO,
    parts: Sequence[Part],
    end: bytes,
    *,
    may_go_on: Callable[[], bool],
    stall_seconds: float,
) -> None:
    """Send a prepared response's body.

    Args:
        request: Whose answer it is.
        response: Prepared, with a Content-Length of all heads, spans and the end.
        file: An open payload, read at the positions of the spans.
        parts: What to send, in order.
        end: Text after the last part.
        may_go_on: Asked before every slice but the first of the body.
        stall_seconds: How long the peer may take for a slice.

    Raises:
        Interrupted: The peer went or stalled, the file ended early, or ``may_go_on`` said no; the connection cannot
            be used any more.
    """
    loop = asyncio.get_running_loop()
    first = True
    try:
        for part in parts:
            if part.head:
                async with asyncio.timeout(stall_seconds):
                    await response.write(part.head)
            position, left = part.span.start, part.span.length
            while left:
                if not first and not may_go_on():
                    raise Interrupted("refused")
                first = False
                transport = request.transport
                if transport is None or transport.is_closing():
                    raise Interrupted("peer_left")
                count = min(left, SLICE_BYTES)
                async with asyncio.timeout(stall_seconds):
                    sent = await loop.sendfile(cast("asyncio.WriteTransport", transport), file, position, count)
                BYTES.add(sent)
                if sent != count:
                    raise Interrupted("file_cut")
                position += sent
                left -= sent
        if end:
            async with asyncio.timeout(stall_seconds):
                await response.write(end)
    except TimeoutError as error:
        raise Interrupted("stalled") from error
    except OSError as error:
        raise Interrupted("peer_left") from error
