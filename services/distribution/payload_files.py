"""The payloads on disk: named by their sha256, complete or not there.

``<root>/sha256/<first two digits>/<digest>`` is a payload; ``<root>/incoming/*.part`` is on its way. An upload holds a
lock on its part, so that what a crash left behind is told from what another process is receiving.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Final

from services.distribution.errors import DigestMismatch
from shared.errors import InvalidInput, TooLarge

_WRITE_BYTES: Final = 1024 * 1024
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Stored:
    """A payload as it lies in the store; ``created`` is false where it was there already."""

    sha256: str
    sha1_base64: str
    size: int
    created: bool


@dataclass(frozen=True, slots=True)
class OpenPayload:
    """An open payload: whoever has it closes ``file``."""

    file: FileIO
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Checked:
    """What a re-hash found; ``error`` is None where the file is what its name says."""

    path: Path
    size: int
    error: str | None


class PayloadFiles:
    """The store under ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._payloads = root / "sha256"
        self._incoming = root / "incoming"

    def prepare(self) -> int:
        """Make the directories, remove what crashed uploads left; returns how many parts were removed."""
        self._payloads.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        removed = 0
        for part in self._incoming.glob("*.part"):
            descriptor = os.open(part, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink(missing_ok=True)
                removed += 1
            except BlockingIOError:
                pass  # another process is receiving it
            finally:
                os.close(descriptor)
        return removed

    def check_directory(self) -> None:
        """Return if the store can be read and written.

        Raises:
            OSError: It cannot.
        """
        if not os.access(self._incoming, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{self._incoming} cannot be written")

    def relative_path(self, sha256: str) -> str:
        """Where a payload is, below ``root``."""
        return f"sha256/{sha256[:2]}/{sha256}"

    def path(self, sha256: str) -> Path:
        """Where a payload is."""
        return self._payloads / sha256[:2] / sha256

    def open(self, sha256: str) -> OpenPayload | None:
        """Open a payload to send it, or None where it is not there."""
        try:
            file = FileIO(self.path(sha256), "r")
        except FileNotFoundError:
            return None
        found = os.fstat(file.fileno())
        return OpenPayload(file, found.st_size, datetime.fromtimestamp(int(found.st_mtime), UTC))

    async def receive(self, sha256: str, chunks: AsyncIterator[bytes], *, max_bytes: int) -> Stored:
        """Store what comes, if it is what the digest says. Whatever goes wrong, nothing of it stays.

        Raises:
            TooLarge: More than ``max_bytes`` came.
            DigestMismatch: It is something else.
            InvalidInput: Nothing came.
            Exception: What ``chunks`` raises.
        """
        part = await asyncio.to_thread(_Part, self._incoming)
        try:
            waiting: list[bytes] = []
            waiting_bytes = 0
            async for chunk in chunks:
                waiting.append(chunk)
                waiting_bytes += len(chunk)
                if part.size + waiting_bytes > max_bytes:
                    raise TooLarge(f"a payload may have {max_bytes} bytes", details={"max_bytes": max_bytes})
                if waiting_bytes >= _WRITE_BYTES:
                    await asyncio.to_thread(part.write, waiting)
                    waiting = []
                    waiting_bytes = 0
            await asyncio.to_thread(part.write, waiting)
            if part.size == 0:
                raise InvalidInput("the payload is empty; send its bytes as the body")
            if part.sha256.hexdigest() != sha256:
                raise DigestMismatch(
                    f"the {part.size} bytes that came have the sha256 {part.sha256.hexdigest()}; "
                    "send the file that the address names",
                    details={"sha256": part.sha256.hexdigest(), "size": part.size},
                )
            # Even where it is there already: a good copy heals one that has gone bad.
            created = await asyncio.to_thread(part.keep_as, self.path(sha256))
            sha1 = base64.b64encode(part.sha1.digest()).decode("ascii")
            return Stored(sha256=sha256, sha1_base64=sha1, size=part.size, created=created)
        finally:
            # In this thread: quick, and done even where the task is being cancelled.
            part.close()

    def verify(self) -> Iterator[Checked]:
        """Re-hash every payload, in the order of their names."""
        for path in sorted(self._payloads.glob("*/*")):
            if _DIGEST.fullmatch(path.name) is None or path.parent.name != path.name[:2] or not path.is_file():
                yield Checked(path, 0, "this is no payload's place; remove it")
                continue
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
            error = None if digest == path.name else f"its sha256 is {digest}; remove it and upload it again"
            yield Checked(path, size, error)


class _Part:
    """A payload on its way."""

    def __init__(self, directory: Path) -> None:
        self._path: Path | None = directory / f"{secrets.token_hex(16)}.part"
        self._file = FileIO(self._path, "x")
        fcntl.flock(self._file.fileno(), fcntl.LOCK_EX)
        self.sha256 = hashlib.sha256()
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.size = 0

    def write(self, chunks: list[bytes]) -> None:
        """Write and hash; blocks, and lets other threads run meanwhile."""
        for chunk in chunks:
            self.sha256.update(chunk)
            self.sha1.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]
            self.size += len(chunk)

    def keep_as(self, path: Path) -> bool:
        """Make it durable under its name; says whether that name is new."""
        assert self._path is not None, "kept once"  # noqa: S101  # the one caller's order
        os.fsync(self._file.fileno())
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            _sync_directory(path.parent.parent)
        created = not path.exists()
        self._path.replace(path)
        self._path = None
        _sync_directory(path.parent)
        return created

    def close(self) -> None:
        """Remove it, unless it was kept."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        self._file.close()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
