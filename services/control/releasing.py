"""What may be promoted where, what a channel goes back to, what new nodes boot, and how changesets differ. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.domain import version as versions
from shared.domain.scheme import VersionScheme, channel_of
from shared.errors import InvalidInput

POSITIONS: Final[Mapping[str, int]] = {"alpha": 0, "beta": 1, "stable": 2, "lts": 3}
DEFAULT_POSITION: Final = 2
_STABILITIES: Final = {position: name for name, position in POSITIONS.items()}
_CALENDAR_YEARS: Final = range(1970, 2200)


def position_of(channel_name: str) -> int:
    """The stability of a channel by its name, where nobody says another."""
    return POSITIONS.get(channel_name.lower(), DEFAULT_POSITION)


def fault_of_version(scheme: VersionScheme, version: str) -> str | None:
    """Why a version is none of the scheme, for people; None where it is one."""
    read = versions.parse(version)
    if read is None:
        return f"{version!r} is no version: use numbers with dots, like 3975.2.1 or 2026.11.22, and builds after a +"
    numbers = version.lstrip("v").partition("+")[0].partition("-")[0].split(".")
    if scheme is VersionScheme.FLATCAR and len(numbers) != 3:
        return f"{version!r} is no version of Flatcar's scheme: use major.minor.patch, like 3975.2.1"
    if scheme is VersionScheme.SEMVER and len(numbers) != 3:
        return f"{version!r} is no semantic version: use major.minor.patch, like 1.4.2"
    if scheme is VersionScheme.CALENDAR and read.numbers[0] not in _CALENDAR_YEARS:
        return f"{version!r} is no calendar version: begin with the year, like 2026.11.22"
    return None


def check_changeset(scheme: VersionScheme, changeset: Mapping[str, Any]) -> None:
    """Refuse a changeset that contradicts itself.

    Raises:
        InvalidInput: A version is none, the minimum is not below the version, or a flag has no reason.
    """
    version, minimum = changeset["version"], changeset["minimum_version"]
    fault = fault_of_version(scheme, version)
    if fault is not None:
        raise InvalidInput(fault, details={"field": "version"})
    if minimum is not None and not versions.is_newer(version, minimum):
        raise InvalidInput(
            f"minimum_version is {minimum!r}: it must be a version below {version}, which it is the way to",
            details={"field": "minimum_version"},
        )
    for flag, what in (("floor", "a floor"), ("dead_end", "a dead end")):
        if changeset[flag] and not changeset[f"{flag}_reason"]:
            raise InvalidInput(f"{what} needs a reason: give {flag}_reason", details={"field": f"{flag}_reason"})


# Promotion


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingTest:
    """An attestation that a channel demands and that is not there, or did not pass; ``verdict`` is the latest one."""

    name: str
    verdict: str | None


def missing_tests(demanded: Iterable[str], latest: Mapping[str, str]) -> list[MissingTest]:
    """What is missing of the demanded attestations; ``latest`` is the last verdict of each name."""
    return [
        MissingTest(name=name, verdict=latest.get(name))
        for name in dict.fromkeys(demanded)
        if latest.get(name) != "passed"
    ]


def said_of(missing: Sequence[MissingTest]) -> str:
    """Like ``kubernetes (failed), networking (none)``."""
    return ", ".join(f"{test.name} ({test.verdict or 'none'})" for test in missing)


def fault_of_stability(scheme: VersionScheme, version: str, position: int) -> str | None:
    """Why a version is less stable than a channel of that position; None where it is not, or nothing tells."""
    own = channel_of(scheme, version)
    if own is None or position not in _STABILITIES or POSITIONS[own] >= position:
        return None
    return f"{version} is {own} by its scheme, and the channel is for {_STABILITIES[position]}"


def predecessors(history: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """What a channel may go back to, the nearest first.

    What was pointed to again takes away what came after it: after A, B and back to A, nothing is before A. So going
    back twice goes back twice, and never forth again.

    Args:
        history: What the channel pointed to, the oldest first.
    """
    way: list[uuid.UUID] = []
    for changeset_id in history:
        if changeset_id in way:
            del way[way.index(changeset_id) :]
        way.append(changeset_id)
    return way[:-1][::-1]


# What new nodes boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A changeset of a channel's history, as far as new nodes ask.

    Attributes:
        usable: Published, and its gate neither shut nor braked.
        proven: A group that follows the channel has completed its rollout, or none follows it.
    """

    changeset_id: uuid.UUID
    version: str
    usable: bool
    proven: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What new nodes are to boot (None: nothing there is), and why."""

    changeset_id: uuid.UUID | None
    reason: str


def image_to_boot(images: Sequence[Image]) -> Choice:
    """The newest image that a rollout has proven; a node that boots an unproven one would jump all waves and gates.

    Args:
        images: What the channel pointed to, the newest first.
    """
    if not images:
        return Choice(None, "nothing was promoted to the channel yet")
    usable = [image for image in images if image.usable]
    if not usable:
        return Choice(None, "all that the channel pointed to is halted, braked or withdrawn")
    chosen = next((image for image in usable if image.proven), usable[-1])
    if chosen == images[0]:
        said = "the channel points to it" + ("" if chosen.proven else ", and nothing is before it")
        return Choice(chosen.changeset_id, said)
    first = images[0]
    why = "is not rolled out yet" if first.usable else "is halted, braked or withdrawn"
    return Choice(chosen.changeset_id, f"the channel points to {first.version}, which {why}: this is the one before")


# Drift


def standing(target: str | None, version: str) -> str:
    """How a node's version stands to its channel's: ``on_target``, ``behind``, ``ahead`` or ``unknown``."""
    if target is None:
        return "unknown"
    if version == target:
        return "on_target"
    newer = versions.is_newer(target, version)
    if newer is None:
        return "unknown"
    return "behind" if newer else "ahead"


# Differences


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What was added, removed and changed, by name."""
    return {
        "added": {name: after[name] for name in sorted(after.keys() - before.keys())},
        "removed": {name: before[name] for name in sorted(before.keys() - after.keys())},
        "changed": {
            name: {"from": before[name], "to": after[name]}
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        },
    }


def payload_changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each payload of either side by name, with its sizes in bytes and whether its content is the same."""
    old, new = ({payload["name"]: payload for payload in side} for side in (before, after))
    return [
        {
            "name": name,
            "role": (new.get(name) or old[name])["role"],
            "size_before": old[name]["size"] if name in old else None,
            "size_after": new[name]["size"] if name in new else None,
            "same": name in old and name in new and old[name]["sha256"] == new[name]["sha256"],
        }
        for name in sorted(old.keys() | new.keys())
    ]
