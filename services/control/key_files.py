"""Private keys on disk: one PEM file each in a directory that only the service may enter."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from services.control.signing import SigningKey, private_pem, read_private_pem
from shared.errors import Conflict, InvalidInput

SUFFIX: Final = ".pem"
MAX_KEY_BYTES: Final = 4096
MAX_KEYS: Final = 64
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyFiles:
    """The private keys in a directory.

    Its methods block: call them with `asyncio.to_thread`.

    Args:
        directory: Made with mode 0700 if it is not there; None where no key is configured.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    @property
    def configured(self) -> bool:
        """Whether there is a directory at all."""
        return self._directory is not None

    def read(self) -> dict[str, SigningKey]:
        """All keys by their ids; none where no directory is configured.

        Raises:
            Conflict: The directory or a key can be read by others, or a file is no key.
        """
        if self._directory is None:
            return {}
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700, parents=True)
        _refuse_open(self._directory)
        paths = sorted(path for path in self._directory.iterdir() if path.suffix == SUFFIX)
        if len(paths) > MAX_KEYS:
            raise Conflict(f"{self._directory} holds more than {MAX_KEYS} keys: move those that are retired away")
        keys = {}
        for path in paths:
            _refuse_open(path)
            with path.open("rb") as file:
                content = file.read(MAX_KEY_BYTES)
            try:
                key = read_private_pem(content)
            except InvalidInput as fault:
                raise Conflict(f"{path}: {fault.message}") from fault
            keys[key.key_id] = key
        return keys

    def write(self, key: SigningKey) -> None:
        """Keep a key, with mode 0600, durably.

        Raises:
            Conflict: No directory is configured.
        """
        if self._directory is None:
            raise Conflict("control has no directory for keys: set UNEVENTFUL_KEY_DIR and start it again")
        path = self._directory / f"{key.key_id}{SUFFIX}"
        temporary = self._directory / f".{key.key_id}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private_pem(key))
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _refuse_open(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise Conflict(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}): whoever had a copy can sign changesets. "
            f"Close it (`chmod go= {path}`), and rotate the keys if it was open to anybody"
        )
