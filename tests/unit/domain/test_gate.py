"""Gates: when they open, what they wait for, and those that never could."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.gate import Gate, GatedGroup, GateEvidence, GateMode, Standing, impossible, judge

NOW = datetime(2021, 11, 25, 12, tzinfo=UTC)
DAY_AGO = NOW - timedelta(days=1)
PROOF = Gate(groups=("canary-eu", "canary-us"), nodes=20)
TIME = Gate(groups=("canary-eu",), nodes=3, mode=GateMode.TIME)


def seen(**changed):
    """40 nodes committed 3066.1.1 a day ago and nothing is bad."""
    return GateEvidence(**{"subject": "3066.1.1", "committed": 40, "first_committed_at": DAY_AGO, **changed})


def test_proof_opens_with_enough_good_nodes_after_the_soak():
    """And says what that excludes."""
    verdict = judge(PROOF, seen(), NOW)
    assert (verdict.open, verdict.waits_for, verdict.until) == (True, (), None)
    assert verdict.ln_e > verdict.threshold
    assert verdict.excludes == "excludes a bad rate of 10% or more"
    assert verdict.seen == "40 committed, 0 bad, 0 pending on canary-eu, canary-us"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"committed": 19}, "1 more node of canary-eu, canary-us to commit 3066.1.1"),
        ({"committed": 30}, "3 more good nodes to exclude a bad rate of 10% (33 nodes with 0 bad)"),
        ({"bad": 1}, "19 more good nodes to exclude a bad rate of 10% (60 nodes with 1 bad)"),
        ({"committed": 33, "pending": 1}, "the outcome of 1 node that has started"),
        ({"committed": 33, "pending": 4}, "the outcome of 4 nodes that have started"),
        ({"first_committed_at": NOW - timedelta(hours=23)}, "until 2021-11-25 13:00:00 UTC"),
        ({"first_committed_at": None, "committed": 0}, "a soak of 1 d on canary-eu, canary-us, which has not begun"),
    ],
)
def test_proof_names_what_it_waits_for(changed, words):
    """Each condition alone keeps it shut; pending nodes count as bad."""
    verdict = judge(PROOF, seen(**changed), NOW)
    assert not verdict.open
    assert any(words in reason for reason in verdict.waits_for), verdict.waits_for


def test_a_gate_tells_until_when_it_soaks_at_least():
    """Where that is known."""
    first = NOW - timedelta(hours=23)
    assert judge(PROOF, seen(first_committed_at=first), NOW).until == NOW + timedelta(hours=1)
    assert judge(PROOF, seen(first_committed_at=None), NOW).until is None


def test_time_opens_on_few_nodes_and_says_how_little_that_excludes():
    """Three good nodes exclude only rates above 63 percent."""
    verdict = judge(TIME, seen(committed=3), NOW)
    assert verdict.open
    assert verdict.excludes == "3 good nodes exclude only bad rates above 63%"
    assert (verdict.ln_e, verdict.threshold) == (None, None)
    assert judge(TIME, seen(committed=1), NOW).excludes == "1 good node excludes only bad rates above 95%"


def test_time_never_opens_after_a_bad_outcome():
    """However many good ones there are: another changeset is needed."""
    verdict = judge(TIME, seen(committed=1000, bad=1), NOW)
    assert verdict.waits_for == ("another changeset: 1 node of canary-eu ended badly with 3066.1.1",)
    assert verdict.excludes == "excludes nothing"
    assert judge(TIME, seen(committed=0), NOW).excludes == "excludes nothing"


@given(
    st.sampled_from([PROOF, TIME]),
    st.sampled_from([standing for standing in Standing if standing is not Standing.CLEAR]),
    st.integers(0, 10_000),
    st.integers(0, 100),
)
def test_whatever_is_said_against_a_changeset_keeps_every_gate_shut(gate, standing, committed, days):
    """A held, halted, braked, suspended or withdrawn changeset never passes, however long and well it soaked."""
    verdict = judge(gate, seen(standing=standing, committed=committed), NOW + timedelta(days=days))
    assert not verdict.open
    assert verdict.waits_for[0].startswith("3066.1.1, which ")


@given(st.integers(0, 500), st.integers(0, 50), st.integers(0, 50), st.integers(0, 200_000), st.integers(0, 100_000))
def test_a_gate_once_open_stays_open_with_time_and_shuts_with_bad_outcomes(committed, bad, pending, age_s, later_s):
    """Time alone never shuts it; a bad outcome in place of a good one never opens it."""
    evidence = seen(committed=committed, bad=bad, pending=pending, first_committed_at=NOW - timedelta(seconds=age_s))
    verdict = judge(PROOF, evidence, NOW)
    if verdict.open:
        assert judge(PROOF, evidence, NOW + timedelta(seconds=later_s)).open
    elif committed:
        worse = seen(
            committed=committed - 1, bad=bad + 1, pending=pending, first_committed_at=evidence.first_committed_at
        )
        assert not judge(PROOF, worse, NOW).open


def test_proof_is_out_of_reach_after_far_too_many_bad_outcomes():
    """And it says so."""
    gate = Gate(groups=("canary-eu",), max_bad_rate=0.00001)
    verdict = judge(gate, seen(bad=200), NOW)
    assert "no number of good ones makes up for it" in verdict.waits_for[-1]


def test_an_expedited_rollout_soaks_for_less_and_asks_for_the_same_nodes():
    """Evidence is not relaxed."""
    early = NOW - timedelta(hours=3)
    assert not judge(PROOF, seen(first_committed_at=early), NOW).open
    assert judge(PROOF, seen(first_committed_at=early), NOW, soak_share=0.1).open
    assert not judge(PROOF, seen(first_committed_at=early, committed=30), NOW, soak_share=0.1).open


@pytest.mark.parametrize(("soak_s", "words"), [(86_400, "1 d"), (5400, "1.5 h"), (90, "1.5 min"), (5, "5 s")])
def test_a_soak_is_told_in_its_unit(soak_s, words):
    """As people say it."""
    verdict = judge(Gate(groups=("canary",), soak_s=soak_s), seen(first_committed_at=None), NOW)
    assert any(f"a soak of {words} on" in reason for reason in verdict.waits_for)


def group(nodes=50, channel="stable", position=2, gates=(), arch="amd64", **more):
    """A group on stable."""
    return GatedGroup(
        nodes={arch: nodes} if nodes else {}, channel=channel, channel_position=position, gates=gates, **more
    )


def gated(*names, **more):
    """A production group behind a gate."""
    return group(gates=(Gate(groups=names, **more),))


CANARIES = group(nodes=40, channel="beta", position=1)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"prod": gated("nobody")}, "the group 'nobody', which there is not"),
        ({"prod": gated("prod")}, "waits for the group itself"),
        ({"prod": gated("canary"), "canary": group(pinned=True)}, "pinned and follows no channel"),
        ({"prod": gated("canary"), "canary": group(channel=None, position=None)}, "pinned and follows no channel"),
        ({"prod": gated("canary"), "canary": group(channel="bta", position=None)}, "whose channel 'bta' there is not"),
        ({"prod": gated("canary"), "canary": group(channel="lts", position=3)}, "more stable than 'stable'"),
        ({"prod": gated("canary"), "canary": group(nodes=32)}, "32 nodes with arch amd64 can commit, but to exclude"),
        ({"prod": gated("canary"), "canary": group(nodes=1)}, "1 node with arch amd64"),
        ({"prod": gated("canary", nodes=51), "canary": group()}, "it asks for 51"),
        ({"prod": gated("canary", mode=GateMode.TIME, nodes=2), "canary": group(nodes=1)}, "it asks for 2"),
        ({"prod": gated("canary"), "canary": group(arch="arm64")}, "0 nodes with arch amd64"),
        ({"prod": gated("canary"), "canary": gated("early"), "early": gated("canary")}, "in a ring: "),
        ({"prod": gated("canary"), "canary": gated("prod")}, "prod -> canary -> prod"),
        (
            {"prod": GatedGroup(nodes={}, channel="stable", channel_position=2, gates=gated("c").gates), "c": group(5)},
            "5 nodes",
        ),
        ({"prod": gated("canary"), "canary": group(0)}, "0 nodes with arch amd64"),
    ],
)
def test_gates_that_never_open_are_found(groups, words):
    """When they are written, not in production."""
    assert words in (impossible("prod", groups) or "")


@pytest.mark.parametrize(
    "groups",
    [
        {"prod": gated("canary"), "canary": CANARIES},
        {"prod": gated("canary", "more", nodes=50), "canary": CANARIES, "more": CANARIES},
        {"prod": gated("canary", mode=GateMode.TIME), "canary": group(1)},
        {"prod": gated("canary"), "canary": gated("early"), "early": group()},
        {"prod": gated("early", "canary"), "canary": gated("early"), "early": group()},
        {"prod": group()},
    ],
)
def test_gates_that_can_open_are_let_pass(groups):
    """Canaries pool; diamonds are no rings."""
    assert impossible("prod", groups) is None


def test_before_any_node_has_come_numbers_are_not_judged():
    """A fleet may be described before it arrives."""
    empty = GatedGroup(nodes={}, channel="stable", channel_position=2)
    assert (
        impossible(
            "prod",
            {
                "prod": gated("canary").__class__(nodes={}, channel="stable", gates=(PROOF,)),
                "canary-eu": empty,
                "canary-us": empty,
            },
        )
        is None
    )
    assert "nobody" in impossible(
        "prod", {"prod": GatedGroup(nodes={}, channel="stable", gates=(Gate(groups=("nobody",)),))}
    )
    only_mine = {"prod": gated("canary"), "canary": empty}
    assert impossible("prod", only_mine) is not None
    without_own = {
        "prod": GatedGroup(nodes={}, channel="stable", gates=(Gate(groups=("canary",)),)),
        "canary": empty,
        "other": group(),
    }
    assert "0 nodes can commit" in impossible("prod", without_own)
