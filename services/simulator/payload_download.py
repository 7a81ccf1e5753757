"""One payload download: what has come so far, and what the next piece or the end of a connection means."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from services.simulator.node import Download, DownloadDone, Sabotage
from services.simulator.wire import HTTP_CODE_BASE, ErrorCode, encode_sha256

MAX_TRIES: Final = 20
RETRY_S: Final = 20.0
"""After a broken connection the download goes on after so long, so often."""

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)", re.ASCII)


@dataclass(slots=True)
class PayloadDownload:
    """The state of one download; holds a running hash and never the payload.

    Attributes:
        node: Whose download it is: an index into the fleet.
        wanted: What to download.
        offset: Bytes that have come.
        resumes: How often it went on after a broken connection.
    """

    node: int
    wanted: Download
    offset: int = 0
    resumes: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def request_headers(self) -> dict[str, str]:
        """A fresh download asks without Range; one that goes on asks for the rest."""
        return {"Range": f"bytes={self.offset}-"} if self.offset else {}

    def begin(self, status: int, content_range: str) -> DownloadDone | None:
        """Takes the answer's status line and ``Content-Range``; the end of the download, or None to read the body."""
        if not 200 <= status < 300:
            return DownloadDone(HTTP_CODE_BASE + status)
        if status == 206:
            match = _CONTENT_RANGE.fullmatch(content_range)
            if match is None or int(match[1]) != self.offset:
                return DownloadDone(ErrorCode.DOWNLOAD_TRANSFER)
        elif self.offset:  # the server does not know ranges: from the beginning
            self.offset = 0
            self._hash = hashlib.sha256()
        return None

    def take(self, piece: bytes) -> DownloadDone | None:
        """Takes a piece of the body; the end of the download if this piece shows that it fails."""
        if self.wanted.sabotage is Sabotage.CORRUPT and self.offset == 0 and piece:
            piece = bytes([piece[0] ^ 0xFF]) + piece[1:]
        self.offset += len(piece)
        if self.offset > self.wanted.size:
            return DownloadDone(ErrorCode.PAYLOAD_SIZE_MISMATCH)
        self._hash.update(piece)
        if self.wanted.sabotage is Sabotage.BREAKS_OFF and 2 * self.offset >= self.wanted.size:
            return DownloadDone(ErrorCode.DOWNLOAD_TRANSFER)
        return None

    def finish(self) -> DownloadDone:
        """The body came to its proper end: verify."""
        if self.offset != self.wanted.size:
            return DownloadDone(ErrorCode.PAYLOAD_SIZE_MISMATCH)
        if encode_sha256(self._hash.digest()) != self.wanted.sha256:
            return DownloadDone(ErrorCode.PAYLOAD_HASH_MISMATCH)
        return DownloadDone()

    def broken(self) -> DownloadDone | None:
        """The connection broke: the end of the download, or None to go on later."""
        self.resumes += 1
        return DownloadDone(ErrorCode.DOWNLOAD_TRANSFER) if self.resumes > MAX_TRIES else None
