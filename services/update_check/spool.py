"""Where reports wait while Postgres is away.

An Omaha report is sent only once and nobody waits for its answer, so it must be on disk before the answer leaves. The
spool is one append-only file of JSON lines; every append is fsynced; it is drained, in order, before any new poll is
judged. A drained report that was written to Postgres before (the connection died between commit and answer) counts
once, since it carries its event id.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from shared.db.group_commit import GroupCommit
from shared.errors import Unavailable
from shared.fleet import Observation

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Observation)

_log = structlog.get_logger()


class Spool:
    """A durable queue of observations in one directory; one process owns it.

    Args:
        directory: Made if missing; must survive a restart of the machine.
        max_bytes: The most that may wait.
    """

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        self._path = directory / "reports.ndjson"
        self._damaged = directory / "reports.damaged"
        self._max_bytes = max_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._size = self._cut_torn_line()
        self._commits: GroupCommit[Observation, None] = GroupCommit(self._append, max_batch=1_000, max_waiting=100_000)
        self._draining = asyncio.Lock()
        # Appending and cutting replace or grow the same file: never both.
        self._file = asyncio.Lock()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._size == 0

    @property
    def size_bytes(self) -> int:
        """How much waits."""
        return self._size

    async def put(self, observations: list[Observation]) -> None:
        """Write them down; returns once they are on disk.

        Raises:
            Unavailable: The spool is full or the disk refuses.
        """
        if self._size >= self._max_bytes:
            raise Unavailable(
                f"the spool holds {self._size} bytes, which is the most it may; bring Postgres back", retry_after_s=60
            )
        await self._commits.submit_many(observations)

    async def drain(self, record: Callable[[list[Observation]], Awaitable[object]]) -> int:
        """Hand everything that waits to ``record`` in order, then forget it.

        Args:
            record: Writes a batch to Postgres; while it raises, nothing is forgotten.

        Returns:
            How many reports were drained.
        """
        async with self._draining:
            drained = 0
            while not self.empty:
                end = self._size
                for batch in await asyncio.to_thread(self._read, end):
                    await record(batch)
                    drained += len(batch)
                async with self._file:
                    await asyncio.to_thread(self._cut, end)
                    self._size -= end
            return drained

    async def _append(self, observations: list[Observation]) -> list[None]:
        lines = b"".join(_ENCODER.encode(observation) + b"\n" for observation in observations)
        try:
            async with self._file:
                await asyncio.to_thread(self._write, lines)
                self._size += len(lines)
        except OSError as error:
            raise Unavailable(
                f"the spool cannot be written: {error.strerror}; free the disk", retry_after_s=60
            ) from error
        return [None] * len(observations)

    def _write(self, lines: bytes) -> None:
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _append_durably(descriptor, lines)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            _sync_directory(self._path.parent)

    def _cut_torn_line(self) -> int:
        """Forget a last line that a crash cut: it was never acknowledged, and the next one must not join it."""
        if not self._path.exists():
            return 0
        with self._path.open("r+b") as file:
            size = file.read().rfind(b"\n") + 1
            file.truncate(size)
        return size

    def _read(self, end: int) -> list[list[Observation]]:
        with self._path.open("rb") as file:
            lines = file.read(end).split(b"\n")[:-1]
        observations: list[Observation] = []
        for line in lines:
            try:
                observations.append(_DECODER.decode(line))
            except msgspec.DecodeError as error:
                # What the disk lost; kept for people, and no reason to keep the rest from Postgres.
                _log.error("spool.damaged", error=str(error), kept_in=str(self._damaged))
                with self._damaged.open("ab") as file:
                    file.write(line + b"\n")
        return [observations[start : start + 500] for start in range(0, len(observations), 500)]

    def _cut(self, end: int) -> None:
        rest = self._path.with_suffix(".rest")
        with self._path.open("rb") as file:
            file.seek(end)
            tail = file.read()
        if not tail:
            self._path.unlink()
            _sync_directory(self._path.parent)
            return
        with rest.open("wb") as file:
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        rest.replace(self._path)
        _sync_directory(self._path.parent)


def _append_durably(descriptor: int, lines: bytes) -> None:
    if os.write(descriptor, lines) != len(lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
