"""Reading a Flatcar release directory, as its release server and its build jobs lay it out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.cli.errors import Refused

MAIN: Final = "flatcar_production_update.gz"
IMAGE_PACKAGES: Final = "flatcar_production_image_packages.txt"
MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
MAX_PACKAGES: Final = 5_000

_COMPONENTS: Final = {
    "kernel": ("sys-kernel/coreos-kernel",),
    "systemd": ("sys-apps/systemd",),
    "docker": ("app-containers/docker", "app-emulation/docker"),
    "containerd": ("app-containers/containerd", "app-emulation/containerd"),
    "runc": ("app-containers/runc", "app-emulation/runc"),
    "ignition": ("sys-apps/ignition",),
    "update_engine": ("coreos-base/update_engine",),
    "glibc": ("sys-libs/glibc",),
    "openssl": ("dev-libs/openssl",),
    "openssh": ("net-misc/openssh",),
    "ca-certificates": ("app-misc/ca-certificates",),
}
_PACKAGE: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9+_.-]*/[A-Za-z0-9][A-Za-z0-9+_-]*?)-(?P<version>[0-9][A-Za-z0-9._]*(?:-r[0-9]+)?)"
    r"(?:::[A-Za-z0-9_-]+)?",
    re.ASCII,
)
_BOARD: Final = re.compile(r"(amd64|arm64)-usr", re.ASCII)
_VERSION: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:\+[0-9A-Za-z.+-]+)?", re.ASCII)
_EXTRA: Final = re.compile(r"(?:flatcar_test_update-)?((?:oem|flatcar)-[A-Za-z0-9][A-Za-z0-9._+-]*\.gz)", re.ASCII)
_DIGEST: Final = re.compile(r"([0-9a-f]{40,128})[ \t]+\*?(\S+)", re.ASCII)
_BY_LENGTH: Final = {128: "sha512", 64: "sha256", 40: "sha1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatcarRelease:
    """What a directory holds.

    Attributes:
        arch: ``amd64`` or ``arm64``; None where the directory's path has no board.
        main: The update itself.
        extras: OEM and sysext payloads by the names that nodes ask for.
        components: What people ask for, out of ``packages``; names with versions.
    """

    version: str
    arch: str | None
    main: Path
    extras: Mapping[str, Path]
    packages: Mapping[str, str]
    components: Mapping[str, str]


def read_release(directory: Path) -> FlatcarRelease:
    """Read a release directory; what is not there but the update and its version is left out.

    Raises:
        Refused: It has no update payload or no version, or a file of it is not usable.
    """
    main = directory / MAIN
    if not main.is_file():
        raise Refused(
            f"{directory} has no {MAIN}, which is the update itself: name the directory of one release and board, "
            "like .../amd64-usr/3975.2.1"
        )
    packages = read_packages(_text_of(path) for path in _package_lists(directory))
    return FlatcarRelease(
        version=_version(directory),
        arch=_arch(directory),
        main=main,
        extras=_extras(directory),
        packages=packages,
        components=components_of(packages),
    )


def read_packages(texts: Iterable[str]) -> dict[str, str]:
    """Packages with versions out of lists like ``sys-apps/systemd-255.8-r1::portage-stable``, a line each.

    A package that is there in several versions has them all, as in ``3.11.9, 3.12.4``. Other lines are passed over.

    Raises:
        Refused: There are too many.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        for line in text.splitlines():
            match = _PACKAGE.fullmatch(line.strip())
            if match is not None and len(match["name"]) <= 128:
                versions = found.setdefault(match["name"], [])
                if match["version"] not in versions:
                    versions.append(match["version"])
    if len(found) > MAX_PACKAGES:
        raise Refused(f"the package lists have more than {MAX_PACKAGES} packages: are they Flatcar's?")
    return {name: ", ".join(versions)[:128] for name, versions in sorted(found.items())}


def components_of(packages: Mapping[str, str]) -> dict[str, str]:
    """The versions of what people ask for first: kernel, systemd, docker, ..."""
    return {component: packages[name] for component, names in _COMPONENTS.items() for name in names if name in packages}


def check_digest(path: Path) -> bool:
    """Compare a file with what its ``.DIGESTS`` says; False where there is none that names it.

    Raises:
        Refused: It is another file than the one that was released.
    """
    for suffix in (".DIGESTS", ".DIGESTS.asc"):
        digests = path.with_name(path.name + suffix)
        if not digests.is_file():
            continue
        said = [match[1] for line in _text_of(digests).splitlines() if (match := _DIGEST.fullmatch(line.strip()))
                and Path(match[2]).name == path.name and len(match[1]) in _BY_LENGTH]  # fmt: skip
        if not said:
            continue
        strongest = max(said, key=len)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, _BY_LENGTH[len(strongest)]).hexdigest()
        if found != strongest:
            raise Refused(f"{path} is not what {digests.name} says it is: fetch it again")
        return True
    return False


def _version(directory: Path) -> str:
    path = directory / "version.txt"
    if not path.is_file():
        raise Refused(f"{directory} has no version.txt, which says what release it is")
    said = {}
    for line in _text_of(path).splitlines():
        name, equals, value = line.partition("=")
        if equals:
            said[name.strip()] = value.strip().strip("\"'")
    version = said.get("FLATCAR_VERSION") or said.get("COREOS_VERSION")
    if version is None or _VERSION.fullmatch(version) is None:
        raise Refused(f"{path} has no FLATCAR_VERSION like 3975.2.1")
    return version


def _arch(directory: Path) -> str | None:
    for part in reversed(directory.resolve().parts):
        if (board := _BOARD.fullmatch(part)) is not None:
            return board[1]
    return None


def _extras(directory: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        match = _EXTRA.fullmatch(path.name)
        # The name as it is released goes before the build job's.
        if match is not None and path.is_file() and (match[1] not in found or path.name == match[1]):
            found[match[1]] = path
    return found


def _package_lists(directory: Path) -> list[Path]:
    image = directory / IMAGE_PACKAGES
    included = sorted(
        path
        for place in (directory, directory / "rootfs-included-sysexts")
        if place.is_dir()
        for path in place.glob("*-flatcar_packages.txt")
    )
    return [path for path in (image, *included) if path.is_file()]


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise Refused(f"{path} is larger than {MAX_TEXT_BYTES} bytes: is it the file that its name says?")
    return content.decode("utf-8", errors="replace")
