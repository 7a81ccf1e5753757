"""A rollout's whole life, in any order that operators, nodes, gates and time can bring about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.control.completion import Remainder
from services.control.conduct import BeginStage, BeginWave, Move, Situation, conduct, first_fraction, soak_share
from shared.domain.gate import Gate, GateEvidence, Standing, judge
from shared.domain.policy import Order, Policy
from shared.domain.rollout import ACTIVE, CLOSED, SERVING, Purpose, RolloutState, event_of
from shared.domain.waves import Wave, WaveProgress, eligible
from shared.domain.windows import Opening

GATE = Gate(groups=("canary",), soak_s=3600)
POLICIES = st.builds(
    Policy,
    gates=st.sampled_from([(), (GATE,)]),
    approval=st.booleans(),
    waves=st.sampled_from([(), (Wave(fraction=0.1, soak_s=600), Wave(fraction=0.5, soak_s=600), Wave(fraction=1))]),
    order=st.sampled_from([None, Order(fact="site", values=("fra",))]),
)
NODES = tuple(number / 20 for number in range(20))
"""The places of twenty nodes in the order of the changeset; every other one is at the first site."""


class RolloutLife(RuleBasedStateMachine):
    """The twin of a rollout: its row, the group's nodes, the canaries, and what the store does with `conduct`."""

    @initialize(policy=POLICIES)
    def create(self, policy: Policy) -> None:
        self.policy = policy
        self.now = self.began = datetime(2021, 11, 25, tzinfo=UTC)
        self.state = RolloutState.CREATED
        self.has_run = False
        self.open = self.everything_open = True
        self.braked = self.held = self.approved = self.expedited = False
        self.window_open = True
        self.fraction = first_fraction(policy, expedited=False)
        self.wave = 0
        self.wave_since: datetime | None = None
        self.stage = 0
        self.on_target: set[int] = set()
        self.canaries = 0
        self.canaries_since: datetime | None = None
        self.standing = Standing.CLEAR
        self.widest = 0.0

    # What the store does

    def move(self, to: RolloutState) -> bool:
        """As control.transition_rollout_v1: by the table, or not at all."""
        if event_of(self.state, to, has_run=self.has_run) is None:
            return False
        if to is RolloutState.RUNNING:
            self.has_run = True
            self.wave_since = self.wave_since or self.now
        self.state = to
        return True

    def site(self, node: int) -> int:
        return node % 2 if self.policy.order is not None else 0

    def situation(self) -> Situation:
        live = [node for node in range(len(NODES)) if self.site(node) <= self.stage]
        let_in = [node for node in live if eligible(NODES[node], self.fraction)]
        seen = GateEvidence(
            subject="3066.1.0", standing=self.standing, committed=self.canaries, first_committed_at=self.canaries_since
        )
        share = soak_share(self.policy, expedited=self.expedited)
        return Situation(
            state=self.state,
            purpose=Purpose.UPDATE,
            policy=self.policy,
            everything_open=self.everything_open,
            changeset_open=self.open,
            braked=self.braked,
            held=self.held,
            opening=Opening(open=self.window_open, until=None, next_at=None, reason="window"),
            fraction=self.fraction,
            order_stage=self.stage,
            gates=tuple(judge(gate, seen, self.now, soak_share=share) for gate in self.policy.gates),
            approved=self.approved,
            expedited=self.expedited,
            wave=None
            if self.wave + 1 >= len(self.policy.waves)
            else WaveProgress(
                wave=self.wave,
                since=self.wave_since or self.now,
                nodes=len(live),
                wave_nodes=len(let_in),
                wave_committed=len(self.on_target & set(let_in)),
                committed=bool(self.on_target),
            ),
            stage_left=len(set(live) - self.on_target),
            remainder=Remainder(
                left=len(self.on_target) < len(NODES),
                in_flight=False,
                committed=bool(self.on_target),
                on_target=bool(self.on_target),
            ),
        )

    @rule()
    def look(self) -> None:
        """The conductor's turn: it takes every step there is, each one allowed, and comes to rest."""
        for _ in range(10):
            situation = self.situation()
            step = conduct(situation, self.now)
            if step is None:
                return
            match step:
                case Move(to=to):
                    if to is RolloutState.RUNNING:
                        assert all(gate.open for gate in situation.gates)
                        assert self.approved or not self.policy.approval
                        assert self.window_open or self.expedited
                        assert self.open
                        assert self.everything_open
                    assert self.move(to), (self.state, to)
                case BeginWave(wave=wave, fraction=fraction):
                    assert not situation.stands
                    assert wave == self.wave + 1
                    soak = self.policy.waves[self.wave].soak_s * soak_share(self.policy, expedited=self.expedited)
                    assert self.now - self.wave_since >= timedelta(seconds=soak) or situation.wave.wave_nodes == 0
                    assert fraction >= self.fraction
                    self.wave, self.fraction, self.wave_since = wave, fraction, self.now
                case BeginStage(stage=stage):
                    assert not situation.stands
                    assert stage == self.stage + 1
                    assert situation.stage_left == 0
                    self.stage = stage
        raise AssertionError(f"it does not come to rest: {self.state}")

    # The world

    @rule(minutes=st.integers(1, 120))
    def pass_time(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(more=st.integers(1, 40))
    def canaries_commit(self, more: int) -> None:
        self.canaries += more
        self.canaries_since = self.canaries_since or self.now

    @rule(standing=st.sampled_from(Standing))
    def something_is_said_against_the_canaries(self, standing: Standing) -> None:
        self.standing = standing

    @rule(most=st.integers(1, 20))
    def nodes_commit(self, most: int) -> None:
        """Only nodes that may be offered it, while it may be."""
        if self.state not in SERVING or not (self.open and self.everything_open) or self.braked:
            return
        let_in = [
            node
            for node, place in enumerate(NODES)
            if eligible(place, self.fraction) and self.site(node) <= self.stage and node not in self.on_target
        ]
        self.on_target.update(let_in[:most])

    @rule(braked=st.booleans(), held=st.booleans())
    def analysis_brakes_and_holds(self, *, braked: bool, held: bool) -> None:
        self.braked, self.held = braked, held

    @rule(window_open=st.booleans())
    def window_turns(self, *, window_open: bool) -> None:
        self.window_open = window_open

    @rule(everything_open=st.booleans())
    def halt_all_or_lift_it(self, *, everything_open: bool) -> None:
        self.everything_open = everything_open

    # Operators and analysis

    @rule()
    def changeset_is_halted(self) -> None:
        self.open = False
        self.move(RolloutState.HALTED)

    @rule()
    def changeset_is_resumed(self) -> None:
        """As control.resume_changeset_v1: what had not begun goes back to its gates."""
        if not self.open and self.state is RolloutState.HALTED:
            assert self.move(RolloutState.RUNNING if self.has_run else RolloutState.WAITING_FOR_GATE)
        self.open = True

    @rule()
    def pause(self) -> None:
        self.move(RolloutState.PAUSED)

    @precondition(lambda self: self.open)
    @rule()
    def resume(self) -> None:
        if self.state in {RolloutState.PAUSED, RolloutState.HALTED}:
            assert self.move(RolloutState.RUNNING if self.has_run else RolloutState.WAITING_FOR_GATE)

    @precondition(lambda self: self.state in ACTIVE)
    @rule()
    def approve(self) -> None:
        self.approved = True

    @precondition(lambda self: self.state in ACTIVE)
    @rule()
    def expedite(self) -> None:
        self.expedited = True
        self.fraction = max(self.fraction, first_fraction(self.policy, expedited=True))

    @precondition(lambda self: self.state in ACTIVE and self.now - self.began > timedelta(hours=12))
    @rule(to=st.sampled_from(sorted(CLOSED)))
    def is_over(self, to: RolloutState) -> None:
        assert self.move(to)

    @precondition(lambda self: self.state in ACTIVE)
    @rule(most=st.integers(1, 20))
    def all_goes_well_for_a_while(self, most: int) -> None:
        """What keeps it from going on is cleared away, and the nodes that may do take it."""
        self.canaries, self.standing, self.approved = self.canaries + 40, Standing.CLEAR, True
        self.canaries_since = self.canaries_since or self.now
        self.braked = self.held = False
        self.window_open = self.everything_open = True
        self.changeset_is_resumed()
        self.resume()
        self.now += timedelta(hours=1)
        self.look()
        self.nodes_commit(most)
        self.now += timedelta(minutes=10)

    # What always holds

    @invariant()
    def the_share_never_shrinks(self) -> None:
        if hasattr(self, "state"):
            assert self.fraction >= self.widest
            self.widest = self.fraction

    @invariant()
    def nobody_has_it_before_it_has_begun(self) -> None:
        if hasattr(self, "state") and not self.has_run:
            assert not self.on_target

    @invariant()
    def nobody_outside_the_share_has_it(self) -> None:
        if hasattr(self, "state"):
            assert all(eligible(NODES[node], self.fraction) for node in self.on_target)

    @invariant()
    def what_is_complete_went_all_the_way(self) -> None:
        if hasattr(self, "state") and self.state is RolloutState.COMPLETED:
            assert self.fraction == 1
            assert len(self.on_target) == len(NODES)

    @invariant()
    def what_is_halted_does_not_run(self) -> None:
        if hasattr(self, "state") and not self.open:
            assert self.state not in {RolloutState.RUNNING, RolloutState.COMPLETED}


RolloutLife.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestRolloutLife = RolloutLife.TestCase
