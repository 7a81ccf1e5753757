"""What is remembered of single nodes: late, early and repeated news, and counters that always agree."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from services.update_check.standing import CLOSED_STATES, OpenAttempt, Standings
from shared.events.types import LogTicked, NodeChanged, NodeCloned, NodeQuarantined, ReportSource, UpdateEvent

APPLICATION = uuid.UUID(int=1)
CHANGESETS = [uuid.UUID(int=n) for n in (11, 12)]
GROUPS = [uuid.UUID(int=n) for n in (21, 22)]
KEYS = [(APPLICATION, f"m{n}") for n in range(3)]
STATES = ["offered", "downloading", "staged", "awaiting_reboot", "probation", *sorted(CLOSED_STATES)]


def attempt_id(number: int) -> uuid.UUID:
    return uuid.UUID(int=1000 + number)


def update(machine: str, number: int, state: str, **more) -> UpdateEvent:
    return UpdateEvent(
        **{
            "node_id": "n",
            "machine_id": machine,
            "application_id": str(APPLICATION),
            "applied": True,
            "version": "1.0.0",
            "source": ReportSource.OMAHA,
            "attempt_id": str(attempt_id(number)),
            "changeset_id": str(CHANGESETS[number % 2]),
            "group_id": str(GROUPS[number // 2 % 2]),
            "state_after": state,
            "boot_id": "a",
        }
        | more
    )


def offered(machine: str, number: int, **more) -> tuple[UpdateEvent, str]:
    return update(machine, number, "offered", **more), "update.offered.v1"


def counted(standings: Standings) -> tuple[Counter[uuid.UUID], Counter[uuid.UUID]]:
    flying = [attempt for attempt in standings.attempts.values() if not attempt.parked]
    return Counter(a.changeset_id for a in flying), Counter(a.group_id for a in flying)


def assert_counts(standings: Standings) -> None:
    changesets, groups = counted(standings)
    assert +standings.changeset_in_flight == changesets
    assert +standings.group_in_flight == groups
    assert min([0, *standings.changeset_in_flight.values(), *standings.group_in_flight.values()]) == 0
    assert {a.attempt_id for a in standings.attempts.values()} == set(standings._keys)


moves = st.one_of(
    st.tuples(st.just("open"), st.sampled_from(KEYS), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("move"), st.integers(0, 5), st.sampled_from(STATES)),
    st.tuples(st.just("offered"), st.sampled_from(KEYS), st.integers(0, 5)),
    st.tuples(st.just("parked"), st.integers(0, 5)),
    st.tuples(st.just("event"), st.integers(0, 5), st.sampled_from(STATES), st.booleans()),
    st.tuples(st.just("anew"), st.booleans()),
)


@settings(deadline=None)
@given(steps=st.lists(moves, max_size=40))
def test_what_is_in_flight_is_what_is_open_and_not_parked(steps):
    """After whatever order of own deeds and news, wrong and impossible ones included."""
    standings = Standings()
    for step in steps:
        match step:
            case ("open", key, number, parked):
                # One attempt is one node's: ids are not used twice.
                owner = KEYS[number % 3]
                del key
                standings.open(
                    owner,
                    OpenAttempt(
                        attempt_id(number), CHANGESETS[number % 2], GROUPS[number // 2 % 2], "offered", "a", parked
                    ),
                )
            case ("move", number, state):
                standings.move(attempt_id(number), state)
            case ("offered", _, number):
                standings.apply(*offered(KEYS[number % 3][1], number))
            case ("parked", number):
                standings.apply(update(KEYS[number % 3][1], number, "staged"), "update.parked.v1")
            case ("event", number, state, applied):
                standings.apply(update(KEYS[number % 3][1], number, state, applied=applied), f"update.{state}.v1")
            case ("anew", keep):
                standings.replace_all(dict(standings.attempts) if keep else {}, {}, set(), {})
        assert_counts(standings)


histories = st.lists(
    st.tuples(
        st.sampled_from([["staged"], ["downloading", "staged", "awaiting_reboot"], []]),
        st.booleans(),
        st.sampled_from(["committed", "failed", "rolled_back", "recalled", "presumed_lost"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(history=histories, last_open=st.booleans(), ahead=st.integers(0, 30), repeated=st.booleans())
def test_whatever_this_process_knew_before_the_ledger_ends_as_the_ledger_says(history, last_open, ahead, repeated):
    """It did or was told the first so many steps itself; then the ledger tells all of them again, in order."""
    key = KEYS[0]
    told: list[tuple[UpdateEvent, str]] = []
    for number, (steps, parked, end) in enumerate(history):
        told.append(offered(key[1], number))
        told += [(update(key[1], number, state), f"update.{state}.v1") for state in steps]
        if parked and steps:
            told.append((update(key[1], number, steps[-1]), "update.parked.v1"))
        if not (last_open and number + 1 == len(history)):
            told.append((update(key[1], number, end), f"update.{end}.v1"))
    plain, early = Standings(), Standings()
    for data, kind in told:
        plain.apply(data, kind)
    for data, kind in told[:ahead]:
        number = int(uuid.UUID(data.attempt_id)) - 1000
        if kind == "update.offered.v1":
            early.open(
                key, OpenAttempt(attempt_id(number), CHANGESETS[number % 2], GROUPS[number // 2 % 2], "offered", "a")
            )
        elif kind != "update.parked.v1":
            early.move(attempt_id(number), data.state_after)
        assert_counts(early)
    for data, kind in told:
        early.apply(data, kind)
        if repeated:
            early.apply(data, kind)
        assert_counts(early)

    assert early.attempts.keys() == plain.attempts.keys()
    assert early.changeset_in_flight.total() == plain.changeset_in_flight.total()
    if plain.attempts:
        assert replace(early.attempts[key], state="") == replace(plain.attempts[key], state="")


def test_a_parked_attempt_that_boots_is_in_the_pace_again():
    """As the database counts it."""
    standings = Standings()
    standings.apply(*offered("m0", 0))
    standings.apply(update("m0", 0, "staged"), "update.staged.v1")
    standings.apply(update("m0", 0, "staged"), "update.parked.v1")
    assert standings.changeset_in_flight[CHANGESETS[0]] == 0
    standings.apply(update("m0", 0, "awaiting_reboot"), "update.reboot_awaited.v1")
    assert standings.changeset_in_flight[CHANGESETS[0]] == 0
    standings.apply(update("m0", 0, "probation"), "update.booted.v1")
    assert standings.changeset_in_flight[CHANGESETS[0]] == 1
    standings.apply(update("m0", 0, "staged"), "update.parked.v1")
    assert standings.changeset_in_flight[CHANGESETS[0]] == 1


def test_news_that_move_nothing_move_nothing():
    """Not applied, about nobody, without a changeset, of another kind, or unknown."""
    standings = Standings()
    for event, kind in (
        (update("m0", 0, "offered", applied=False), "update.offered.v1"),
        (update("m0", 0, "offered", changeset_id=None), "update.offered.v1"),
        (update("m0", 0, "staged", attempt_id=None), "update.staged.v1"),
        (update("m0", 0, "staged"), "update.staged.v1"),
        (update("m0", 0, "staged", state_after=None), "update.staged.v1"),
        (update("m0", 0, "staged"), "update.parked.v1"),
        (LogTicked(contacts={}, expected={}, ingest_lag_s=0, interval_s=1, inbox_depth=0), "log.ticked.v1"),
        (NodeQuarantined(node_id="n", changeset_id="c", reason="r"), "node.quarantined.v1"),
    ):
        standings.apply(event, kind)
    assert (standings.attempts, standings.quarantined, standings.cloned) == ({}, {}, set())


def test_quarantines_add_up_and_are_lifted_one_by_one():
    """A lift also forgets that the node was told to wait."""
    standings = Standings()
    key = KEYS[0]

    def say(changeset: uuid.UUID, *, lifted: bool = False) -> None:
        standings.apply(
            NodeQuarantined(
                node_id="n",
                changeset_id=str(changeset),
                reason="reported",
                lifted=lifted,
                machine_id=key[1],
                application_id=str(APPLICATION),
            ),
            "node.quarantined.v1",
        )

    say(CHANGESETS[0])
    say(CHANGESETS[0])
    say(CHANGESETS[1])
    assert standings.quarantined[key] == set(CHANGESETS)
    standings.retries[key] = (CHANGESETS[0], 1.0)
    say(CHANGESETS[0], lifted=True)
    assert standings.quarantined[key] == {CHANGESETS[1]}
    assert standings.retries == {}
    say(CHANGESETS[1], lifted=True)
    say(CHANGESETS[1], lifted=True)
    assert standings.quarantined == {}


def test_clones_are_remembered():
    """By the name that they share, until the node is forgotten: what asks by that name then is a new one."""
    standings = Standings()
    standings.apply(NodeCloned(node_id="n", machine_id="m1", application_id=str(APPLICATION)), "node.cloned.v1")
    assert standings.cloned == {KEYS[1]}
    said = NodeChanged(node_id="n", by="ana", application_id=str(APPLICATION), machine_id="m1")
    standings.take_imported([said], {})
    assert standings.cloned == {KEYS[1]}
    standings.take_imported([msgspec.structs.replace(said, forgotten=True)], {})
    assert standings.cloned == set()


def test_facts_that_operators_import_are_those_of_the_rows():
    """An event says that something changed, the row what; a fleet without any is not looked through."""
    standings = Standings()
    assert standings.imported_of(*KEYS[0]) is None
    standings.replace_all({}, {}, set(), {KEYS[0]: {"site": "fra"}, KEYS[1]: {"site": "lab"}})
    assert standings.imported_of(*KEYS[0]) == {"site": "fra"}
    assert standings.imported_of(*KEYS[2]) is None
    changed = [
        NodeChanged(node_id="n", by="ana", application_id=str(APPLICATION), machine_id=machine_id)
        for _, machine_id in KEYS[1:]
    ]
    standings.take_imported([*changed, NodeChanged(node_id="n", by="ana")], {KEYS[2]: {"rack": "7"}})
    assert standings.imported == {KEYS[0]: {"site": "fra"}, KEYS[2]: {"rack": "7"}}
