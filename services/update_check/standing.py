"""What is remembered of single nodes.

Only those are that differ from "nothing is going on", so that memory follows what is in flight and not the fleet.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shared.domain.attempt import CLOSED, WAITING
from shared.events.types import NodeChanged, NodeCloned, NodeQuarantined, UpdateEvent

CLOSED_STATES = frozenset(state.value for state in CLOSED)
"""Plain text, as rows and events have it: asked of every event."""

_PARKABLE = frozenset(state.value for state in WAITING)

NodeKey = tuple[uuid.UUID, str]
"""(application id, machine id): a node as it calls itself."""

NOTHING: frozenset[uuid.UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """A node's open attempt, as far as decisions need it."""

    attempt_id: uuid.UUID
    changeset_id: uuid.UUID
    group_id: uuid.UUID
    state: str
    boot_id: str
    parked: bool = False


class Standings:
    """Open attempts, quarantines and clones of all nodes; moved by the ledger and by what this process did itself.

    Events may come late or twice: an offer adds, a closing event removes, everything else only moves what is there.
    """

    def __init__(self) -> None:
        self.attempts: dict[NodeKey, OpenAttempt] = {}
        self.quarantined: dict[NodeKey, frozenset[uuid.UUID]] = {}
        self.cloned: set[NodeKey] = set()
        self.imported: dict[NodeKey, Mapping[str, str]] = {}
        self.retries: dict[NodeKey, tuple[uuid.UUID, float]] = {}
        self.changeset_in_flight: Counter[uuid.UUID] = Counter()
        self.group_in_flight: Counter[uuid.UUID] = Counter()
        self._keys: dict[uuid.UUID, NodeKey] = {}

    def replace_all(
        self,
        attempts: dict[NodeKey, OpenAttempt],
        quarantined: dict[NodeKey, frozenset[uuid.UUID]],
        cloned: set[NodeKey],
        imported: dict[NodeKey, Mapping[str, str]],
    ) -> None:
        """Begin anew from what the database holds."""
        self.attempts = {}
        self.imported = imported
        self.quarantined = quarantined
        self.cloned = cloned
        self._keys = {}
        self.changeset_in_flight.clear()
        self.group_in_flight.clear()
        for key, attempt in attempts.items():
            self.open(key, attempt)

    def open(self, key: NodeKey, attempt: OpenAttempt) -> None:
        """Remember an open attempt; it takes the place of the node's former one."""
        former = self.attempts.get(key)
        if former is not None:
            self._forget(key, former)
        self.attempts[key] = attempt
        self._keys[attempt.attempt_id] = key
        if not attempt.parked:
            self.changeset_in_flight[attempt.changeset_id] += 1
            self.group_in_flight[attempt.group_id] += 1

    def move(self, attempt_id: uuid.UUID, state: str) -> None:
        """An attempt has this state now; nothing happens where it is not known to be open."""
        key = self._keys.get(attempt_id)
        if key is None:
            return
        attempt = self.attempts[key]
        if state in CLOSED_STATES:
            self._forget(key, attempt)
        elif state != attempt.state:
            if attempt.parked and state not in _PARKABLE:
                # It has booted after all: back in the pace.
                self.changeset_in_flight[attempt.changeset_id] += 1
                self.group_in_flight[attempt.group_id] += 1
                attempt = replace(attempt, parked=False)
            self.attempts[key] = replace(attempt, state=state)

    def quarantine(self, key: NodeKey, changeset_id: uuid.UUID) -> None:
        """The changeset is not offered to the node again."""
        self.quarantined[key] = self.quarantined.get(key, NOTHING) | {changeset_id}

    def lift(self, key: NodeKey, changeset_id: uuid.UUID) -> None:
        """An operator lets the node have the changeset again."""
        left = self.quarantined.get(key, NOTHING) - {changeset_id}
        if left:
            self.quarantined[key] = left
        else:
            self.quarantined.pop(key, None)
        self.retries.pop(key, None)

    def apply(self, event: object, event_type: str) -> None:
        """Follow one event of the ledger: its decoded data and its type."""
        match event:
            case UpdateEvent(attempt_id=str() as attempt_id, applied=True):
                key = (uuid.UUID(event.application_id), event.machine_id)
                if event_type == "update.offered.v1":
                    if event.changeset_id is not None and event.group_id is not None:
                        offered = OpenAttempt(
                            attempt_id=uuid.UUID(attempt_id),
                            changeset_id=uuid.UUID(event.changeset_id),
                            group_id=uuid.UUID(event.group_id),
                            state="offered",
                            boot_id=event.boot_id or "",
                        )
                        current = self.attempts.get(key)
                        if current is None or current.attempt_id != offered.attempt_id:
                            self.open(key, offered)
                elif event_type == "update.parked.v1":
                    self._park(uuid.UUID(attempt_id))
                elif event.state_after is not None:
                    self.move(uuid.UUID(attempt_id), event.state_after)
            case NodeQuarantined(machine_id=str() as machine_id, application_id=str() as application_id):
                key = (uuid.UUID(application_id), machine_id)
                if event.lifted:
                    self.lift(key, uuid.UUID(event.changeset_id))
                else:
                    self.quarantine(key, uuid.UUID(event.changeset_id))
            case NodeCloned():
                self.cloned.add((uuid.UUID(event.application_id), event.machine_id))
            case _:
                pass

    def imported_of(self, application_id: uuid.UUID, machine_id: str) -> Mapping[str, str] | None:
        """What operators imported of a node; a fleet without any does not pay for it."""
        return self.imported.get((application_id, machine_id)) if self.imported else None

    def take_imported(self, changed: Sequence[object], imported: Mapping[NodeKey, Mapping[str, str]]) -> None:
        """Operators changed what is known of these nodes; ``imported`` is what there is of them now."""
        for event in changed:
            match event:
                case NodeChanged(machine_id=str() as machine_id, application_id=str() as application_id):
                    key = (uuid.UUID(application_id), machine_id)
                    self.imported.pop(key, None)
                    if event.forgotten:
                        # Should it ask again, it is a new node.
                        self.cloned.discard(key)
                case _:
                    pass
        self.imported.update(imported)

    def _park(self, attempt_id: uuid.UUID) -> None:
        key = self._keys.get(attempt_id)
        if key is None:
            return
        attempt = self.attempts[key]
        # Late news: this process may know already that it went on.
        if not attempt.parked and attempt.state in _PARKABLE:
            self.changeset_in_flight[attempt.changeset_id] -= 1
            self.group_in_flight[attempt.group_id] -= 1
            self.attempts[key] = replace(attempt, parked=True)

    def _forget(self, key: NodeKey, attempt: OpenAttempt) -> None:
        del self.attempts[key]
        del self._keys[attempt.attempt_id]
        if not attempt.parked:
            self.changeset_in_flight[attempt.changeset_id] -= 1
            self.group_in_flight[attempt.group_id] -= 1
