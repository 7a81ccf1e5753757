"""Nebraska's applications, channels, packages and groups as ours, and what does not map, in words. Pure."""

from __future__ import annotations

import base64
import binascii
import re
import zoneinfo
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from services.cli.fleet_file import DEFAULTS, Fleet, Noun, Thing, omaha_id_of, position_of

Row: TypeAlias = Mapping[str, Any]
Key: TypeAlias = tuple[Noun, str, str, str]

ARCHS: Final[Mapping[int, tuple[str, ...]]] = {0: ("amd64", "arm64"), 1: ("amd64",), 2: ("arm64",), 3: ("x86",)}
"""Nebraska's numbers for archs; 0 is all of them."""
FLATCAR: Final = 1
UNLIMITED: Final = 900_000
"""From so many updates per period on Nebraska does not count."""
REST: Final = "unassigned"
_SHORTEST_OFFER_S: Final = 5_400.0
_LONGEST_S: Final = 90 * 86_400.0
_CANARIES: Final = 0.05
_SAFE_SOAK_S: Final = 3_600.0
_NAME_TAKES: Final = re.compile(r"[^A-Za-z0-9._ +~:@-]+")
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")
_SHA1: Final = re.compile(r"[A-Za-z0-9+/]{27}=")
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was read from Nebraska's database, row by row."""

    applications: Sequence[Row] = ()
    channels: Sequence[Row] = ()
    packages: Sequence[Row] = ()
    files: Sequence[Row] = ()
    floors: Sequence[Row] = ()
    blacklists: Sequence[Row] = ()
    groups: Sequence[Row] = ()
    instances: Sequence[Row] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadPlan:
    """A payload's metadata; its bytes are where Nebraska says."""

    name: str
    role: str
    sha256: str
    sha1_base64: str
    size: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesetPlan:
    """A changeset to be made as a draft."""

    application: str
    version: str
    arch: str
    notes: str
    floor_reason: str | None
    payloads: tuple[PayloadPlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What is known of a node before it polls for the first time."""

    application: str
    machine_id: str
    alias: str | None
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is to be made.

    Attributes:
        notes: What does not map, or maps to something else, by the thing that it is about.
        pointers: What channels point to: application, channel, arch, version.
        unmapped: What has no place at all, in words.
    """

    fleet: Fleet
    notes: Mapping[Key, tuple[str, ...]]
    changesets: tuple[ChangesetPlan, ...]
    pointers: tuple[tuple[str, str, str, str], ...]
    nodes: tuple[NodePlan, ...]
    unmapped: tuple[str, ...]


@dataclass(slots=True)
class _Notes:
    by_key: dict[Key, list[str]] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)

    def say(self, thing: Thing, *lines: str) -> None:
        self.by_key.setdefault(thing.key, []).extend(lines)


def plan_import(source: Source, *, only: Sequence[str] = ()) -> Plan:
    """Make a plan of what was read.

    Args:
        source: All rows.
        only: Names or ids of applications; none means all.
    """
    notes = _Notes()
    names = _Names()
    things: list[Thing] = []
    orders: dict[str, tuple[str, ...]] = {}
    changesets: list[ChangesetPlan] = []
    pointers: list[tuple[str, str, str, str]] = []
    nodes: list[NodePlan] = []
    for row in source.applications:
        if only and row["name"] not in only and row["id"] not in only:
            continue
        application = Thing(
            noun=Noun.APPLICATION,
            application=(name := names.take("", row["name"])),
            name=name,
            fields={
                **DEFAULTS[Noun.APPLICATION],
                "omaha_id": omaha_id_of(row["id"]),
                "product": None if row["product_id"] is None else _Names.clean(row["product_id"]),
                "observe_only": True,
            },
        )
        notes.say(
            application,
            *([row["description"]] if row["description"] else []),
            "Nothing is offered while observe_only is true; take it out to cut over.",
        )
        packages = [one for one in source.packages if one["application_id"] == row["id"]]
        made = _changesets(application.name, packages, source, notes)
        changesets += made.values_in_order
        channels = [one for one in source.channels if one["application_id"] == row["id"]]
        own, channel_names = _channels(application.name, channels, names, notes)
        pointers += _pointers(application.name, channels, channel_names, made, notes)
        _blacklists(channels, _Own(own, channel_names), packages, source, notes)
        instances = [one for one in source.instances if one["application_id"] == row["id"]]
        groups = _groups(
            application.name,
            [one for one in source.groups if one["application_id"] == row["id"]],
            _Following({one["id"]: one for one in channels}, channel_names),
            names,
            notes,
        )
        things += [application, *own, *groups]
        orders[application.name] = tuple(group.name for group in groups)
        nodes += [_node(application.name, one) for one in instances]
    found = {row["name"] for row in source.applications} | {row["id"] for row in source.applications}
    notes.unmapped += [f"there is no application {name!r} in that database" for name in only if name not in found]
    return Plan(
        fleet=Fleet(tuple(things), orders),
        notes={key: tuple(lines) for key, lines in notes.by_key.items()},
        changesets=tuple(changesets),
        pointers=tuple(pointers),
        nodes=tuple(nodes),
        unmapped=tuple(notes.unmapped),
    )


class _Names:
    """Names as we take them, each once per application and noun."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    @staticmethod
    def clean(text: str) -> str:
        cleaned = " ".join(_NAME_TAKES.sub(" ", text).split()).lstrip("._ +~:@-")[:60].strip()
        return cleaned or "unnamed"

    def take(self, place: str, text: str) -> str:
        name = base = self.clean(text)
        number = 2
        while (place, name) in self._taken:
            name = f"{base} {number}"
            number += 1
        self._taken.add((place, name))
        return name


# Packages


@dataclass(frozen=True, slots=True)
class _Made:
    by_package: Mapping[str, tuple[ChangesetPlan, ...]]

    @property
    def values_in_order(self) -> list[ChangesetPlan]:
        return [one for made in self.by_package.values() for one in made]


def _changesets(application: str, packages: Sequence[Row], source: Source, notes: _Notes) -> _Made:
    floors = {row["package_id"]: row["reason"] for row in source.floors}
    files: dict[str, list[Row]] = {}
    for row in source.files:
        files.setdefault(row["package_id"], []).append(row)
    made: dict[str, tuple[ChangesetPlan, ...]] = {}
    for package in packages:
        what = f"package {package['version']} of {application}"
        if package["type"] != FLATCAR:
            notes.unmapped.append(f"{what}: its type is not Flatcar's; only OS images are taken over")
            continue
        if _VERSION.fullmatch(package["version"]) is None or package["arch"] not in ARCHS:
            notes.unmapped.append(f"{what}: its version or arch ({package['arch']}) is not one that we read")
            continue
        payloads = _payloads(package, files.get(package["id"], []), what, notes)
        if not payloads:
            continue
        reason = floors.get(package["id"])
        made[package["id"]] = tuple(
            ChangesetPlan(
                application=application,
                version=package["version"],
                arch=arch,
                notes=package["description"],
                floor_reason=None if reason is None else reason or "a floor in Nebraska",
                payloads=payloads,
            )
            for arch in ARCHS[package["arch"]]
        )
    return _Made(made)


def _payloads(package: Row, files: Sequence[Row], what: str, notes: _Notes) -> tuple[PayloadPlan, ...]:
    base = package["url"] or ""
    if not package["filename"]:
        notes.unmapped.append(f"{what}: it names no file")
        return ()
    main = _payload({**package, "name": package["filename"], "hash256": package["sha256"]}, "main", base)
    if main is None:
        notes.unmapped.append(f"{what}: the hashes or the size of {package['filename']} are not complete")
        return ()
    payloads = [main]
    for file in files:
        extra = _payload(file, "extra", base)
        if extra is None:
            notes.unmapped.append(f"{what}: the hashes or the size of {file['name']} are not complete; it is left out")
        else:
            payloads.append(extra)
    return tuple(payloads)


def _payload(row: Row, role: str, base: str) -> PayloadPlan | None:
    name, sha1, size = row["name"], row["hash"], row["size"]
    digest = hex_digest(row["hash256"])
    count = int(size) if size and size.isascii() and size.isdecimal() else 0
    if digest is None or not sha1 or _SHA1.fullmatch(sha1) is None or not count or _FILE.fullmatch(name) is None:
        return None
    url = base if not base or base.endswith("/") else f"{base}/"
    return PayloadPlan(name=name, role=role, sha256=digest, sha1_base64=sha1, size=count, url=url + name)


def hex_digest(text: str | None) -> str | None:
    """A SHA-256 in hexadecimal, from that or from base64: Nebraska has both."""
    if not text:
        return None
    if _HEX.fullmatch(text):
        return text.lower()
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == 32 else None


# Channels


def _channels(
    application: str, channels: Sequence[Row], names: _Names, notes: _Notes
) -> tuple[list[Thing], dict[str, str]]:
    """Our channels, and our name of each of Nebraska's."""
    things: dict[Key, Thing] = {}
    by_id: dict[str, str] = {}
    cleaned: dict[str, str] = {}
    for row in channels:
        name = cleaned.get(row["name"])
        if name is None:
            name = cleaned[row["name"]] = names.take(f"{application}/channels", row["name"])
        by_id[row["id"]] = name
        for arch in ARCHS.get(row["arch"], ()):
            thing = Thing(
                noun=Noun.CHANNEL,
                application=application,
                name=name,
                arch=arch,
                fields={"position": position_of(name, None), "required_attestations": []},
            )
            things.setdefault(thing.key, thing)
            if name != row["name"]:
                notes.say(thing, f"In Nebraska it is called {row['name']!r}.")
    return list(things.values()), by_id


def _pointers(
    application: str, channels: Sequence[Row], names: Mapping[str, str], made: _Made, notes: _Notes
) -> list[tuple[str, str, str, str]]:
    pointers = []
    for row in channels:
        if row["package_id"] is None:
            continue
        if row["package_id"] not in made.by_package:
            notes.unmapped.append(f"channel {row['name']} of {application} points to a package that is not taken over")
            continue
        pointers += [
            (application, names[row["id"]], one.arch, one.version)
            for one in made.by_package[row["package_id"]]
            if one.arch in ARCHS.get(row["arch"], ())
        ]
    return pointers


@dataclass(frozen=True, slots=True)
class _Own:
    things: Sequence[Thing]
    names: Mapping[str, str]


def _blacklists(channels: Sequence[Row], own: _Own, packages: Sequence[Row], source: Source, notes: _Notes) -> None:
    by_id = {row["id"]: row for row in channels}
    versions = {row["id"]: row["version"] for row in packages}
    for row in source.blacklists:
        channel = by_id.get(row["channel_id"])
        if channel is None or row["package_id"] not in versions:
            continue
        archs = ARCHS.get(channel["arch"], ())
        thing = next((one for one in own.things if one.arch in archs and one.name == own.names[channel["id"]]), None)
        if thing is not None:
            notes.say(
                thing,
                f"{versions[row['package_id']]} is blacklisted here in Nebraska. There are no blacklists: do not "
                "promote it, or demand an attestation that it does not have.",
            )


# Groups


@dataclass(frozen=True, slots=True)
class _Following:
    channels: Mapping[str, Row]
    names: Mapping[str, str]


def _groups(
    application: str, groups: Sequence[Row], following: _Following, names: _Names, notes: _Notes
) -> list[Thing]:
    tracks = Counter(row["track"] or row["id"] for row in groups)
    things = []
    for row in groups:
        channel = following.channels.get(row["channel_id"] or "")
        if channel is None:
            notes.unmapped.append(f"group {row['name']} of {application} follows no channel: its nodes get nothing")
            continue
        policy, said = policy_of(row)
        track = row["track"] or row["id"]
        selector: dict[str, list[str]] = {"track": [*dict.fromkeys([track, row["id"]])]}
        archs = ARCHS.get(channel["arch"], ())
        if tracks[track] > 1 and len(archs) == 1:
            selector["arch"] = list(archs)
        thing = Thing(
            noun=Noun.GROUP,
            application=application,
            name=names.take(f"{application}/groups", row["name"]),
            fields={
                **DEFAULTS[Noun.GROUP],
                "channel": following.names[channel["id"]],
                "selector": selector,
                "updates_enabled": row["updates_enabled"],
                "policy": policy,
            },
        )
        if row["description"]:
            notes.say(thing, " ".join(row["description"].split()))
        if thing.name != row["name"]:
            notes.say(thing, f"In Nebraska it is called {row['name']!r}.")
        notes.say(thing, *said)
        things.append(thing)
    if things:
        rest = Thing(
            noun=Noun.GROUP,
            application=application,
            name=names.take(f"{application}/groups", REST),
            fields={**DEFAULTS[Noun.GROUP], "channel": things[-1].fields["channel"], "updates_enabled": False},
        )
        notes.say(rest, "Nodes of no track that is known. Nebraska refuses them; here they are seen, and get nothing.")
        things.append(rest)
    return things


def policy_of(row: Row) -> tuple[dict[str, Any], list[str]]:
    """Our policy for a group of Nebraska's, and what differs, in words."""
    policy: dict[str, Any] = {}
    notes: list[str] = []
    limit, period = int(row["max_updates"]), _span(row["period_s"])
    if limit < UNLIMITED:
        policy["group_concurrency"] = max(1, limit)
        notes.append(
            f"Nebraska: at most {limit} updates per {period}. Here: at most {max(1, limit)} nodes in flight at once, "
            "and fewer until the evidence allows more."
        )
    else:
        notes.append("Nebraska did not limit it. Here the pace begins small and widens by evidence.")
    if row["office_hours"]:
        zone = row["time_zone"]
        if zone not in zoneinfo.available_timezones():
            notes.append(f"Its time zone {zone!r} is not known: UTC is used.")
            zone = "UTC"
        days = ["mon", "tue", "wed", "thu", "fri"]
        policy["windows"] = {
            "weekly": [{"days": days, "start": "09:00", "length_s": 8 * 3_600.0}],
            "cron": [],
            "blackouts": [],
            "time_zone": zone,
            "must_fit": False,
        }
    if row["safe_mode"]:
        policy["waves"] = [{"fraction": _CANARIES, "soak_s": _SAFE_SOAK_S}, {"fraction": 1.0, "soak_s": 0.0}]
        notes.append(
            f"Safe mode let one node begin, and counted its failure as well as its success. Here {_CANARIES:.0%} of "
            f"the group go first and soak for {_span(_SAFE_SOAK_S)}, each time others."
        )
    timeout = float(row["timeout_s"])
    policy["offer_deadline_s"] = min(_LONGEST_S, max(_SHORTEST_OFFER_S, timeout))
    notes.append(
        f"Update timeout {_span(timeout)}: here an offer without progress is taken back after "
        f"{_span(policy['offer_deadline_s'])}; waiting for a reboot is no time-out."
    )
    return policy, notes


def _span(seconds: float) -> str:
    for length, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= length and seconds % length == 0:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"


# Nodes


def _node(application: str, row: Row) -> NodePlan:
    facts = {"oem": row["oem"], "alephversion": row["aleph_version"]}
    return NodePlan(
        application=application,
        machine_id=row["id"],
        alias=row["alias"][:128] or None,
        facts={name: value[:128] for name, value in facts.items() if value},
    )
