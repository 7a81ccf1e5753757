"""Fedora CoreOS' Cincinnati: the graph of releases that zincati asks for, and who sees which edge of it. Pure.

A node is known by its ``node_uuid``; it reports nothing, so what became of an offer is told by the version that it
comes back with. The one edge that leads away from the asking node's own release is the decision: it is there only where
the node was granted the update. All other edges follow Cincinnati's rules and are for whoever looks at the graph.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from services.update_check.configuration import ApplicationView, Configuration, RolloutView
from services.update_check.poll import MAX_ARCH, MAX_MACHINE_ID, MAX_VERSION, Poll, told_first
from shared.domain.observation import ObservationSource
from shared.domain.rollout import RolloutState
from shared.domain.version import parse
from shared.errors import InvalidInput

PREFIX: Final = "org.fedoraproject.coreos."
MAX_TEXT: Final = 512
"""The longest value of a query parameter: a pullspec fits."""
MAX_DRAWN: Final = 256
"""Graphs of an application and arch that are remembered: versions and checksums are the nodes' words."""
LEAST_WARINESS: Final = 1e-6
"""Of a node that does not say how wary it is: 0 is for those that say so."""

_ARCHES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_PULLSPEC: Final = re.compile(
    r"(?:[a-z-]+:)*(?://)?(?P<pullspec>[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}@sha256:[0-9a-f]{64})", re.ASCII
)
_MASK: Final = (1 << 64) - 1


# Wariness and throttling


def wariness_of(node_uuid: str, given: str | None) -> float:
    """How late a node wants to be among those that get a release: 0 first, 1 last.

    Args:
        node_uuid: By its hash, where the node does not say it.
        given: ``rollout_wariness`` as it came.

    Raises:
        InvalidInput: It is no number from 0 to 1; NaN is none.
    """
    if given is None:
        return min(1.0, max(LEAST_WARINESS, siphash13(node_uuid.encode() + b"\xff") / _MASK))
    if _NUMBER.fullmatch(given) is None:
        raise InvalidInput("rollout_wariness must be a number from 0 to 1")
    wariness = float(given)
    if not 0 <= wariness <= 1:
        raise InvalidInput("rollout_wariness must be a number from 0 to 1")
    return wariness


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """How a release becomes visible.

    From ``start_epoch`` (Unix seconds) on for ``start_value`` of the nodes, and for all of them after
    ``duration_minutes``; without a duration it stays as it is.
    """

    start_epoch: float
    start_value: float
    duration_minutes: float | None = None

    def share(self, now_s: float) -> float:
        """The share of the nodes that may see the release now."""
        elapsed = now_s - self.start_epoch
        if elapsed < 0:
            return 0.0
        if self.duration_minutes is None:
            return self.start_value
        length = self.duration_minutes * 60
        if elapsed >= length:
            return 1.0
        return self.start_value + (1 - self.start_value) * elapsed / length

    def hides(self, wariness: float, now_s: float) -> bool:
        """Whether a node of this wariness does not see the release: one of wariness 0 sees it even before its start."""
        return wariness > self.share(now_s)


def siphash13(data: bytes) -> int:
    """SipHash-1-3 with a key of zeros: what the hash of Fedora CoreOS' server is (Aumasson and Bernstein, 2012)."""
    v0, v1, v2, v3 = 0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573

    def rounds(count: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0 = (v0 + v1) & _MASK
            v1 = _rotl(v1, 13) ^ v0
            v0 = _rotl(v0, 32)
            v2 = (v2 + v3) & _MASK
            v3 = _rotl(v3, 16) ^ v2
            v0 = (v0 + v3) & _MASK
            v3 = _rotl(v3, 21) ^ v0
            v2 = (v2 + v1) & _MASK
            v1 = _rotl(v1, 17) ^ v2
            v2 = _rotl(v2, 32)

    whole = len(data) - len(data) % 8
    for start in range(0, whole, 8):
        word = int.from_bytes(data[start : start + 8], "little")
        v3 ^= word
        rounds(1)
        v0 ^= word
    last = (len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little")
    v3 ^= last
    rounds(1)
    v0 ^= last
    v2 ^= 0xFF
    rounds(3)
    return v0 ^ v1 ^ v2 ^ v3


def _rotl(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


# The graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A segment that is not offered a release: nodes that do not tell one of these facts with another value."""

    segment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of the graph.

    Attributes:
        checksum: Of the OSTree commit: the changeset's main payload's digest.
        pullspec: ``registry/repository@sha256:...``, where it has one.
        channels: The streams that it has been promoted to.
        barrier_reason: Set on a floor: nodes from below take it before anything newer.
        deadend_reason: Set where no update leads away from it.
        throttle: Set while it is rolled out: how much of the fleet may see it.
        holds: Segments that are not offered it.
        published_s: When it was published, in Unix seconds.
    """

    version: str
    checksum: str
    pullspec: str | None = None
    channels: frozenset[str] = frozenset()
    barrier_reason: str | None = None
    deadend_reason: str | None = None
    throttle: Throttle | None = None
    holds: tuple[Hold, ...] = ()
    published_s: float = 0.0

    def payload(self, *, oci: bool) -> str | None:
        """What nodes find it by; None where it is not to be had that way."""
        return self.pullspec if oci else self.checksum


def pullspec_of(source: str) -> str | None:
    """The pullspec in a changeset's ``source``, without a transport in front; None where that is no pullspec."""
    found = _PULLSPEC.fullmatch(source)
    return found["pullspec"] if found is not None else None


def by_age(releases: Iterable[Release]) -> list[Release]:
    """Releases, the oldest first; one whose version is none of those that can be ordered comes before all others."""
    return sorted(releases, key=lambda release: (_order(release.version), release.version))


@functools.lru_cache(maxsize=4_096)
def _order(version: str) -> tuple[Any, ...]:
    parsed = parse(version)
    return () if parsed is None else parsed.order


def edges_of(releases: Sequence[Release], hidden: Callable[[Release], bool]) -> list[tuple[int, int]]:
    """All edges by Cincinnati's rules, as pairs of places, sorted.

    What is rolled out is reached from every older release back to the barrier before it, that one included; a barrier
    from all since the barrier before it. A dead end leads nowhere.

    Args:
        releases: The oldest first.
        hidden: Whether the asking node must not see the edges to a release.
    """
    edges: list[tuple[int, int]] = []
    since = 0
    for place, release in enumerate(releases):
        is_barrier = release.barrier_reason is not None
        if (is_barrier or release.throttle is not None) and not hidden(release):
            edges += [(older, place) for older in range(since, place) if releases[older].deadend_reason is None]
        if is_barrier:
            since = place
    return sorted(edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What zincati asks with, decoded and bounded."""

    basearch: str
    stream: str
    os_version: str
    os_checksum: str
    node_uuid: str
    group: str
    platform: str
    oci: bool
    told_wariness: float | None = None
    """What the node says itself."""

    @property
    def wariness(self) -> float:
        """What the node says, else what its hash tells; that takes a while."""
        return wariness_of(self.node_uuid, None) if self.told_wariness is None else self.told_wariness

    @property
    def arch(self) -> str:
        """The arch by the name that changesets have."""
        return _ARCHES.get(self.basearch, self.basearch)


def query_of(given: Mapping[str, str]) -> Query:
    """Read the query of ``/v1/graph``; parameters that are not known are left alone.

    Raises:
        InvalidInput: One that is needed is missing, or a value is too long or not what it should be.
    """
    missing = [name for name in ("basearch", "stream", "os_version", "os_checksum", "node_uuid") if not given.get(name)]
    if missing:
        raise InvalidInput(f"mandatory client parameters missing: {', '.join(missing)}")
    bounds = {"basearch": MAX_ARCH, "os_version": MAX_VERSION, "node_uuid": MAX_MACHINE_ID}
    for name in ("basearch", "stream", "os_version", "os_checksum", "node_uuid", "group", "platform"):
        value = given.get(name, "")
        if len(value) > bounds.get(name, MAX_TEXT if name == "os_checksum" else 128) or not value.isprintable():
            raise InvalidInput(f"{name} is too long, or holds what cannot be printed")
    oci = given.get("oci", "false").lower()
    if oci not in {"true", "false", "1", "0", ""}:
        raise InvalidInput("oci must be true or false")
    return Query(
        basearch=given["basearch"],
        stream=given["stream"],
        os_version=given["os_version"],
        os_checksum=given["os_checksum"],
        node_uuid=given["node_uuid"],
        group=given.get("group", ""),
        platform=given.get("platform", ""),
        oci=oci in {"true", "1"},
        told_wariness=wariness_of(given["node_uuid"], told)
        if (told := given.get("rollout_wariness")) is not None
        else None,
    )


def poll_of(
    query: Query,
    application: ApplicationView,
    *,
    at: datetime,
    address: str | None,
    traceparent: str | None,
    imported: Mapping[str, str] | None = None,
) -> Poll:
    """What the request says of the node. It sends no boot id: another version is taken for another boot."""
    facts = {
        name: value
        for name, value in (
            ("arch", query.arch),
            ("group", query.group),
            ("platform", query.platform),
            ("track", query.stream),
        )
        if value
    }
    fact = told_first({**facts, "version": query.os_version}.get, imported)
    return Poll(
        source=ObservationSource.CINCINNATI,
        application=application,
        key=(application.application_id, query.node_uuid),
        version=query.os_version,
        boot_id=f"unknown-{query.os_version}",
        arch=query.arch,
        group=application.group_of(fact, query.node_uuid),
        fact=fact,
        facts=lambda: facts,
        at=at,
        address=address,
        traceparent=traceparent,
    )


def overlaid(releases: Iterable[Release], configuration: Configuration, poll: Poll) -> list[Release]:
    """Releases with what the node's group rolls out now: what it serves has a throttle, its share of the group."""
    served = _served(configuration, poll)
    return [
        dataclasses.replace(
            release,
            throttle=_throttle(release, view),
            holds=tuple(Hold(segment=segment) for segment in view.holds),
        )
        if (view := served.get(release.version)) is not None
        else release
        for release in releases
    ]


def _served(configuration: Configuration, poll: Poll) -> dict[str, RolloutView]:
    """What the node's group serves its arch now, by version."""
    group = poll.group
    rollouts = group.rollouts.get(poll.arch) if group is not None and poll.arch is not None else None
    if rollouts is None or group is None:
        return {}
    if not configuration.open or not group.updates_enabled or poll.application.observe_only:
        return {}
    views = (rollouts.former, *rollouts.floors, rollouts.update)
    return {view.version: view for view in views if view is not None and _serves(view)}


def _throttle(release: Release, view: RolloutView) -> Throttle:
    return Throttle(start_epoch=release.published_s, start_value=view.fraction)


def _serves(view: RolloutView) -> bool:
    return (
        view.gate_state == "open"
        and not view.suspended
        and view.braked_reason is None
        and RolloutState(view.state).serving
    )


def may_take(query: Query, poll: Poll, releases: Iterable[Release]) -> bool:
    """Whether the node could take what would be offered to it, so that nothing is granted in vain.

    It could not where the release is not to be had in the way that the node fetches it, nor where the node says that it
    is more wary than the rollout is wide. A low wariness does not let a node jump its wave: that is the policy's word.
    """
    group, arch = poll.group, poll.arch
    rollouts = group.rollouts.get(arch) if group is not None and arch is not None else None
    picked = rollouts.pick(query.node_uuid, query.os_version) if rollouts is not None else None
    if not isinstance(picked, RolloutView):
        # Nothing would be offered; why is the decision's to say.
        return True
    release = next((release for release in releases if release.version == picked.version), None)
    if release is None or release.payload(oci=query.oci) is None:
        return False
    return query.told_wariness is None or query.told_wariness <= picked.fraction


def graph(releases: Iterable[Release], query: Query, *, target: str | None, now_s: float) -> dict[str, Any]:
    """The graph as the asking node sees it.

    Its own release is in it whether it is known here or not, with the payload that the node says it runs, since a node
    looks itself up by both.

    Args:
        releases: All of the application and arch, as `overlaid` makes them.
        query: Who asks.
        target: The version that was granted to it; None where none was.
        now_s: Unix seconds.
    """
    known = {release.version: release for release in releases}
    own = known.get(query.os_version) or Release(version=query.os_version, checksum="")
    known[own.version] = (
        dataclasses.replace(own, pullspec=query.os_checksum)
        if query.oci
        else dataclasses.replace(own, checksum=query.os_checksum)
    )
    shown = [
        (age, release)
        for age, release in enumerate(by_age(known.values()))
        if (query.stream in release.channels or release.version in (query.os_version, target))
        and release.payload(oci=query.oci) is not None
    ]
    row = [release for _, release in shown]
    places = {release.version: place for place, release in enumerate(row)}
    here = places[query.os_version]

    def hidden(release: Release) -> bool:
        throttle = release.throttle
        return throttle is None or bool(release.holds) or throttle.hides(query.wariness, now_s)

    edges = [edge for edge in edges_of(row, hidden) if edge[0] != here]
    if target is not None and target in places:
        edges = sorted([*edges, (here, places[target])])
    found: dict[str, Any] = {
        "nodes": [_node(age, release, query) for age, release in shown],
        "edges": [list(edge) for edge in edges],
    }
    conditional = _conditional_edges(row, here)
    if conditional:
        found["conditionalEdges"] = conditional
    return found


class Catalogue:
    """The releases of an application and arch, with the graphs that were drawn of them.

    Nodes that ask alike see the same graph: it is drawn once for all that it depends on.

    Args:
        releases: As they are known, without what is rolled out.
    """

    def __init__(self, releases: Iterable[Release]) -> None:
        self.releases: Final = tuple(releases)
        self._by_version = {release.version: release for release in self.releases}
        self._drawn: dict[tuple[object, ...], bytes] = {}

    def draw(
        self, configuration: Configuration, poll: Poll, query: Query, *, target: str | None, now_s: float
    ) -> bytes:
        """The graph as the asking node sees it, as JSON: `graph` of what `overlaid` gives.

        Args:
            configuration: What is rolled out.
            poll: Who asks.
            query: What it asks with.
            target: The version that was granted to it; None where none was.
            now_s: Unix seconds.
        """
        overlay = tuple(
            (version, view.fraction, view.holds, self._hides(version, view, query, now_s))
            for version, view in _served(configuration, poll).items()
        )
        # Wariness and time decide what is hidden, and nothing else.
        key = (query.stream, query.oci, query.os_version, query.os_checksum, target, overlay)
        drawn = self._drawn.get(key)
        if drawn is None:
            seen = overlaid(self.releases, configuration, poll)
            drawn = msgspec.json.encode(graph(seen, query, target=target, now_s=now_s))
            if len(self._drawn) >= MAX_DRAWN:
                self._drawn.clear()
            self._drawn[key] = drawn
        return drawn

    def _hides(self, version: str, view: RolloutView, query: Query, now_s: float) -> bool:
        release = self._by_version.get(version)
        if release is None:
            return True
        throttle = _throttle(release, view)
        # Nobody is warier than 1: a node's hash is made only where it matters.
        return throttle.share(now_s) < 1 and throttle.hides(query.wariness, now_s)


def _node(age: int, release: Release, query: Query) -> dict[str, Any]:
    metadata = {
        PREFIX + "releases.age_index": str(age),
        PREFIX + "scheme": "oci" if query.oci else "checksum",
    }
    for name, reason in (("barrier", release.barrier_reason), ("deadend", release.deadend_reason)):
        if reason is not None:
            metadata[f"{PREFIX}updates.{name}"] = "true"
            metadata[f"{PREFIX}updates.{name}_reason"] = reason
    throttle = release.throttle
    if throttle is not None:
        metadata[PREFIX + "updates.rollout"] = "true"
        metadata[PREFIX + "updates.start_epoch"] = str(math.floor(throttle.start_epoch))
        metadata[PREFIX + "updates.start_value"] = f"{throttle.start_value:.6f}"
        if throttle.duration_minutes is not None:
            metadata[PREFIX + "updates.duration_minutes"] = f"{throttle.duration_minutes:g}"
    return {"version": release.version, "payload": release.payload(oci=query.oci), "metadata": metadata}


def _conditional_edges(releases: Sequence[Release], here: int) -> list[dict[str, Any]]:
    """Edges to what is held for a segment, in OpenShift's shape; not the asking node's, which are decided here.

    A rule of type ``Facts`` is ours: a client that does not know it takes the edge for not recommended.
    """
    sources: dict[int, list[int]] = {}
    for source, target in edges_of(releases, lambda release: not release.holds or release.throttle is None):
        if source != here:
            sources.setdefault(target, []).append(source)
    return [
        {
            "edges": [{"from": releases[source].version, "to": releases[target].version} for source in sources[target]],
            "risks": [_risk(hold) for hold in releases[target].holds],
        }
        for target in sorted(sources)
    ]


def _risk(hold: Hold) -> dict[str, Any]:
    facts = [f"{name}={value}" for name, value in hold.segment]
    return {
        "url": "",
        "name": ".".join(["Held", *facts]),
        "message": f"held for nodes with {', '.join(facts)}, and for those that do not tell",
        "matchingRules": [{"type": "Facts", "facts": dict(hold.segment)}],
    }
