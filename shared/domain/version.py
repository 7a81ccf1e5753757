"""Order of OS versions.

Flatcar's scheme is ``major.minor.patch`` with builds after ``+`` (``3340.0.0+nightly-20220823-2100``); semantic
versioning's pre-releases after ``-`` are understood too. Dates as versions (``2026.11.22``) order the same way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_VERSION = re.compile(r"v?(\d{1,9}(?:\.\d{1,9}){0,3})(?:-([0-9A-Za-z.-]{1,64}))?(?:\+([0-9A-Za-z.-]{1,64}))?", re.ASCII)


class Version(NamedTuple):
    """A version as it is ordered: numbers, then release after pre-release, then the build."""

    numbers: tuple[int, ...]
    pre_release: tuple[tuple[int, int, str], ...]
    is_release: bool
    build: tuple[tuple[int, int, str], ...]

    @property
    def order(self) -> tuple[object, ...]:
        """The key that sorts versions, oldest first."""
        return (self.numbers, self.is_release, self.pre_release, self.build)


def _identifiers(text: str | None) -> tuple[tuple[int, int, str], ...]:
    if not text:
        return ()
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"[.-]", text))


@lru_cache(maxsize=4096)
def parse(text: str) -> Version | None:
    """Read a version; None where the text is none (nodes say what they like)."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    numbers = tuple(int(part) for part in match[1].split("."))
    return Version(
        numbers=numbers + (0,) * (4 - len(numbers)),
        pre_release=_identifiers(match[2]),
        is_release=match[2] is None,
        build=_identifiers(match[3]),
    )


def is_newer(candidate: str, than: str) -> bool | None:
    """Whether ``candidate`` is newer; None where either is no version.

    Builds of the same version order by their build, so that nightlies follow each other; a build is newer than none.
    """
    new, old = parse(candidate), parse(than)
    if new is None or old is None:
        return None
    return new.order > old.order
