"""Reading a payload file: its size and digests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadFile:
    """A file as changesets name it.

    Attributes:
        sha256: In hexadecimal, as URLs have it.
        sha1_base64: In base64, as Omaha's package hash has it.
        size: In bytes.
    """

    path: Path
    sha256: str
    sha1_base64: str
    size: int


def read_payload_file(path: Path, on_progress: Callable[[int], None] = lambda _: None) -> PayloadFile:
    """Read a file once; ``on_progress`` gets the bytes of each step.

    Raises:
        OSError: It cannot be read.
    """
    sha256 = hashlib.sha256()
    sha1 = hashlib.sha1(usedforsecurity=False)
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            sha1.update(chunk)
            size += len(chunk)
            on_progress(len(chunk))
    return PayloadFile(
        path=path, sha256=sha256.hexdigest(), sha1_base64=base64.b64encode(sha1.digest()).decode(), size=size
    )
