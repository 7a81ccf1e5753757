"""Who plays in the demo, and how it looks: every fleet gets a gate that it can open, and every scene can be drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from services.cli.demo_cast import JUDGED_ALONE, cast
from services.cli.demo_stage import Scene, StoryLine, Troupe
from services.cli.demo_story import ACTS, BadEnd, GoodEnd, ProductionEnd, Summary, gate_words
from services.cli.demo_view import evidence, gate_lines, picture, plain_line, promotion_evidence, summary_table
from services.simulator.statistics import FleetStatistics
from shared.domain import promotion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(nodes=st.integers(20, 5_000))
def test_every_fleet_can_open_its_gate(nodes):
    """Nobody is lost between canaries and production, both are in all clusters, and the canaries suffice."""
    players = cast(nodes, soak_s=8.0)
    assert players.canary_nodes + players.production_nodes == players.nodes == nodes
    assert min(*players.canaries.values(), *players.production.values()) >= 1
    gate = players.gate
    assert gate["nodes"] <= players.canary_nodes
    if gate["mode"] == "proof":
        assert promotion.nodes_needed(0, gate["max_bad_rate"]) == gate["nodes"] < players.canary_nodes
        assert f"{gate['max_bad_rate']:.0%}" in players.gate_said
    else:
        assert "exclude only" in players.gate_said
    assert players.halted_by_evidence == (players.canary_nodes >= JUDGED_ALONE) == (nodes >= 200)


@pytest.mark.parametrize(
    ("nodes", "canaries", "mode", "rate"),
    [(20, 10, "time", None), (40, 20, "proof", 0.2), (120, 36, "proof", 0.15), (300, 66, "proof", 0.1)],
)
def test_the_gate_follows_from_the_number_of_canaries(nodes, canaries, mode, rate):
    """Few canaries prove little, so that they are asked for less, and very few for time alone."""
    players = cast(nodes, soak_s=8.0)
    assert (players.canary_nodes, players.gate["mode"]) == (canaries, mode)
    assert players.gate.get("max_bad_rate") == rate


GATE = {
    "subject": "3066.1.1",
    "seen": "11 committed, 0 bad, 0 pending on canaries",
    "excludes": "does not exclude a bad rate of 10% or more yet",
    "waits_for": ["22 more nodes of canaries to commit 3066.1.1"],
    "until": (NOW + timedelta(seconds=5)).isoformat(),
    "ln_e": 1.5,
    "threshold": 3.0,
}


def rollout(shown: str, **more):
    return {
        "version": "3066.2.0",
        "state": "running" if shown == "braked" else shown,
        "shown": shown,
        "reason": None,
        "waits_for": GATE["waits_for"] if shown == "waiting_for_gate" else [],
        "gates": [GATE] if shown == "waiting_for_gate" else [],
        "attempts": {"committed": 7, "rolled_back": 2},
        "pace": 0 if shown == "braked" else 10,
        "fraction": 0.05,
        "group_in_flight": 3,
        "changeset_in_flight": 4,
        "evidence": {"ln_e": 2.3, "threshold": 4.6, "bad": 2, "started": 9},
        "standstill": None,
        "explanation": "a canary came back",
    } | more


def scene(canaries: str | None, production: str | None, act: str = "gate", **more) -> Scene:
    def troupe(name: str, shown: str | None) -> Troupe:
        seen = None if shown is None else rollout(shown, **more)
        return Troupe(name, 66, rollout=seen, running={"3033.2.0": 59, "3066.2.0": 7, "3066.1.1": 0})

    told = tuple(StoryLine(at_s=3.0, act=act, version="3066.2.0", what="promoted") for act in ("alpha", "gate"))
    return Scene(
        act=act,
        told=told,
        seconds=12.3,
        canaries=troupe("canaries", canaries),
        production=troupe("production", production),
        statistics=FleetStatistics(),
        cast=cast(300, soak_s=8.0),
    )


def drawn(renderable, width: int = 130) -> str:
    console = Console(width=width, record=True, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", [80, 130])
def test_the_screen_tells_the_act_the_gate_and_the_evidence(width):
    """On wide and narrow screens: the acts with their times, what the gate waits for, what speaks against a release."""
    said = drawn(picture(scene("halted", "waiting_for_gate", reason="2 of 9 rolled back"), width, 40), width)
    assert all(title in said for title in ACTS.values())
    assert "3.0 s" in said
    assert "22 more nodes" in said
    assert "ln E' +1.50 of 3.00" in said
    assert "ln E +2.30 of 4.60, 2 bad of 9" in said
    assert "HALTED: 2 of 9 rolled back" in said
    assert "7 of 66 run it" in said


@pytest.mark.parametrize("width", [80, 130])
def test_a_low_screen_shows_the_act_that_plays(width):
    """On 24 lines everything that changes is still to be seen."""
    said = drawn(picture(scene("running", "waiting_for_gate"), width, 24), width)
    assert ACTS["gate"] in said
    assert ACTS["alpha"] not in said
    assert "act 4 of 7" in said
    assert len(said.splitlines()) <= 24


def test_scenes_before_anything_happened_can_be_drawn():
    """No rollout, no evidence, no act yet."""
    assert "59 on 3033.2.0" in drawn(picture(scene(None, None, act=""), 130, 40))
    assert "no evidence yet" in drawn(picture(scene("running", None, evidence=None), 130, 40))
    assert "a canary came back" in drawn(picture(scene("braked", "completed"), 130, 40))


def test_the_plain_line():
    """Both groups on one line, for logs."""
    line = plain_line(scene("running", None))
    assert "canaries: 7 of 66 run 3066.2.0 (running), 3 in flight at pace 10, 2 rolled back" in line
    assert "production: no rollout yet" in line
    assert "production: 7 of 66 run 3066.2.0 (waiting_for_gate), 2 rolled back" in plain_line(
        scene("running", "waiting_for_gate")
    )


def test_a_troupe_counts():
    """What the acts wait for, also while nothing is known."""
    troupe = scene("braked", None).canaries
    assert (troupe.state, troupe.braked, troupe.started, troupe.in_flight) == ("running", True, 9, 4)
    assert troupe.attempts("committed", "rolled_back") == 9
    nobody = scene(None, None).canaries
    assert (nobody.state, nobody.braked, nobody.started, nobody.in_flight) == ("", False, 0, 0)
    assert nobody.attempts("committed") == 0
    assert scene("running", None, evidence=None).canaries.started == 0


def test_a_gate_in_words():
    """What it has seen, what it waits for, for how long; and what it says once it is open."""
    waiting = rollout("waiting_for_gate")
    assert gate_words(waiting) == "waits for 22 more nodes of canaries to commit 3066.1.1"
    assert gate_words(rollout("running", reason="its gates are open")) == "running: its gates are open"
    assert gate_words(None) == "nothing to wait for"
    wanted = "waits for 22 more nodes of canaries to commit 3066.1.1"
    assert gate_lines(waiting, NOW)[1:] == [f"  for 5.0 s more at least it {wanted}"]
    assert gate_lines(waiting, NOW + timedelta(seconds=6))[1:] == [f"  it {wanted}"]
    two = waiting | {"gates": [GATE | {"waits_for": ["this", "that"], "until": None}, GATE | {"waits_for": []}]}
    assert gate_lines(two, NOW)[1:3] == ["  it waits for this", "  and for that"]
    assert gate_lines(two, NOW + timedelta(seconds=6))[-1] == "  it is open"
    assert gate_lines(rollout("running"), NOW) == ["running: its gates are open"]


def test_evidence_in_words_and_as_a_share():
    """Between nothing and the threshold, whatever the numbers are."""
    assert evidence(rollout("running")) == ("ln E +2.30 of 4.60, 2 bad of 9", 0.5)
    assert evidence(rollout("running", evidence={"ln_e": -1, "threshold": 4, "bad": 0, "started": 3}))[1] == 0.0
    assert promotion_evidence(GATE) == ("ln E' +1.50 of 3.00 that open it", 0.5)
    assert promotion_evidence(GATE | {"ln_e": None, "threshold": None})[1] == 0.0


@pytest.mark.parametrize("halted", [True, False])
def test_the_summary_for_people(halted):
    """Whether it went well is to be seen at once."""
    good = GoodEnd(
        version="3066.2.0", committed=300, rolled_back=0, halted=False, complete=True, gate_soaked_s=8.3, seconds=22.0
    )
    bad = BadEnd(
        version="3067.1.0",
        halted=halted,
        nodes_exposed=4,
        granted=5,
        granted_after_halt=0,
        rolled_back=3,
        committed=1,
        report_to_halt_ms=80.5,
        report_to_first_refusal_ms=120.0,
        reason="3 of 4 rolled back" if halted else None,
        braked=False,
        superseded=halted,
    )
    summary = Summary(
        ok=halted,
        nodes=300,
        canaries=66,
        bad_rate=0.3,
        seed=1,
        good=good,
        bad=bad,
        prod=ProductionEnd(nodes=234, exposed_to_bad=0, gate_opened=not halted),
        story=(),
        events_in_ledger=1000,
        ledger_verified=halted,
        bus="none",
        seconds=60.0,
    )
    said = drawn(summary_table(summary))
    assert ("something is wrong" in said) is not halted
    assert ("80.5 ms after the report that decided" in said) is halted
    assert ("stayed shut" in said) is halted
    assert ("OPENED" in said) is not halted
    assert ("IS BROKEN" in said) is not halted
    assert "0 of 234 nodes were offered anything bad" in said
    assert "halted by hand" not in said
    by_hand = msgspec.structs.replace(bad, halted=True, braked=True, reason="a canary rolled back")
    assert "halted by hand: a canary rolled back" in drawn(summary_table(msgspec.structs.replace(summary, bad=by_hand)))
