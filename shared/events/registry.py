"""Which types of events there are, what their data is, and how old majors become new ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import EventInvalid
from shared.events import types

TYPE_PATTERN = re.compile(r"[a-z]+(?:_[a-z]+)*\.[a-z]+(?:_[a-z]+)*\.v[1-9][0-9]{0,3}", re.ASCII)

Upcast = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class EventType:
    """One type of event, ``<entity>.<past tense>.v<major>``.

    Attributes:
        data: The Struct of the event's data.
        summary: What happened, in one sentence.
        upcasts_to: The next major; old events are read as that one. Needs ``upcast``.
        upcast: Makes data of the next major from data of this one. Pure; gets a dict of its own.
    """

    name: str
    data: type[types.EventData]
    summary: str
    upcasts_to: str | None = None
    upcast: Upcast | None = None


class Registry(Mapping[str, EventType]):
    """Event types by name.

    Raises:
        ValueError: A name is malformed or registered twice, or an upcaster leads nowhere.
    """

    def __init__(self, event_types: Iterable[EventType]) -> None:
        self._by_name: dict[str, EventType] = {}
        for event_type in event_types:
            if TYPE_PATTERN.fullmatch(event_type.name) is None:
                raise ValueError(f"{event_type.name!r} is no event type: name it <entity>.<past tense>.v<major>")
            if event_type.name in self._by_name:
                raise ValueError(f"{event_type.name} is registered twice")
            if (event_type.upcast is None) != (event_type.upcasts_to is None):
                raise ValueError(f"{event_type.name} needs both upcast and upcasts_to, or neither")
            self._by_name[event_type.name] = event_type
        for event_type in self._by_name.values():
            self._check_chain(event_type)
        users: dict[type[types.EventData], list[str]] = {}
        for event_type in self._by_name.values():
            if event_type.upcast is None:
                users.setdefault(event_type.data, []).append(event_type.name)
        self._name_by_data = {data: names[0] for data, names in users.items() if len(names) == 1}

    def _check_chain(self, event_type: EventType) -> None:
        entity, major = event_type.name.rsplit(".v", 1)
        if event_type.upcasts_to is None:
            return
        if event_type.upcasts_to != f"{entity}.v{int(major) + 1}" or event_type.upcasts_to not in self._by_name:
            raise ValueError(f"{event_type.name} must upcast to the registered next major of {entity}")

    def __getitem__(self, name: str) -> EventType:
        try:
            return self._by_name[name]
        except KeyError:
            raise EventInvalid(
                f"there is no event type {name[:80]!r}: register it in shared.events, or upgrade this service",
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def name_of(self, data: type[types.EventData]) -> str:
        """The one type that carries this data.

        Raises:
            EventInvalid: No type or several types carry it; then the type must be given.
        """
        try:
            return self._name_by_data[data]
        except KeyError:
            raise EventInvalid(f"{data.__name__} does not tell the event type: pass type=") from None

    def check(self, name: str, data: types.EventData) -> None:
        """Refuse data that does not belong to the type.

        Raises:
            EventInvalid: The type is unknown, or its data is another Struct.
        """
        expected = self[name].data
        if not isinstance(data, expected):
            raise EventInvalid(f"the data of {name} is {expected.__name__}, not {type(data).__name__}")

    def chain(self, name: str) -> tuple[EventType, tuple[Upcast, ...]]:
        """The newest major of a type, and the upcasters that lead there."""
        event_type, upcasts = self[name], list[Upcast]()
        while event_type.upcast is not None and event_type.upcasts_to is not None:
            upcasts.append(event_type.upcast)
            event_type = self[event_type.upcasts_to]
        return event_type, tuple(upcasts)


def _update(verb: str, summary: str) -> EventType:
    return EventType(name=f"update.{verb}.v1", data=types.UpdateEvent, summary=summary)


def _rollout_changed(verb: str, summary: str) -> EventType:
    return EventType(name=f"rollout.{verb}.v1", data=types.RolloutChanged, summary=summary)


def _rollout(verb: str, summary: str) -> EventType:
    return EventType(name=f"rollout.{verb}.v1", data=types.RolloutMoved, summary=summary)


EVENT_TYPES = Registry(
    [
        EventType(
            name="changeset.published.v1",
            data=types.ChangesetPublished,
            summary="A changeset became immutable and may be offered.",
        ),
        EventType(
            name="changeset.attested.v1",
            data=types.ChangesetAttested,
            summary="The result of a release test was attached.",
        ),
        EventType(
            name="changeset.marked.v1",
            data=types.ChangesetMarked,
            summary="A published changeset was declared a floor or a dead end, or no longer.",
        ),
        EventType(
            name="changeset.held.v1",
            data=types.ChangesetHeld,
            summary="No more of it for a segment, or again.",
        ),
        EventType(
            name="changeset.suspended.v1",
            data=types.ChangesetSuspended,
            summary="A payload is in doubt; the changeset is not served for now.",
        ),
        EventType(
            name="changeset.withdrawn.v1",
            data=types.ChangesetWithdrawn,
            summary="The changeset is taken back for good.",
        ),
        EventType(
            name="changeset.braked.v1",
            data=types.ChangesetBraked,
            summary="No more grants until it is known whether this is a halt.",
        ),
        EventType(
            name="changeset.halted.v1",
            data=types.ChangesetHalted,
            summary="No more of this changeset for anyone, until an operator resumes it.",
        ),
        EventType(
            name="changeset.resumed.v1",
            data=types.ChangesetResumed,
            summary="An operator let a halted changeset go on.",
        ),
        EventType(
            name="channel.promoted.v1",
            data=types.ChannelPromoted,
            summary="A channel points to a changeset now.",
        ),
        EventType(
            name="rollout.created.v1",
            data=types.RolloutCreated,
            summary="One changeset goes to one group; the numbers it is judged by are frozen here.",
        ),
        _rollout("started", "The first attempt of the rollout may be granted."),
        EventType(
            name="rollout.widened.v1",
            data=types.RolloutWidened,
            summary="The pace changed, in either direction.",
        ),
        _rollout("waited", "The rollout waits for a gate, an approval or its time."),
        EventType(
            name="rollout.gate_judged.v1",
            data=types.RolloutGateJudged,
            summary="What the gates of a waiting rollout say changed.",
        ),
        EventType(
            name="rollout.wave_begun.v1",
            data=types.RolloutWaveBegun,
            summary="A wider share of the group may be offered the changeset.",
        ),
        _rollout_changed("approved", "An approver let a rollout go on."),
        _rollout_changed("expedited", "Soak, waves and windows are relaxed for a rollout, within its policy's bounds."),
        _rollout_changed("capped", "An operator capped a rollout's pace, or took the cap away."),
        _rollout_changed("node_excluded", "A node is not offered the changeset in this rollout."),
        _rollout("paused", "No more grants until the rollout is resumed."),
        _rollout("halted", "The rollout stopped because its changeset is halted."),
        _rollout("resumed", "The rollout goes on."),
        _rollout("completed", "Every live node of the group took the changeset or cannot."),
        _rollout("aborted", "An operator gave the rollout up."),
        _rollout("superseded", "Another changeset took the rollout's place."),
        EventType(
            name="approval.asked.v1",
            data=types.ApprovalMoved,
            summary="Somebody asked for what needs four eyes.",
        ),
        EventType(
            name="approval.decided.v1",
            data=types.ApprovalMoved,
            summary="Another one allowed or refused it.",
        ),
        EventType(
            name="operator.acted.v1",
            data=types.OperatorActed,
            summary="Somebody changed something through the API.",
        ),
        EventType(name="keys.changed.v1", data=types.KeysChanged, summary="The list of signing keys changed."),
        EventType(
            name="attester.changed.v1",
            data=types.AttesterChanged,
            summary="A tester's key is trusted to sign attestations, or no longer.",
        ),
        EventType(
            name="node.changed.v1", data=types.NodeChanged, summary="An operator changed what is known of a node."
        ),
        EventType(
            name="fleet.flooded.v1",
            data=types.FleetFlooded,
            summary="One machine or address sent more reports than are taken.",
        ),
        EventType(
            name="policy.changed.v1",
            data=types.PolicyChanged,
            summary="Something that decisions depend on changed.",
        ),
        _update("offered", "A node was granted the changeset; an attempt is open."),
        _update("download_started", "The node fetches the payload."),
        _update("downloaded", "The node has the payload and verified it."),
        _update("staged", "The other slot holds the new version."),
        _update("reboot_awaited", "The staged node still runs the old slot."),
        _update("parked", "The staged node has not rebooted for so long that it left the pace."),
        _update("booted", "The node runs the new slot and is on probation."),
        _update("committed", "The new slot proved itself: a good outcome."),
        _update("rolled_back", "The node fell back to the old slot: a bad outcome."),
        _update("failed", "The attempt ended before the reboot."),
        _update("presumed_lost", "The node was silent past its deadline: a bad outcome if it had started."),
        _update("recalled", "The attempt was called off: neither good nor bad."),
        EventType(
            name="node.token_issued.v1",
            data=types.NodeTokenIssued,
            summary="A machine enrolled and got a token of its own.",
        ),
        EventType(name="node.enrolled.v1", data=types.NodeEnrolled, summary="A node was seen for the first time."),
        EventType(name="node.cloned.v1", data=types.NodeCloned, summary="Two machines use one machine id."),
        EventType(
            name="node.quarantined.v1",
            data=types.NodeQuarantined,
            summary="A changeset is not offered to this node again, or may be again.",
        ),
        EventType(name="node.gone.v1", data=types.NodeGone, summary="A node left the fleet for good."),
        EventType(name="log.ticked.v1", data=types.LogTicked, summary="The log is alive; observed time passes."),
    ]
)
