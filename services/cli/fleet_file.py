"""A fleet file: applications, channels and groups as YAML, and what it says of each thing. Pure.

Scalars are read by what is expected in their place, not by how they look: a version 3066.10 stays one, and 22:00 is a
time of day. Whatever is wrong is said with its line and what would be right, all unknown names at once.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import msgspec.inspect
import yaml

from shared.domain.policy import Policy
from shared.errors import InvalidInput, UneventfulError

FORMAT: Final = 1
MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 24
MAX_VALUES: Final = 100_000
USUAL_POSITIONS: Final[Mapping[str, int]] = {"alpha": 0, "beta": 1, "stable": 2, "lts": 3}
_USUAL_POSITION: Final = 2
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ +~:@-]{0,63}\Z")]
TestName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Arch: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}\Z")]
Words: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
Version: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}\Z")]
FactName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}\Z")]
FactValue: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Selector: TypeAlias = Annotated[
    dict[FactName, Annotated[tuple[FactValue, ...], msgspec.Meta(min_length=1, max_length=64)]],
    msgspec.Meta(max_length=16),
]


class Noun(enum.StrEnum):
    """What a fleet file speaks of."""

    APPLICATION = "application"
    CHANNEL = "channel"
    GROUP = "group"


class Scheme(enum.StrEnum):
    """How versions are ordered and which belongs to which."""

    FLATCAR = "flatcar"
    SEMVER = "semver"
    CALENDAR = "calendar"


class _Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the file; what it does not give has its default."""


class WrittenChannel(_Written, frozen=True, kw_only=True):
    """Channels of one name, one per arch."""

    name: Name
    archs: Annotated[tuple[Arch, ...], msgspec.Meta(min_length=1, max_length=16)]
    position: Annotated[int, msgspec.Meta(ge=0, le=63)] | None = None
    required_attestations: Annotated[tuple[TestName, ...], msgspec.Meta(max_length=32)] = ()


class WrittenGroup(_Written, frozen=True, kw_only=True):
    """A group; groups are tried in the order in which they are written."""

    name: Name
    channel: Name | None = None
    pin: Version | None = None
    selector: Selector = msgspec.field(default_factory=dict)
    explicit_only: bool = False
    nodes: Annotated[tuple[FactValue, ...], msgspec.Meta(max_length=5_000)] = ()
    owner: Words = ""
    contact: Words = ""
    updates_enabled: bool = True
    policy: Policy = Policy()


class WrittenApplication(_Written, frozen=True, kw_only=True):
    """An application with what belongs to it."""

    name: Name
    omaha_id: Annotated[str, msgspec.Meta(pattern=r"^\{?[A-Za-z0-9._-]{1,64}\}?\Z")] | None = None
    product: Name | None = None
    scheme: Scheme = Scheme.FLATCAR
    observe_only: bool = False
    channels: Annotated[tuple[WrittenChannel, ...], msgspec.Meta(max_length=256)] = ()
    groups: Annotated[tuple[WrittenGroup, ...], msgspec.Meta(max_length=1_000)] = ()


class WrittenFleet(_Written, frozen=True, kw_only=True):
    """The file. ``fleet`` is the format's number."""

    fleet: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    applications: Annotated[tuple[WrittenApplication, ...], msgspec.Meta(max_length=64)] = ()


DEFAULTS: Final[Mapping[Noun, Mapping[str, Any]]] = {
    Noun.APPLICATION: {"omaha_id": None, "product": None, "scheme": "flatcar", "observe_only": False},
    Noun.CHANNEL: {"position": _USUAL_POSITION, "required_attestations": []},
    Noun.GROUP: {
        "channel": None,
        "pin": None,
        "selector": {},
        "explicit_only": False,
        "nodes": [],
        "owner": "",
        "contact": "",
        "updates_enabled": True,
        "policy": {},
    },
}
"""All fields of a thing besides its names, in the order in which they are shown and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An application, a channel of one arch, or a group, and what it is to be like.

    Attributes:
        application: The name of the application that it belongs to, or is.
        name: Its name.
        arch: Of a channel.
        fields: Its values, every field of `DEFAULTS`; a policy has what was given, without defaults.
        line: Where the file says so; 0 where no file does.
    """

    noun: Noun
    application: str
    name: str
    arch: str = ""
    fields: Mapping[str, Any]
    line: int = 0

    @property
    def key(self) -> tuple[Noun, str, str, str]:
        """What makes it the same thing in two fleets."""
        return (self.noun, self.application, self.name, self.arch)

    @property
    def words(self) -> str:
        """Its name as people say it."""
        if self.noun is Noun.APPLICATION:
            return f"application {self.name}"
        return f"{self.noun.value} {self.application}/{self.name}" + (f" ({self.arch})" if self.arch else "")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Things, and per application the names of its groups in the order in which they are tried."""

    things: tuple[Thing, ...] = ()
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def omaha_id_of(text: str | None) -> str | None:
    """An Omaha id as it is kept: in lower case, without braces."""
    return None if text is None else text.strip().strip("{}").lower()


def takes_every_node(fields: Mapping[str, Any]) -> bool:
    """Whether a group with these fields leaves no node to those behind it."""
    return not fields["selector"] and not fields["explicit_only"]


def position_of(name: str, given: int | None) -> int:
    """A channel's stability: as given, else as channels of that name usually have it."""
    return USUAL_POSITIONS.get(name.lower().partition("-")[0], _USUAL_POSITION) if given is None else given


def parse(text: str, filename: str) -> Fleet:
    """Read a fleet file.

    Raises:
        InvalidInput: It cannot be read as one; each line of the message is ``file:line: what is wrong``.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidInput(f"{filename} has more than {MAX_BYTES} bytes: split the fleet by application")
    file = _File(filename)
    root = file.compose(text)
    try:
        plain = _plain(root)
    except _Unreadable as fault:
        raise file.refusal([fault.problem]) from fault
    problems = sorted(set(_unknown_names(root, msgspec.inspect.type_info(WrittenFleet))))
    if problems:
        raise file.refusal(problems)
    try:
        written = msgspec.convert(plain, WrittenFleet, strict=False)
    except (msgspec.ValidationError, UneventfulError) as fault:
        raise file.refusal([file.problem_of(root, fault)]) from fault
    fleet = _fleet_of(written, root, plain)
    problems = sorted(set(_contradictions(written, root)))
    if problems:
        raise file.refusal(problems)
    return fleet


Problem: TypeAlias = tuple[int, str]
_STEP: Final = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]")
_AT: Final = re.compile(r" - at `?(?:key` in `)?\$(?P<path>[^`]*)`$")


@dataclass(frozen=True, slots=True)
class _File:
    name: str

    def refusal(self, problems: Iterable[Problem]) -> InvalidInput:
        return InvalidInput("\n".join(f"{self.name}:{line}: {message}" for line, message in problems))

    def compose(self, text: str) -> yaml.Node:
        """The document's nodes, bounded in number and depth before anything is made of them."""
        try:
            depth = 0
            for values, event in enumerate(yaml.parse(text, Loader=_LOADER)):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH or values > MAX_VALUES:
                    line = 1 if event.start_mark is None else event.start_mark.line + 1
                    raise self.refusal([(line, f"nested deeper than {MAX_DEPTH}, or more than {MAX_VALUES} values")])
            root = yaml.compose(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as fault:
            mark = fault.problem_mark or fault.context_mark
            said = fault.problem or fault.context or "not YAML"
            raise self.refusal([(0 if mark is None else mark.line + 1, f"this is not YAML: {said}")]) from fault
        except yaml.YAMLError as fault:
            raise self.refusal([(1, f"this is not YAML: {' '.join(str(fault).split())}")]) from fault
        if not isinstance(root, yaml.MappingNode):
            raise self.refusal([(1, f"a fleet file begins with `fleet: {FORMAT}` and has `applications`")])
        return root

    def problem_of(self, root: yaml.Node, fault: Exception) -> Problem:
        """Where in the file a value is that was refused, and why."""
        if isinstance(fault, UneventfulError):
            return (_line_of_policy(root, fault.message), fault.message)
        said = str(fault)
        at = _AT.search(said)
        node = root
        if at is not None:
            said = said[: at.start()]
            for step in _STEP.finditer(at["path"]):
                found = _child(node, step["name"], step["index"])
                if found is None:
                    break
                node = found
        where = "" if at is None or not at["path"] else f"{at['path'].lstrip('.')}: "
        return (node.start_mark.line + 1, where + said[:1].lower() + said[1:])


def _child(node: yaml.Node, name: str | None, index: str | None) -> yaml.Node | None:
    if name is not None and isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    if index is not None and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
        found: yaml.Node = node.value[int(index)]
        return found
    return None


def _line_of_policy(root: yaml.Node, message: str) -> int:
    """The line of the first policy that is refused with this message."""
    for group in _groups(root):
        policy = _child(group, "policy", None)
        if policy is not None:
            try:
                msgspec.convert(_plain(policy), Policy, strict=False)
            except UneventfulError as fault:
                if fault.message == message:
                    return int(policy.start_mark.line) + 1
            except msgspec.ValidationError:
                continue
    return 1


def _items(node: yaml.Node | None) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _groups(root: yaml.Node) -> Iterator[yaml.Node]:
    for application in _items(_child(root, "applications", None)):
        yield from _items(_child(application, "groups", None))


class _Unreadable(Exception):  # noqa: N818  # as the errors of the tree, it says what is wrong
    """Nothing can be made of a part of the file."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.problem: Problem = (node.start_mark.line + 1, message)


def _plain(node: yaml.Node, budget: list[int] | None = None, depth: int = 0) -> Any:
    """Text, lists and dicts; aliases are followed within bounds."""
    left = [MAX_VALUES] if budget is None else budget
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        raise _Unreadable(node, "aliases make this too large: write it out")
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Unreadable(key, "a name must be plain text")
        return {key.value: _plain(value, left, depth + 1) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value, left, depth + 1) for value in node.value]
    plain_null = isinstance(node, yaml.ScalarNode) and not node.style and node.value in ("", "~", "null")
    return None if plain_null else node.value


def _unknown_names(node: yaml.Node, kind: msgspec.inspect.Type, depth: int = 0) -> Iterator[Problem]:
    """Names that nobody knows, with the nearest known one; and names that come twice."""
    if depth > MAX_DEPTH:
        return
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        known = _fields(kind)
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                yield line, f"{key.value} is given twice: keep one"
            seen.add(key.value)
            if known is not None and key.value not in known:
                yield line, f"there is no {key.value!r} here{nearest(key.value, known)}"
                continue
            of = known[key.value] if known is not None else _values(kind)
            if of is not None:
                yield from _unknown_names(value, of, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        of = _values(kind)
        for value in node.value:
            if of is not None:
                yield from _unknown_names(value, of, depth + 1)


def nearest(given: str, known: Iterable[str]) -> str:
    """What was meant, perhaps; as the end of a sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": known are {', '.join(names)}" if 0 < len(names) <= 40 else ""


def _fields(kind: msgspec.inspect.Type) -> dict[str, msgspec.inspect.Type] | None:
    """The fields of a Struct; None where any name will do."""
    for each in _alternatives(kind):
        if isinstance(each, msgspec.inspect.StructType):
            return {of.encode_name: of.type for of in each.fields}
    return None


def _values(kind: msgspec.inspect.Type) -> msgspec.inspect.Type | None:
    """The type of a list's or dict's values."""
    for each in _alternatives(kind):
        if isinstance(each, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            return each.item_type
        if isinstance(each, msgspec.inspect.DictType):
            return each.value_type
    return None


def _alternatives(kind: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _alternatives(kind.type)
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


# What the whole of the file must be like


def _contradictions(written: WrittenFleet, root: yaml.Node) -> Iterator[Problem]:
    applications = _items(_child(root, "applications", None))
    names = [application.name for application in written.applications]
    yield from _twice("application", names, applications)
    for application, node in zip(written.applications, applications, strict=True):
        channels = {channel.name for channel in application.channels}
        pairs = [f"{channel.name} ({arch})" for channel in application.channels for arch in channel.archs]
        places = [
            place
            for channel, place in zip(application.channels, _items(_child(node, "channels", None)), strict=True)
            for _ in channel.archs
        ]
        yield from _twice("channel", pairs, places)
        yield from _group_contradictions(application, channels, _items(_child(node, "groups", None)))


def _group_contradictions(
    application: WrittenApplication, channels: set[str], places: Sequence[yaml.Node]
) -> Iterator[Problem]:
    groups = [group.name for group in application.groups]
    yield from _twice("group", groups, places)
    owners: dict[str, str] = {}
    rest: str | None = None
    for group, place in zip(application.groups, places, strict=True):
        line = place.start_mark.line + 1
        if group.channel is None and group.pin is None:
            yield line, f"group {group.name} follows nothing: give it a channel, or a pin to a version"
        if rest is not None:
            yield line, f"no node ever comes to group {group.name}: {rest} before it takes every node; put {rest} last"
        if not group.selector and not group.explicit_only:
            rest = rest or group.name
        if group.explicit_only and group.selector:
            yield _line(place, "selector"), "a group with explicit_only has only the nodes that it names: no selector"
        if group.channel is not None and group.channel not in channels:
            yield _line(place, "channel"), f"there is no channel {group.channel!r}{nearest(group.channel, channels)}"
        for machine in group.nodes:
            if machine in owners:
                yield (
                    _line(place, "nodes"),
                    f"node {machine} is in group {owners[machine]} already: name it in one group",
                )
            owners.setdefault(machine, group.name)
        for gate in group.policy.gates:
            for wanted in gate.groups:
                if wanted not in groups:
                    yield _line(place, "policy", "gates"), f"there is no group {wanted!r}{nearest(wanted, groups)}"
    ring = ring_of({group.name: gate_groups(msgspec.to_builtins(group.policy)) for group in application.groups})
    if ring:
        place = places[groups.index(ring[0])]
        yield (
            _line(place, "policy", "gates"),
            f"the gates wait for each other ({' for '.join([*ring, ring[0]])}): take one out",
        )


def _line(node: yaml.Node, *names: str) -> int:
    for name in names:
        found = _child(node, name, None)
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1


def _twice(what: str, names: Sequence[str], places: Sequence[yaml.Node]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for name, place in zip(names, places, strict=True):
        line = place.start_mark.line + 1
        if name in first:
            yield line, f"there is a {what} {name} in line {first[name]} already: give it another name"
        first.setdefault(name, line)


def gate_groups(policy: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups that a policy's gates wait for."""
    return tuple(sorted({name for gate in policy.get("gates", ()) for name in gate["groups"]}))


def ring_of(waits_for: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names that wait for each other, in the order in which they do; empty where none do."""
    settled: set[str] = set()
    for start in waits_for:
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(waits_for[start]))]
        while stack and start not in settled:
            name, following = stack[-1]
            if len(path) < len(stack):
                path.append(name)
            further = next(following, None)
            if further is None:
                settled.add(name)
                stack.pop()
                path.pop()
            elif further in path:
                return tuple(path[path.index(further) :])
            elif further in waits_for and further not in settled:
                stack.append((further, iter(waits_for[further])))
    return ()


# From what was written to things


def _fleet_of(written: WrittenFleet, root: yaml.Node, plain: Mapping[str, Any]) -> Fleet:
    things: list[Thing] = []
    orders: dict[str, tuple[str, ...]] = {}
    places = _items(_child(root, "applications", None))
    given = plain.get("applications") or []
    for application, place, said in zip(written.applications, places, given, strict=True):
        fields = msgspec.to_builtins(application)
        fields["omaha_id"] = omaha_id_of(application.omaha_id)
        things.append(
            Thing(
                noun=Noun.APPLICATION,
                application=application.name,
                name=application.name,
                fields={name: fields[name] for name in DEFAULTS[Noun.APPLICATION]},
                line=place.start_mark.line + 1,
            )
        )
        for channel, at in zip(application.channels, _items(_child(place, "channels", None)), strict=True):
            values = {
                "position": position_of(channel.name, channel.position),
                "required_attestations": sorted(channel.required_attestations),
            }
            things += [
                Thing(
                    noun=Noun.CHANNEL,
                    application=application.name,
                    name=channel.name,
                    arch=arch,
                    fields=values,
                    line=at.start_mark.line + 1,
                )
                for arch in channel.archs
            ]
        groups = _items(_child(place, "groups", None))
        for group, at, one in zip(application.groups, groups, said.get("groups") or [], strict=True):
            fields = msgspec.json.decode(msgspec.json.encode(group))
            fields["policy"] = policy_given(group.policy, one.get("policy") or {})
            fields["nodes"] = sorted(group.nodes)
            things.append(
                Thing(
                    noun=Noun.GROUP,
                    application=application.name,
                    name=group.name,
                    fields={name: fields[name] for name in DEFAULTS[Noun.GROUP]},
                    line=at.start_mark.line + 1,
                )
            )
        orders[application.name] = tuple(group.name for group in application.groups)
    return Fleet(tuple(things), orders)


def policy_given(policy: Policy, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a policy what was given, its values in the one form in which they can be compared."""
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(policy))
    return {name: values[name] for name in values if given.get(name) is not None}


def read_policy(given: Mapping[str, Any]) -> dict[str, Any]:
    """`policy_given` of a policy that a server told; what this version cannot read stays as it is."""
    try:
        return policy_given(msgspec.convert(dict(given), Policy), given)
    except (msgspec.ValidationError, UneventfulError):
        return dict(given)


# Writing


def render(fleet: Fleet, *, head: Sequence[str] = (), notes: Mapping[tuple[Noun, str, str, str], Sequence[str]]) -> str:
    """The file of a fleet; what has its default is left out.

    Args:
        fleet: What to write.
        head: Lines of comment at the top.
        notes: Lines of comment before a thing, by its key; of a channel any arch will do.
    """
    lines = [*(f"# {line}".rstrip() for line in head), f"fleet: {FORMAT}", "applications:"]
    applications = [thing for thing in fleet.things if thing.noun is Noun.APPLICATION]
    if not applications:
        lines[-1] += " []"
    for application in applications:
        own = [thing for thing in fleet.things if thing.application == application.name]
        lines += _entry({"name": application.name, **_told(application)}, notes.get(application.key, ()), indent=2)
        channels = [thing for thing in own if thing.noun is Noun.CHANNEL]
        if channels:
            lines.append("    channels:")
        for written, said in _channels(channels, notes):
            lines += _entry(written, said, indent=6)
        by_name = {thing.name: thing for thing in own if thing.noun is Noun.GROUP}
        if by_name:
            lines.append("    groups:")
        for name in fleet.orders.get(application.name, tuple(by_name)):
            group = by_name[name]
            lines += _entry({"name": name, **_told(group)}, notes.get(group.key, ()), indent=6)
    return "\n".join(lines) + "\n"


def _told(thing: Thing) -> dict[str, Any]:
    told = {name: thing.fields[name] for name, usual in DEFAULTS[thing.noun].items() if thing.fields[name] != usual}
    if "policy" in told:
        told["policy"] = _short_policy(told["policy"])
    return told


def _short_policy(given: Mapping[str, Any]) -> dict[str, Any]:
    """A policy as people write it: within its values nothing that is a default."""
    try:
        policy = msgspec.convert(dict(given), Policy)
    except (msgspec.ValidationError, UneventfulError):
        return dict(given)
    return {name: _short(getattr(policy, name)) for name in given}


def _short(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        return {
            of.encode_name: _short(getattr(value, of.name)) for of in fields if getattr(value, of.name) != of.default
        }
    if isinstance(value, tuple):
        return [_short(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return msgspec.to_builtins(value)


def shown(name: str, value: Any) -> str:
    """A value on one line, as the file could have it; of a policy without what is a default within it."""
    part = name.removeprefix("policy.")
    if part != name and value is not None:
        value = _short_policy({part: value})[part]
    if isinstance(value, dict | list):
        return yaml.dump(value, Dumper=yaml.SafeDumper, default_flow_style=True, sort_keys=False, width=10_000).strip()
    return "-" if value is None or value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def _channels(
    channels: Sequence[Thing], notes: Mapping[tuple[Noun, str, str, str], Sequence[str]]
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Channels of one name that are alike in all but the arch, written as one."""
    alike: dict[tuple[str, str], list[Thing]] = {}
    for channel in channels:
        alike.setdefault((channel.name, repr(sorted(channel.fields.items()))), []).append(channel)
    for same in alike.values():
        first = same[0]
        written: dict[str, Any] = {"name": first.name, "archs": [channel.arch for channel in same]}
        if first.fields["position"] != position_of(first.name, None):
            written["position"] = first.fields["position"]
        if first.fields["required_attestations"]:
            written["required_attestations"] = first.fields["required_attestations"]
        yield written, [line for channel in same for line in notes.get(channel.key, ())]


class _Dumper(yaml.SafeDumper):
    """Short lists of plain values on one line, everything else in lines of its own."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # PyYAML's signature; nothing is ever aliased
        """Write equal values out each time."""
        return True

    def represent_list(self, data: Iterable[Any]) -> yaml.SequenceNode:
        """A list."""
        data = list(data)
        flat = len(data) <= 8 and all(not isinstance(value, dict | list) for value in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _Dumper.represent_list)


def _entry(values: Mapping[str, Any], notes: Sequence[str], *, indent: int) -> list[str]:
    """One item of a list, with comments before it."""
    margin = " " * indent
    text = yaml.dump([dict(values)], Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=110)
    return [*(f"{margin}# {note}".rstrip() for note in notes), *(margin + line for line in text.splitlines())]
