"""Where a backup lies: a directory, or one tar file. Written beside, and there under its name only once it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Protocol

from shared.backup.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, read_manifest
from shared.errors import BackupDamaged, Conflict, NotFound

TAR_ENDING: Final = ".tar"
_PIECE: Final = 1024 * 1024


class Writer(Protocol):
    """A backup that is being made."""

    def scratch(self) -> Path:
        """A directory on the same file system for what is not finished."""

    def add(self, name: str, path: Path, *, link: bool = False) -> tuple[str, int]:
        """Put a file in; where it comes from scratch it may be moved. Returns its SHA-256 and size."""

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and give the backup its name."""


class Reader(Protocol):
    """A backup that is there."""

    manifest: Manifest

    def open(self, name: str) -> IO[bytes]:
        """A file of it.

        Raises:
            BackupDamaged: It is not there.
        """


def hash_file(file: IO[bytes], into: IO[bytes] | None = None) -> tuple[str, int]:
    """The SHA-256 and size of what follows in a file, copied on the way where told."""
    digest = hashlib.sha256()
    size = 0
    while piece := file.read(_PIECE):
        digest.update(piece)
        size += len(piece)
        if into is not None:
            into.write(piece)
    return digest.hexdigest(), size


class _Directory:
    def __init__(self, unfinished: Path) -> None:
        self._root = unfinished

    def scratch(self) -> Path:
        return self._root

    def add(self, name: str, path: Path, *, link: bool = False) -> tuple[str, int]:
        target = self._root / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent == self._root:
            path.rename(target)
        elif not (link and _linked(path, target)):
            with path.open("rb") as file, _private(target) as into:
                found = hash_file(file, into)
                into.flush()
                os.fsync(into.fileno())
                return found
        with target.open("rb") as file:
            found = hash_file(file)
            os.fsync(file.fileno())
            return found

    def finish(self, manifest: Manifest) -> None:
        with _private(self._root / MANIFEST) as file:
            file.write(manifest.encode())
            file.flush()
            os.fsync(file.fileno())


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _linked(path: Path, target: Path) -> bool:
    try:
        target.hardlink_to(path)
    except OSError as fault:
        if fault.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            return False
        raise
    return True


class _Tar:
    def __init__(self, file: IO[bytes], scratch: Path) -> None:
        self._file = file
        self._scratch = scratch
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # closed by finish

    def scratch(self) -> Path:
        return self._scratch

    def add(self, name: str, path: Path, *, link: bool = False) -> tuple[str, int]:  # noqa: ARG002  # no links in it
        with path.open("rb") as file:
            found = hash_file(file)
            file.seek(0)
            self._put(name, file, found[1])
        if path.parent == self._scratch:
            path.unlink()
        return found

    def _put(self, name: str, file: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o600
        self._tar.addfile(member, file)

    def finish(self, manifest: Manifest) -> None:
        raw = manifest.encode()
        self._put(MANIFEST, io.BytesIO(raw), len(raw))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def new_backup(place: Path) -> Iterator[Writer]:
    """Make a backup at a place: a tar file where its name ends in ``.tar``, else a directory.

    Raises:
        Conflict: Something is there already.
        NotFound: The directory that it would lie in is not there.
    """
    if place.exists():
        raise Conflict(f"{place} is there already: choose a new name for each backup")
    if not place.parent.is_dir():
        raise NotFound(f"there is no directory {place.parent}: make it first")
    unfinished = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        if place.name.endswith(TAR_ENDING):
            with _private(unfinished / "tar") as file:
                (unfinished / "scratch").mkdir()
                yield _Tar(file, unfinished / "scratch")
            (unfinished / "tar").rename(place)
        else:
            yield _Directory(unfinished)
            unfinished.rename(place)
        _sync_directory(place.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _InDirectory:
    def __init__(self, root: Path) -> None:
        self._root = root
        with self.open(MANIFEST) as file:
            self.manifest = read_manifest(file.read(MAX_MANIFEST_BYTES))

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._root / name).open("rb")
        except OSError as fault:
            raise BackupDamaged(f"{self._root} has no {name} ({fault.strerror}): this is no whole backup") from fault


class _InTar:
    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar
        # Read by name, and never unpacked: what else is in the file does not matter.
        self._members = {member.name: member for member in tar.getmembers() if member.isreg()}
        with self.open(MANIFEST) as file:
            self.manifest = read_manifest(file.read(MAX_MANIFEST_BYTES))

    def open(self, name: str) -> IO[bytes]:
        found = self._tar.extractfile(self._members[name]) if name in self._members else None
        if found is None:
            raise BackupDamaged(f"{self._path} has no {name}: this is no whole backup")
        return found


@contextlib.contextmanager
def open_backup(place: Path) -> Iterator[Reader]:
    """Open a backup.

    Raises:
        NotFound: There is nothing.
        BackupDamaged: It has no manifest, or is no tar file.
        InvalidInput: Its manifest is none that this version can read.
    """
    if place.is_dir():
        yield _InDirectory(place)
        return
    if not place.is_file():
        raise NotFound(f"there is no backup at {place}")
    try:
        tar = tarfile.open(place, mode="r:")  # noqa: SIM115  # closed below
    except tarfile.TarError as fault:
        raise BackupDamaged(f"{place} is no tar file: {fault}") from fault
    with tar:
        yield _InTar(place, tar)
