"""The relay's publisher: persistent messages, confirms pipelined in a bounded window, little Python per message.

aio-pika spends 75 to 95 us of Python on a confirmed message, most of it in futures, locks and the generic marshalling
of frames. Here the frames of many messages are put together by hand (AMQP 0-9-1, 2.3.5 and 4.2.6) and given to the
connection's writer at once, and one future counts the confirms of all of them. The connection, the channel and the
bookkeeping of confirms are aiormq's.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Sequence

import aiormq
from aio_pika.abc import AbstractChannel
from aiormq.abc import ChannelFrame

from shared.bus.interface import Message
from shared.errors import Unavailable
from shared.events import CONTENT_TYPE

WINDOW = 1000
CHUNK_BYTES = 64 * 1024
CONFIRM_TIMEOUT_S = 30.0

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH = 60, 40
_PERSISTENT = b"\x02"
# Which properties follow: content-type, headers, delivery-mode, message-id, type (AMQP 0-9-1, class basic).
_FLAGS = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 5


def _short(text: str) -> bytes:
    raw = text.encode()
    return bytes((len(raw),)) + raw


def _header(name: str, value: str) -> bytes:
    raw = value.encode()
    return b"%b%b" % (_header_name(name), struct.pack(">I", len(raw)) + raw)


@functools.cache
def _header_name(name: str) -> bytes:
    return _short(name) + b"S"


_CONTENT_TYPE = _short(CONTENT_TYPE)
_SPEC_VERSION = _header("cloudEvents_specversion", "1.0")


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + _END


@functools.lru_cache(maxsize=1024)
def _publish_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    payload = struct.pack(">HHH", _BASIC, _PUBLISH, 0) + _short(exchange) + _short(routing_key) + b"\x00"
    return _frame(_METHOD, channel, payload)


def _traceparent(raw: bytes) -> str | None:
    """The event's trace context, without decoding the event: its keys are sorted, so it follows ``specversion``."""
    start = raw.rfind(b'"traceparent":"')
    if start < 0 or start < raw.rfind(b'"specversion":"1.0"'):
        return None
    start += len(b'"traceparent":"')
    return raw[start : start + 55].decode("ascii", "replace")


def frames(message: Message, *, channel: int, exchange: str, frame_max: int) -> bytes:
    """The frames of one publish: method, header with properties, body in parts that fit ``frame_max``.

    The CloudEvents attributes that consumers route on are mirrored in headers named ``cloudEvents_*``; the trace
    context in which it happened is in ``traceparent``, where instrumented consumers look for it.
    """
    traceparent = _traceparent(message.raw)
    headers = b"".join(
        (
            _SPEC_VERSION,
            _header("cloudEvents_id", str(message.event_id)),
            _header("cloudEvents_type", message.type),
            _header("cloudEvents_subject", message.subject),
            _header("cloudEvents_partitionkey", message.partition_key),
            _header("cloudEvents_sequence", f"{message.seq:020d}"),
            b"" if message.correlation_id is None else _header("cloudEvents_correlationid", message.correlation_id),
            b"" if traceparent is None else _header("traceparent", traceparent),
        )
    )
    properties = b"%b%b%b%b%b%b" % (
        _CONTENT_TYPE,
        struct.pack(">I", len(headers)),
        headers,
        _PERSISTENT,
        _short(str(message.event_id)),
        _short(message.type),
    )
    raw = message.raw
    header = struct.pack(">HHQH", _BASIC, 0, len(raw), _FLAGS) + properties
    room = frame_max - 8
    parts = [_publish_frame(channel, exchange, message.type), _frame(_HEADER, channel, header)]
    parts += [_frame(_BODY, channel, raw[start : start + room]) for start in range(0, len(raw), room)]
    return b"".join(parts)


class _Confirms(asyncio.Future[None]):
    """Done when the last of ``outstanding`` messages is confirmed; failed by the first that is refused."""

    outstanding = 0

    def set_result(self, _: object) -> None:
        self.outstanding -= 1
        if self.outstanding == 0:
            super().set_result(None)


class PipelinedPublisher:
    """Publishes batches on a channel that nobody else publishes on.

    Args:
        channel: Open, with publisher confirms.
        exchange: Where to publish; the routing key is the event type.
        timeout_s: How long the broker may take for each window. A broker that blocks publishers runs into it.
    """

    def __init__(
        self, channel: aiormq.abc.AbstractChannel, exchange: str, timeout_s: float = CONFIRM_TIMEOUT_S
    ) -> None:
        if not isinstance(channel, aiormq.Channel) or not channel.publisher_confirms:
            raise TypeError("PipelinedPublisher needs an aiormq channel with publisher confirms")
        self._channel = channel
        self._exchange = exchange
        self._timeout_s = timeout_s
        self._frame_max = channel.max_content_size + channel.CONTENT_FRAME_SIZE

    @classmethod
    async def on(cls, channel: AbstractChannel, exchange: str) -> PipelinedPublisher:
        """A publisher on an aio-pika channel."""
        return cls(await channel.get_underlay_channel(), exchange)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish in order; returns when the broker has confirmed all of them.

        Messages go out in windows of 1,000. A message that no queue wants is confirmed.

        Raises:
            Unavailable: The broker refused one, went away or took too long. Some may have been taken: publish all of
                them again, on a new channel.
        """
        for start in range(0, len(messages), WINDOW):
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._publish_window(messages[start : start + WINDOW])
            except (TimeoutError, OSError, aiormq.exceptions.AMQPError) as fault:
                raise Unavailable(f"the broker did not confirm: {fault!r}", retry_after_s=1.0) from fault

    async def _publish_window(self, window: Sequence[Message]) -> None:
        channel = self._channel
        closing = channel.closing
        confirms = _Confirms(loop=asyncio.get_running_loop())
        confirms.outstanding = len(window)
        try:
            chunk, size = list[bytes](), 0
            for message in window:
                raw = frames(message, channel=channel.number, exchange=self._exchange, frame_max=self._frame_max)
                channel.delivery_tag += 1
                channel.confirmations[channel.delivery_tag] = confirms
                chunk.append(raw)
                size += len(raw)
                if size >= CHUNK_BYTES:
                    await self._write(chunk, closing)
                    chunk, size = [], 0
            if chunk:
                await self._write(chunk, closing)
            await asyncio.wait((confirms, closing), return_when=asyncio.FIRST_COMPLETED)
            if not confirms.done():
                raise ConnectionResetError("the channel closed before all confirms came")
            confirms.result()
        finally:
            if not confirms.done():
                confirms.cancel()
            elif not confirms.cancelled():
                confirms.exception()
            closing.cancel()

    async def _write(self, chunk: Sequence[bytes], closing: asyncio.Future[object]) -> None:
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if closing.done():
            raise ConnectionResetError("the channel is closed")
        await self._channel.write_queue.put(
            ChannelFrame(payload=b"".join(chunk), should_close=False, drain_future=drained)
        )
        await asyncio.wait((drained, closing), return_when=asyncio.FIRST_COMPLETED)
