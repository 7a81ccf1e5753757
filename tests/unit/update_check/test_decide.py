"""Should this node update, and to what: every reason, and what can never be offered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.update_check.checks import _REASONS
from services.update_check.configuration import (
    ApplicationView,
    ArchRollouts,
    Configuration,
    GroupView,
    NodeOrder,
    RolloutView,
)
from services.update_check.decide import Offer, decide
from services.update_check.keeper import SnapshotKeeper, postgres_is_away
from services.update_check.poll import Poll, told_first
from services.update_check.standing import OpenAttempt
from services.update_check.store import Gates
from services.update_check.withheld import WITHHELD
from shared.domain.observation import ObservationSource
from shared.domain.reasons import EXPLANATIONS, GRANTED, Reason
from shared.domain.waves import position_of
from shared.domain.windows import WeeklyWindow, Windows
from shared.errors import NotFound, Unavailable
from shared.testing.clock import ManualClock

CHANGESET, OTHER, GROUP, ROLLOUT = (uuid.UUID(int=n) for n in range(1, 5))
MACHINE = "m1"
POSITION = position_of(MACHINE, CHANGESET)
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
"""A Monday."""
NIGHTLY = Windows(weekly=(WeeklyWindow(days=("mon",), start="22:00", length_s=3_600.0),))
SITES = NodeOrder("site", {"lab": 0, "fra": 1})
ATTEMPT = OpenAttempt(uuid.UUID(int=9), CHANGESET, GROUP, "offered", "a")


@dataclass(frozen=True)
class Case:
    """A node that may have the update, unless something is changed."""

    rollout: dict[str, object] = field(default_factory=dict)
    arch: str | None = "amd64"
    version: str = "3033.2.0"
    grouped: bool = True
    updates_enabled: bool = True
    open: bool = True
    attempt: OpenAttempt | None = None
    quarantined: frozenset[uuid.UUID] = frozenset()
    cloned: bool = False
    retry: uuid.UUID | None = None
    changeset_in_flight: int = 0
    group_in_flight: int = 0
    observe_only: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    imported: dict[str, str] | None = None
    on_demand: bool = False
    now: datetime = NOON
    source: ObservationSource = ObservationSource.OMAHA

    def decide(self):
        rollouts = ArchRollouts(view(**self.rollout))
        group = GroupView(GROUP, "everyone", {}, self.updates_enabled, 2700, {"amd64": rollouts})
        application = ApplicationView(uuid.UUID(int=7), "flatcar", "id", (group,), (), observe_only=self.observe_only)
        return decide(
            Configuration.of(1, [application], is_open=self.open),
            Poll(
                source=self.source,
                application=application,
                key=(application.application_id, MACHINE),
                version=self.version,
                boot_id="a",
                arch=self.arch,
                group=group if self.grouped else None,
                fact=told_first(self.facts.get, self.imported),
                facts=dict,
                on_demand=self.on_demand,
                at=self.now,
                address=None,
                traceparent=None,
            ),
            now=self.now,
            attempt=self.attempt,
            quarantined=self.quarantined,
            cloned=self.cloned,
            retry_changeset=self.retry,
            changeset_in_flight={CHANGESET: self.changeset_in_flight},
            group_in_flight={GROUP: self.group_in_flight},
        )


def view(**changes) -> RolloutView:
    return RolloutView(
        **{
            "rollout_id": ROLLOUT,
            "changeset_id": CHANGESET,
            "group_id": GROUP,
            "arch": "amd64",
            "version": "3033.2.1",
            "state": "running",
            "group_pace": 5,
            "gate_state": "open",
            "braked_reason": None,
            "changeset_pace": 10,
            "suspended": False,
            "retry_after_s": 3_600.0,
            "answer": None,
        }
        | changes
    )


CASES = [
    (Case(grouped=False), Reason.NO_GROUP),
    (Case(arch="arm64"), Reason.NO_ROLLOUT),
    (Case(arch=None), Reason.NO_ROLLOUT),
    (Case(version="3033.2.1"), Reason.UP_TO_DATE),
    (Case(version="9999.0.0"), Reason.UP_TO_DATE),
    (Case(version="a build of mine"), Reason.VERSION_UNKNOWN),
    (Case(updates_enabled=False), Reason.UPDATES_DISABLED),
    (Case(open=False), Reason.HALTED_EVERYWHERE),
    (Case({"gate_state": "halted"}), Reason.HALTED),
    (Case({"gate_state": "suspended"}), Reason.SUSPENDED),
    (Case({"gate_state": "withdrawn"}), Reason.WITHDRAWN),
    (Case({"suspended": True}), Reason.SUSPENDED),
    (Case({"braked_reason": "blind"}), Reason.BRAKED),
    (Case({"state": "paused"}), Reason.ROLLOUT_PAUSED),
    (Case({"state": "created"}), Reason.ROLLOUT_PAUSED),
    (Case({"state": "waiting_for_gate"}), Reason.WAITING_FOR_GATE),
    (Case({"state": "waiting_for_approval"}), Reason.WAITING_FOR_APPROVAL),
    (Case({"state": "scheduled"}), Reason.SCHEDULED),
    (Case({"state": "halted"}), Reason.HALTED),
    (Case(observe_only=True), Reason.OBSERVE_ONLY),
    (Case({"minimum_version": "3033.2.1"}), Reason.MINIMUM_VERSION),
    (Case({"holds": ((("site", "fra"),),)}), Reason.HELD),
    (Case({"holds": ((("site", "fra"),),)}, facts={"site": "fra"}), Reason.HELD),
    (Case({"holds": ((("site", "fra"),),)}, imported={"site": "fra"}), Reason.HELD),
    (Case({"holds": ((("site", "lab"),), (("oem", "ami"), ("site", "fra")))}, facts={"site": "fra"}), Reason.HELD),
    (Case({"holds": ((("site", "fra"),),)}, attempt=ATTEMPT), Reason.HELD),
    (Case({"excluded": frozenset({MACHINE})}), Reason.EXCLUDED),
    (Case({"excluded": frozenset({MACHINE})}, attempt=ATTEMPT), Reason.EXCLUDED),
    (Case({"windows": NIGHTLY}), Reason.WINDOW_CLOSED),
    (Case({"windows": NIGHTLY}, attempt=ATTEMPT), Reason.WINDOW_CLOSED),
    (Case({"windows": NIGHTLY}, on_demand=True), Reason.WINDOW_CLOSED),
    (Case({"order": SITES}), Reason.ORDER_STAGE),
    (Case({"order": SITES}, facts={"site": "fra"}), Reason.ORDER_STAGE),
    (Case({"order": SITES, "order_stage": 1}, facts={"site": "par"}), Reason.ORDER_STAGE),
    (Case({"fraction": 0.0}), Reason.WAVE),
    (Case({"fraction": POSITION}), Reason.WAVE),
    (Case({"fraction": 0.0, "ondemand_jumps_waves": True}), Reason.WAVE),
    (Case({"gate_state": "halted", "ondemand_jumps_waves": True}, on_demand=True), Reason.HALTED),
    (Case({"holds": ((("site", "fra"),),), "ondemand_jumps_waves": True}, on_demand=True), Reason.HELD),
    (Case({"ondemand_jumps_waves": True}, on_demand=True, quarantined=frozenset({CHANGESET})), Reason.QUARANTINED),
    (Case({"ondemand_jumps_waves": True}, on_demand=True, group_in_flight=5), Reason.GROUP_PACE),
    (Case(cloned=True), Reason.CLONED),
    (Case(quarantined=frozenset({CHANGESET})), Reason.QUARANTINED),
    (Case(attempt=replace(ATTEMPT, state="staged")), Reason.ATTEMPT_OPEN),
    (Case(attempt=replace(ATTEMPT, changeset_id=OTHER)), Reason.ATTEMPT_OPEN),
    (Case(retry=CHANGESET), Reason.RETRY_LATER),
    (Case(changeset_in_flight=10), Reason.CHANGESET_PACE),
    (Case(group_in_flight=5), Reason.GROUP_PACE),
]


@pytest.mark.parametrize(("case", "reason"), CASES)
def test_every_reason_has_its_case(case, reason):
    """One thing is in the way, and it is named."""
    assert case.decide() is WITHHELD[reason]


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(version="0.0.0"),
        Case(version="3033.2.0+nightly-20220823-2100"),
        Case(quarantined=frozenset({OTHER})),
        Case(retry=OTHER),
        Case(changeset_in_flight=9, group_in_flight=4),
        Case({"state": "completed"}),
        Case({"minimum_version": "3033.2.0"}),
        Case({"minimum_version": "3033.2.1"}, version="0.0.0"),
        Case({"holds": ((("site", "fra"),),)}, facts={"site": "lab"}),
        Case({"holds": ((("oem", "ami"), ("site", "fra")),)}, imported={"site": "lab"}),
        Case({"holds": ((("site", "fra"),),)}, facts={"site": "lab"}, imported={"site": "fra"}),
        Case({"excluded": frozenset({"m2"})}),
        Case({"windows": NIGHTLY}, now=NOON + timedelta(hours=10)),
        Case({"windows": NIGHTLY, "ondemand_jumps_waves": True}, on_demand=True),
        Case({"order": SITES}, facts={"site": "lab"}),
        Case({"order": SITES, "order_stage": 2}),
        Case({"fraction": POSITION + 1e-9}),
        Case({"fraction": 0.0, "order": SITES, "ondemand_jumps_waves": True}, on_demand=True),
    ],
)
def test_what_is_in_nobodys_way_is_offered(case):
    """For the first time."""
    decision = case.decide()
    assert isinstance(decision, Offer)
    assert not decision.repeated


@pytest.mark.parametrize("state", ["offered", "downloading"])
def test_who_has_the_offer_gets_it_again_whatever_the_pace(state):
    """It is in flight already: asking again takes nobody else's place, nor does it wait for its wave again."""
    decision = Case(
        {"fraction": 0.0, "order": SITES},
        attempt=replace(ATTEMPT, state=state),
        changeset_in_flight=99,
        group_in_flight=99,
    ).decide()
    assert isinstance(decision, Offer)
    assert decision.repeated


any_case = st.builds(
    Case,
    rollout=st.fixed_dictionaries(
        {
            "gate_state": st.sampled_from(["open", "open", "halted", "suspended", "withdrawn"]),
            "braked_reason": st.sampled_from([None, None, "blind"]),
            "state": st.sampled_from(["running", "completed", "paused", "halted", "created", "waiting_for_gate"]),
            "suspended": st.booleans(),
            "holds": st.sampled_from([(), (), ((("site", "fra"),),)]),
            "excluded": st.sampled_from([frozenset(), frozenset(), frozenset({MACHINE})]),
            "fraction": st.sampled_from([1.0, 1.0, POSITION, 0.0]),
            "order": st.sampled_from([None, None, SITES]),
            "order_stage": st.integers(0, 2),
            "windows": st.sampled_from([None, None, NIGHTLY]),
            "ondemand_jumps_waves": st.booleans(),
            "changeset_pace": st.integers(0, 3),
            "group_pace": st.integers(0, 3),
        }
    ),
    arch=st.sampled_from(["amd64", "amd64", "arm64", None]),
    version=st.sampled_from(["3033.2.0", "3033.2.0", "3033.2.1", "4000.0.0", "0.0.0", "?"]),
    grouped=st.booleans(),
    updates_enabled=st.booleans(),
    open=st.booleans(),
    attempt=st.none()
    | st.builds(
        OpenAttempt,
        st.just(uuid.UUID(int=9)),
        st.sampled_from([CHANGESET, OTHER]),
        st.just(GROUP),
        st.sampled_from(["offered", "downloading", "staged", "awaiting_reboot", "probation"]),
        st.just("a"),
        st.booleans(),
    ),
    quarantined=st.sets(st.sampled_from([CHANGESET, OTHER])).map(frozenset),
    cloned=st.booleans(),
    retry=st.sampled_from([None, CHANGESET, OTHER]),
    changeset_in_flight=st.integers(0, 4),
    group_in_flight=st.integers(0, 4),
    observe_only=st.booleans(),
    facts=st.sampled_from([{}, {"site": "lab"}, {"site": "fra"}]),
    imported=st.sampled_from([None, {"site": "lab"}, {"site": "fra"}]),
    on_demand=st.booleans(),
    now=st.sampled_from([NOON, NOON + timedelta(hours=10)]),
)


@settings(deadline=None)
@given(case=any_case)
def test_nothing_is_offered_past_a_closed_gate(case):
    """Halted, braked, held, paused, excluded, quarantined, cloned, another attempt open, pace full: never an offer.

    Windows, waves and the order of the policy are only passed by who was let in before or may jump them.
    """
    decision = case.decide()
    if not isinstance(decision, Offer):
        return
    rollout = decision.rollout
    assert case.grouped
    assert case.open
    assert case.updates_enabled
    assert not case.observe_only
    assert (rollout.gate_state, rollout.braked_reason, rollout.suspended) == ("open", None, False)
    assert rollout.state in {"running", "completed"}
    site = case.facts.get("site") or (case.imported or {}).get("site")
    assert not rollout.holds or site == "lab"
    assert MACHINE not in rollout.excluded
    jumps = case.on_demand and rollout.ondemand_jumps_waves
    assert jumps or rollout.windows is None or case.now != NOON
    if not (jumps or decision.repeated):
        assert rollout.fraction > POSITION
        assert rollout.order is None or {"lab": 0, "fra": 1}.get(site, 2) <= rollout.order_stage
    assert not case.cloned
    assert CHANGESET not in case.quarantined
    assert case.version in {"3033.2.0", "0.0.0"}
    if decision.repeated:
        assert case.attempt is not None
        assert case.attempt.changeset_id == CHANGESET
    else:
        assert case.attempt is None
        assert case.retry != CHANGESET
        assert case.changeset_in_flight < rollout.changeset_pace
        assert case.group_in_flight < rollout.group_pace


def test_every_refusal_of_the_gates_has_a_reason():
    """What fleet.grant_v2 may answer, except an offer."""
    refusals = {
        *("rollout_unknown", "halted_everywhere", "halted", "suspended", "withdrawn", "braked", "updates_disabled"),
        *("policy_changed", "node_unknown", "cloned", "quarantined", "attempt_open", "attempts_spent", "retry_later"),
        *("pace", "rollout_created", "rollout_paused", "rollout_halted", "rollout_aborted", "rollout_superseded"),
        *("rollout_waiting_for_gate", "rollout_waiting_for_approval", "rollout_scheduled"),
        *("observe_only", "held", "excluded", "failure_domain", "no_rollout"),
    }
    assert refusals <= _REASONS.keys()


def test_every_reason_is_explained_in_words():
    """What operators are shown of a node that was not updated, and of one that was."""
    assert EXPLANATIONS.keys() == {*Reason, GRANTED}
    assert all(said.endswith(".") and len(said) > 20 for said in EXPLANATIONS.values())


# ---- fail closed

FRESH = Gates(open=True, policy_version=1, head_seq=1, log_age_s=1.0, analysis_age_s=1.0, analysis_lag_s=0.0)


@pytest.fixture
def keeper():
    clock = ManualClock()
    keeper = SnapshotKeeper(
        None,
        clock,
        distribution_url="http://x/",
        max_age_s=5.0,
        analysis_max_lag_s=20.0,
    )
    keeper.clock = clock
    return keeper


def refresh(keeper, gates: Gates) -> None:
    keeper._gates = gates
    keeper._fresh_at = keeper._followed_at = keeper.clock.monotonic()


async def test_before_the_first_snapshot_nothing_is_offered(keeper):
    """And the service is not ready."""
    assert keeper.fail_closed() is Reason.SNAPSHOT_STALE
    with pytest.raises(TimeoutError, match="older than 5 s"):
        await keeper.ping()


async def test_a_snapshot_is_trusted_for_its_age(keeper):
    """Both halves of it: the gates and what the ledger says of nodes."""
    refresh(keeper, FRESH)
    assert keeper.fail_closed() is None
    await keeper.ping()
    keeper.clock.advance(5.0)
    assert keeper.fail_closed() is None
    keeper.clock.advance(0.1)
    assert keeper.fail_closed() is Reason.SNAPSHOT_STALE
    keeper._fresh_at = keeper.clock.monotonic()
    assert keeper.fail_closed() is Reason.SNAPSHOT_STALE


@pytest.mark.parametrize("age", ["log_age_s", "analysis_age_s", "analysis_lag_s"])
def test_a_judgement_that_lags_closes_too(keeper, age):
    """No ticks, no judge, or a judge that is behind."""
    values = {name: getattr(FRESH, name) for name in FRESH.__dataclass_fields__}
    refresh(keeper, Gates(**values | {age: 20.0}))
    assert keeper.fail_closed() is None
    refresh(keeper, Gates(**values | {age: 20.1}))
    assert keeper.fail_closed() is Reason.ANALYSIS_LAGS
    keeper._gates = None
    assert keeper.fail_closed() is Reason.ANALYSIS_LAGS


def test_what_looks_like_postgres_being_away():
    """A full reporter too; a bug does not."""
    assert postgres_is_away(Unavailable("full", retry_after_s=1.0))
    assert postgres_is_away(ConnectionResetError())
    assert not postgres_is_away(NotFound("no"))
    assert not postgres_is_away(KeyError("x"))


@pytest.mark.parametrize("state", ["offered", "downloading", "staged", "awaiting_reboot", "rebooting", "probation"])
def test_who_is_shown_an_edge_is_shown_it_again(state):
    """Staged is only what is believed of such a node: where it asks again, it has not taken the edge."""
    attempt = replace(ATTEMPT, state=state)
    shown = Case(attempt=attempt, source=ObservationSource.CINCINNATI).decide()
    assert isinstance(shown, Offer) is (state not in ("rebooting", "probation"))
    told = Case(attempt=attempt, source=ObservationSource.NATIVE).decide()
    assert isinstance(told, Offer) is (state in ("offered", "downloading"))
