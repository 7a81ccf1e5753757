"""Gates: a rollout waits until its changeset has soaked elsewhere. Pure."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec

from shared.domain import promotion

GroupName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class GateMode(enum.StrEnum):
    """What a gate asks for."""

    PROOF = "proof"
    """Promotion evidence: enough good nodes to exclude that the rate of bad ones reaches ``max_bad_rate``."""
    TIME = "time"
    """So long, on so many nodes, none bad; says little, so that the rollout behind it starts at a pace of 1."""


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must have happened on other groups before a rollout to this one begins.

    Attributes:
        groups: Groups of the same application whose nodes count together: the canaries of all clusters, say.
        soak_s: How long, in seconds, since the first of those nodes committed it.
        nodes: On how many committed nodes at least.
        max_bad_rate: p1, the rate of bad outcomes that mode ``proof`` has to exclude (E' >= 20).
        predecessor: Whether soaking of the predecessor by the version scheme counts (beta M.1.x for stable M.2.0).
    """

    groups: Annotated[tuple[GroupName, ...], msgspec.Meta(min_length=1, max_length=64)]
    soak_s: Annotated[float, msgspec.Meta(ge=0, le=90 * 86_400)] = 86_400.0
    nodes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    mode: GateMode = GateMode.PROOF
    max_bad_rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    predecessor: bool = True


class Standing(enum.StrEnum):
    """What may be said against the changeset that a gate looks at."""

    CLEAR = "clear"
    HALTED = "halted"
    SUSPENDED = "suspended"
    WITHDRAWN = "withdrawn"
    BRAKED = "braked"
    HELD = "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateEvidence:
    """What a gate's groups have seen; counts are nodes, each by its first attempt that started.

    Attributes:
        subject: The version that the gate looks at: the changeset itself or its predecessor.
        standing: What is said against that changeset.
        committed: Nodes of the gate's groups that committed it.
        bad: Nodes that rolled back or fell silent.
        pending: Nodes that have started and are not through.
        first_committed_at: When the first of them committed.
    """

    subject: str
    standing: Standing = Standing.CLEAR
    committed: int = 0
    bad: int = 0
    pending: int = 0
    first_committed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What a gate says.

    Attributes:
        open: Whether it lets the rollout begin.
        subject: The version that it looks at.
        seen: What it has seen, in words.
        waits_for: What it still waits for, in words; empty when open.
        until: The earliest time at which its soak is over, where that is known and still to come.
        excludes: What its evidence excludes, in words.
        committed: Nodes, as in `GateEvidence`.
        bad: Nodes.
        pending: Nodes.
        ln_e: Promotion evidence ln E', in mode ``proof``.
        threshold: What ``ln_e`` has to reach, in mode ``proof``.
    """

    open: bool
    subject: str
    seen: str
    waits_for: tuple[str, ...]
    until: datetime | None
    excludes: str
    committed: int
    bad: int
    pending: int
    ln_e: float | None = None
    threshold: float | None = None


_AGAINST: Final = {
    Standing.HALTED: "is halted: resume it, or promote a fix",
    Standing.SUSPENDED: "has a payload in doubt: promote another one, or lift the suspension",
    Standing.WITHDRAWN: "was withdrawn: promote another one",
    Standing.BRAKED: "is braked until it is known whether it is bad",
    Standing.HELD: "is held for a segment of the fleet: release the hold, or promote a fix",
}


def judge(gate: Gate, seen: GateEvidence, now: datetime, *, soak_share: float = 1.0) -> GateVerdict:
    """Whether a gate lets a rollout begin, and what it still waits for.

    Args:
        gate: From the rollout's policy.
        seen: What its groups have seen.
        now: The time.
        soak_share: How much of the soak is asked for; less than 1 for an expedited rollout.
    """
    groups = ", ".join(gate.groups)
    started = seen.committed + seen.bad + seen.pending
    waits_for: list[str] = []
    if seen.standing is not Standing.CLEAR:
        waits_for.append(f"{seen.subject}, which {_AGAINST[seen.standing]}")
    if seen.committed < gate.nodes:
        waits_for.append(f"{_more(gate.nodes - seen.committed)} of {groups} to commit {seen.subject}")
    ends = None
    if seen.first_committed_at is None:
        waits_for.append(f"a soak of {_duration(gate.soak_s * soak_share)} on {groups}, which has not begun")
    else:
        ends = seen.first_committed_at + timedelta(seconds=gate.soak_s * soak_share)
        if now < ends:
            waits_for.append(f"the soak of {seen.subject} on {groups}, until {ends:%Y-%m-%d %H:%M:%S} UTC")
    ln_e: float | None = None
    if gate.mode is GateMode.PROOF:
        ln_e = promotion.ln_e(started, seen.bad + seen.pending, gate.max_bad_rate)
        proven = ln_e >= promotion.THRESHOLD
        if not proven:
            waits_for.append(_proof_wanted(gate, seen, started))
        rate = f"a bad rate of {gate.max_bad_rate:.0%} or more"
        excludes = f"excludes {rate}" if proven else f"does not exclude {rate} yet"
    else:
        if seen.bad:
            waits_for.append(f"another changeset: {_nodes(seen.bad)} of {groups} ended badly with {seen.subject}")
        excludes = "excludes nothing" if seen.bad else _excluded(seen.committed)
    return GateVerdict(
        open=not waits_for,
        subject=seen.subject,
        seen=f"{seen.committed} committed, {seen.bad} bad, {seen.pending} pending on {groups}",
        waits_for=tuple(waits_for),
        until=ends if ends is not None and now < ends else None,
        excludes=excludes,
        committed=seen.committed,
        bad=seen.bad,
        pending=seen.pending,
        ln_e=ln_e,
        threshold=None if ln_e is None else promotion.THRESHOLD,
    )


def _proof_wanted(gate: Gate, seen: GateEvidence, started: int) -> str:
    needed = promotion.nodes_needed(seen.bad, gate.max_bad_rate)
    if needed is None:
        return f"another changeset: {_nodes(seen.bad)} ended badly, and no number of good ones makes up for it"
    if needed > started:
        return (
            f"{_more(needed - started, 'good ')} to exclude a bad rate of {gate.max_bad_rate:.0%} "
            f"({_nodes(needed)} with {seen.bad} bad)"
        )
    return f"the outcome of {_nodes(seen.pending)} that {'has' if seen.pending == 1 else 'have'} started"


def _excluded(good: int) -> str:
    if not good:
        return "excludes nothing"
    who = "1 good node excludes" if good == 1 else f"{good} good nodes exclude"
    return f"{who} only bad rates above {promotion.excluded_rate(good):.0%}"


def _more(number: int, kind: str = "") -> str:
    return f"{number} more {kind}{'node' if number == 1 else 'nodes'}"


def _nodes(number: int) -> str:
    return "1 node" if number == 1 else f"{number} nodes"


def _duration(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedGroup:
    """A group as far as gates ask.

    Attributes:
        nodes: Its nodes by arch.
        channel: The channel it follows; None where it is pinned to a version only.
        channel_position: How stable that channel is; None where there is no such channel.
        pinned: Whether it is pinned to a version.
        gates: Those of its policy.
    """

    nodes: Mapping[str, int]
    channel: str | None
    channel_position: int | None = None
    pinned: bool = False
    gates: tuple[Gate, ...] = ()


def impossible(owner: str, groups: Mapping[str, GatedGroup]) -> str | None:
    """Why a gate of a group can never open, in words; None where all of them can.

    An arch that the gate's groups have too few nodes of is named; as long as a fleet has no nodes at all, nothing is
    said about their number.

    Args:
        owner: The group whose gates are asked about; one of ``groups``.
        groups: All groups of the application, by name, as they would be.
    """
    mine = groups[owner]
    for gate in mine.gates:
        fault = _structural_fault(owner, mine, gate, groups) or _too_few(mine, gate, groups)
        if fault is not None:
            return fault
    ring = _ring(owner, groups)
    return None if ring is None else f"the gates wait for each other in a ring: {' -> '.join(ring)}"


def _structural_fault(owner: str, mine: GatedGroup, gate: Gate, groups: Mapping[str, GatedGroup]) -> str | None:
    for name in gate.groups:
        other = groups.get(name)
        if other is None:
            return f"a gate waits for the group {name!r}, which there is not"
        if name == owner:
            return f"a gate of the group {owner!r} waits for the group itself"
        if other.pinned or other.channel is None:
            return f"a gate waits for the group {name!r}, which is pinned and follows no channel"
        if other.channel_position is None and other.channel != mine.channel:
            return f"a gate waits for the group {name!r}, whose channel {other.channel!r} there is not"
        if (
            mine.channel_position is not None
            and other.channel_position is not None
            and other.channel_position > mine.channel_position
        ):
            return (
                f"a gate waits for the group {name!r}, which follows {other.channel!r}: that is more stable than "
                f"{mine.channel!r} and comes after it"
            )
    return None


def _too_few(mine: GatedGroup, gate: Gate, groups: Mapping[str, GatedGroup]) -> str | None:
    pooled: Counter[str] = Counter()
    for name in gate.groups:
        pooled.update(groups[name].nodes)
    if not any(sum(group.nodes.values()) for group in groups.values()):
        return None
    proof = promotion.nodes_needed(0, gate.max_bad_rate) if gate.mode is GateMode.PROOF else None
    needed = max(gate.nodes, proof or 0)
    archs = sorted(arch for arch, nodes in mine.nodes.items() if nodes)
    if not archs:
        # No node of the group's own has come yet: any arch that is there would do.
        archs = [max(pooled, key=lambda arch: pooled[arch], default="")]
    for arch in archs:
        if pooled[arch] < needed:
            why = (
                f"to exclude a bad rate of {gate.max_bad_rate:.0%} takes {proof}: use mode `time`, or more canaries"
                if proof is not None and needed == proof
                else f"it asks for {gate.nodes}"
            )
            of = f" with arch {arch}" if arch else ""
            return f"a gate waits for {', '.join(gate.groups)}, where {_nodes(pooled[arch])}{of} can commit, but {why}"
    return None


def _ring(owner: str, groups: Mapping[str, GatedGroup]) -> list[str] | None:
    path: list[str] = []
    done: set[str] = set()

    def follow(name: str) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done or name not in groups:
            return None
        path.append(name)
        for gate in groups[name].gates:
            for other in gate.groups:
                found = follow(other)
                if found is not None:
                    return found
        path.pop()
        done.add(name)
        return None

    return follow(owner)
