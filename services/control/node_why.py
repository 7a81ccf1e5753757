"""Why did this node not get an update? In words, from what is known of it and of what its group rolls out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.control.completion import SILENT_AFTER
from services.control.standstill import ENDED, Standstill
from shared.domain.hold import Segment
from shared.domain.reasons import EXPLANATIONS, Reason
from shared.domain.version import is_newer

GONE: Final = "gone"
SILENT: Final = "silent"
STRANDED: Final = (
    Reason.QUARANTINED.value,
    Reason.ATTEMPTS_SPENT.value,
    Reason.DEAD_END.value,
    Reason.MINIMUM_VERSION.value,
    Reason.VERSION_UNKNOWN.value,
)
"""Answers after which nothing is left to offer until an operator does something."""
_OF_NODE: Final = frozenset(
    {Standstill.NO_NODES, Standstill.NO_NODE_LEFT, Standstill.WAVE_DONE, Standstill.UPDATES_DISABLED, *ENDED}
)
"""What a rollout says of all its nodes together; about this one more is known."""
_WORDS: Final = {
    Standstill.HALTED_EVERYWHERE: Reason.HALTED_EVERYWHERE,
    Standstill.CHANGESET_HALTED: Reason.HALTED,
    Standstill.CHANGESET_SUSPENDED: Reason.SUSPENDED,
    Standstill.CHANGESET_WITHDRAWN: Reason.WITHDRAWN,
    Standstill.ROLLOUT_CREATED: Reason.ROLLOUT_PAUSED,
    Standstill.ROLLOUT_WAITING_FOR_GATE: Reason.WAITING_FOR_GATE,
    Standstill.ROLLOUT_WAITING_FOR_APPROVAL: Reason.WAITING_FOR_APPROVAL,
    Standstill.ROLLOUT_SCHEDULED: Reason.SCHEDULED,
    Standstill.ROLLOUT_PAUSED: Reason.ROLLOUT_PAUSED,
    Standstill.ROLLOUT_HALTED: Reason.HALTED,
    Standstill.BRAKED: Reason.BRAKED,
    Standstill.WINDOW_SHUT: Reason.WINDOW_CLOSED,
    Standstill.PACE_OF_CHANGESET: Reason.CHANGESET_PACE,
    Standstill.PACE_OF_GROUP: Reason.GROUP_PACE,
}
_LAST: Final = frozenset({Reason.WINDOW_CLOSED, Reason.CHANGESET_PACE, Reason.GROUP_PACE})
"""What passes by itself is judged last."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that keeps a node from its update: a bounded word, and what it means here."""

    reason: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """What the node's group rolls out to it.

    Attributes:
        standstill: Why the whole rollout stands still; ``explanation`` says so in words.
        fraction: The share of the group that may be offered it.
        position: Where the node stands in the changeset's order, from 0 to 1.
        order: The fact by which nodes come one after the other, and its values.
        order_stage: The last stage that may be offered it.
        quarantined: Why the changeset is not offered to the node again.
        excluded: Why an operator excluded the node.
        holds: Segments that are held, each with its reason.
        failures: Failed attempts of the node at the changeset.
    """

    version: str
    state: str
    standstill: Standstill | None
    explanation: str | None
    fraction: float
    position: float
    order: tuple[str, Sequence[str]] | None
    order_stage: int
    quarantined: str | None
    excluded: str | None
    holds: Sequence[tuple[Segment, str]]
    failures: int
    max_attempts: int
    in_flight: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What is known of the node; ``attempt`` is its open attempt's state, target and since when."""

    version: str
    arch: str | None
    facts: dict[str, str]
    last_contact_at: datetime
    gone_at: datetime | None
    cloned: bool
    group: str | None
    updates_enabled: bool
    follows: str | None
    observe_only: bool
    everything_open: bool
    attempt: tuple[str, str, datetime, bool] | None
    rollout: RolloutFacts | None


def findings(node: NodeFacts, now: datetime) -> list[Finding]:
    """All that keeps a node from an update now, the first of them first as update_check would judge it."""
    return list(_findings(node, now))


def _findings(node: NodeFacts, now: datetime) -> Iterator[Finding]:
    if node.gone_at is not None and node.gone_at >= node.last_contact_at:
        yield Finding(GONE, f"It is gone since {_at(node.gone_at)}.")
    elif now - node.last_contact_at > SILENT_AFTER:
        yield Finding(SILENT, f"It has not asked since {_at(node.last_contact_at)}.")
    if node.observe_only:
        yield _plain(Reason.OBSERVE_ONLY)
    if node.group is None:
        yield _plain(Reason.NO_GROUP)
        return
    rollout = node.rollout
    if rollout is None:
        what = "it does not say what its arch is" if node.arch is None else f"it rolls out nothing for {node.arch}"
        yield Finding(Reason.NO_ROLLOUT, f"Its group {node.group} follows {node.follows}, and {what}.")
        return
    if node.version == rollout.version:
        yield Finding(Reason.UP_TO_DATE, f"It runs {node.version}, which its group {node.group} rolls out.")
        return
    newer = is_newer(rollout.version, node.version)
    if newer is None:
        yield _plain(Reason.VERSION_UNKNOWN)
    elif not newer:
        yield Finding(
            Reason.UP_TO_DATE, f"It runs {node.version}, newer than {rollout.version}, which its group rolls out."
        )
        return
    if not node.updates_enabled:
        yield Finding(Reason.UPDATES_DISABLED, f"Updates are disabled for its group {node.group}.")
    whole = list(_of_rollout(node, rollout))
    yield from (finding for finding in whole if finding.reason not in _LAST)
    yield from _of_node(node, rollout)
    yield from (finding for finding in whole if finding.reason in _LAST)


def _of_rollout(node: NodeFacts, rollout: RolloutFacts) -> Iterator[Finding]:
    if rollout.standstill is None or rollout.standstill in _OF_NODE:
        if not node.everything_open:
            yield _plain(Reason.HALTED_EVERYWHERE)
        return
    word = _WORDS[rollout.standstill]
    said = (
        f"The rollout of {rollout.version} to {node.group} is {rollout.state.replace('_', ' ')}: {rollout.explanation}"
    )
    if word in _LAST - {Reason.WINDOW_CLOSED}:
        said += f" ({rollout.in_flight})"
    yield Finding(word, f"{said}.")


def _of_node(node: NodeFacts, rollout: RolloutFacts) -> Iterator[Finding]:
    for segment, reason in rollout.holds:
        if segment.matches(node.facts):
            yield Finding(Reason.HELD, f"{rollout.version} is held for {segment}: {reason}.")
    if rollout.excluded is not None:
        yield Finding(Reason.EXCLUDED, f"An operator excluded it from this rollout: {rollout.excluded}.")
    if rollout.quarantined is not None:
        yield Finding(
            Reason.QUARANTINED,
            f"{rollout.version} failed on it ({rollout.quarantined.replace('_', ' ')}) and is not offered to it again "
            "until that is lifted: `uneventful node lift`.",
        )
    if node.cloned:
        yield _plain(Reason.CLONED)
    if node.attempt is not None:
        state, version, since, parked = node.attempt
        said = (
            f"It has {version} under way since {_at(since)}: {state.replace('_', ' ')}{', parked' if parked else ''}."
        )
        yield Finding(Reason.ATTEMPT_OPEN, said)
    if rollout.failures >= rollout.max_attempts:
        yield Finding(
            Reason.ATTEMPTS_SPENT, f"It failed to fetch or install {rollout.version} {rollout.failures} times."
        )
    elif rollout.failures:
        yield Finding(
            Reason.RETRY_LATER,
            f"It failed to fetch or install {rollout.version} {rollout.failures} times, and is offered it again after "
            "a pause.",
        )
    if rollout.order is not None:
        fact, values = rollout.order
        value = node.facts.get(fact)
        stage = values.index(value) if value in values else len(values)
        if stage > rollout.order_stage:
            first = values[min(rollout.order_stage, len(values) - 1)]
            yield Finding(Reason.ORDER_STAGE, f"Nodes with {fact} {first} come first; it has {value or 'none'}.")
    if rollout.position >= rollout.fraction:
        yield Finding(
            Reason.WAVE,
            f"The wave that runs lets {rollout.fraction:.0%} of the group in; it comes in at {rollout.position:.1%}.",
        )


def summary(found: Sequence[Finding], version: str | None) -> str:
    """The answer in one sentence."""
    if found:
        return found[0].sentence
    return (
        "Nothing keeps it: it is offered an update when it asks next."
        if version is None
        else (f"Nothing keeps it: it is offered {version} when it asks next.")
    )


def answer_means(answer: str | None) -> str | None:
    """What the last poll was answered, in words."""
    if answer is None:
        return None
    return EXPLANATIONS.get(answer, "A newer version of Uneventful answered with a word that is not known here.")


def _plain(reason: Reason) -> Finding:
    return Finding(reason.value, EXPLANATIONS[reason])


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def history_line(kind: str, data: dict[str, Any]) -> str:
    """One event of a node's life, for people."""
    before, after = data.get("from_version"), data.get("to_version")
    way = f" {before} -> {after}" if before and after else ""
    reason = f" ({data['reason']})" if data.get("reason") else ""
    applied = "" if data.get("applied", True) else ", which moved nothing"
    match kind.split("."):
        case ["update", step, *_]:
            return f"{step.replace('_', ' ')}{way}{reason}{applied}"
        case ["node", "quarantined", *_] if data.get("lifted"):
            return f"quarantine lifted{reason} by {data.get('by') or 'an operator'}"
        case ["node", "quarantined", *_]:
            return f"quarantined{reason}"
        case ["node", "changed", *_] if data.get("forgotten"):
            return f"forgotten{reason} by {data.get('by')}"
        case ["node", "changed", *_]:
            named = f" named {data['alias']}" if data.get("alias") else ""
            return f"described{named}{reason} by {data.get('by')}"
        case ["node", what, *_]:
            running = f" with {data['version']}" if data.get("version") else ""
            return f"{what}{running}{reason}"
        case _:
            return kind
