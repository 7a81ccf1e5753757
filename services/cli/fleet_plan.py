"""What makes one fleet into another: the difference, and the steps in an order in which each is allowed. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.cli.fleet_file import DEFAULTS, Fleet, Noun, Thing, gate_groups, takes_every_node


class Verb(enum.StrEnum):
    """What happens to a thing."""

    ADD = "add"
    SET = "set"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One value; of a policy each of its values by itself, as ``policy.waves``. None: not given."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one thing, as the file wants it."""

    verb: Verb
    thing: Thing
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class OrderChange:
    """The groups of an application in another order."""

    application: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """All that is not as the file says.

    Attributes:
        left: What the file does not name, and what stays therefore.
    """

    changes: tuple[Change, ...] = ()
    orders: tuple[OrderChange, ...] = ()
    left: tuple[Thing, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether all is as the file says."""
        return not self.changes and not self.orders


@dataclass(frozen=True, slots=True)
class Step:
    """One request to the server.

    Attributes:
        body: Values by the names of the file; of a policy that is set, None takes a value back.
    """

    verb: Verb
    noun: Noun
    application: str
    name: str
    arch: str
    body: Mapping[str, Any]
    line: int
    words: str


def difference(wanted: Fleet, live: Fleet, *, prune: bool = False) -> Difference:
    """Compare; what only the server has is left alone, or, groups with ``prune``, removed.

    Channels and applications are never taken away: what was promoted when is part of the ledger's story.
    """
    there = {thing.key: thing for thing in live.things}
    named = {thing.key for thing in wanted.things}
    changes: list[Change] = []
    for thing in wanted.things:
        before = there.get(thing.key)
        fields = _field_changes(DEFAULTS[thing.noun] if before is None else before.fields, thing.fields)
        if before is None or fields:
            changes.append(Change(Verb.ADD if before is None else Verb.SET, thing, fields))
    left: list[Thing] = []
    for thing in live.things:
        if thing.key in named:
            continue
        if prune and thing.noun is Noun.GROUP and thing.application in wanted.orders:
            changes.append(Change(Verb.REMOVE, thing, ()))
        else:
            left.append(thing)
    removed = {(change.thing.application, change.thing.name) for change in changes if change.verb is Verb.REMOVE}
    orders = []
    for application, names in wanted.orders.items():
        now = tuple(name for name in live.orders.get(application, ()) if (application, name) not in removed)
        rest = {thing.name for thing in left if thing.application == application and thing.noun is Noun.GROUP
                and takes_every_node(thing.fields)}  # fmt: skip
        after = merged_order(names, now, last=rest)
        if after != now:
            orders.append(OrderChange(application, now, after))
    return Difference(tuple(changes), tuple(orders), tuple(left))


def merged_order(wanted: Sequence[str], live: Sequence[str], *, last: set[str] | frozenset[str]) -> tuple[str, ...]:
    """The file's order, with each group that it does not name behind the one that it follows now.

    Args:
        wanted: As the file has them.
        live: As the server has them.
        last: Not named, and to stay behind all others: they take every node.
    """
    order = list(wanted)
    named = set(wanted)
    previous: str | None = None
    for name in live:
        if name not in named and name not in last:
            order.insert(0 if previous is None else order.index(previous) + 1, name)
        if name not in last:
            previous = name
    return (*order, *(name for name in live if name in last))


def _field_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    changes: list[FieldChange] = []
    for name, value in after.items():
        old = before[name]
        if name == "policy":
            changes += [
                FieldChange(f"policy.{part}", old.get(part), value.get(part))
                for part in dict.fromkeys([*old, *value])
                if old.get(part) != value.get(part)
            ]
        elif old != value:
            changes.append(FieldChange(name, old, value))
    return tuple(changes)


def plan(difference: Difference) -> tuple[Step, ...]:
    """The steps: applications, channels, groups in the order in which their gates name each other, then places.

    A group is added with its whole policy at once: its rollout must not begin before its gates stand. Then those go
    that are to go, and at last groups change places, all of an application in one request.
    """
    by_noun: dict[Noun, list[Change]] = {noun: [] for noun in Noun}
    for change in difference.changes:
        by_noun[change.thing.noun].append(change)
    steps = [_step(change) for noun in (Noun.APPLICATION, Noun.CHANNEL) for change in by_noun[noun]]
    groups = by_noun[Noun.GROUP]
    steps += [_step(change) for change in _by_gates([one for one in groups if one.verb is not Verb.REMOVE])]
    # Those that wait go before those that they wait for.
    steps += [_step(change) for change in reversed(_by_gates([one for one in groups if one.verb is Verb.REMOVE]))]
    steps += [
        Step(
            Verb.SET, Noun.GROUP, order.application, "", "", {"order": list(order.after)}, 0,
            f"order the groups of {order.application}",
        )
        for order in difference.orders
    ]  # fmt: skip
    return tuple(steps)


def _by_gates(changes: Sequence[Change]) -> list[Change]:
    """Groups before those whose gates name them; gates that wait in a ring were refused before."""
    waiting = {(change.thing.application, change.thing.name): change for change in changes}
    done: dict[tuple[str, str], Change] = {}

    def visit(key: tuple[str, str], path: frozenset[tuple[str, str]]) -> None:
        if key in done or key not in waiting or key in path:
            return
        for name in gate_groups(waiting[key].thing.fields["policy"]):
            visit((key[0], name), path | {key})
        done[key] = waiting[key]

    for key in waiting:
        visit(key, frozenset())
    return list(done.values())


def _step(change: Change) -> Step:
    thing = change.thing
    body: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    for one in change.fields:
        outer, _, inner = one.name.partition(".")
        if inner:
            policy[inner] = one.after
        else:
            body[outer] = one.after
    if policy:
        body["policy"] = policy
    words = f"{change.verb.value} {thing.words}"
    return Step(change.verb, thing.noun, thing.application, thing.name, thing.arch, body, thing.line, words)
