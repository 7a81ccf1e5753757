"""The fold, rule by rule: what starts, what is bad, what halts, what stands still while we are blind."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from services.rollback_analysis.evidence import ln_e_scan, upper
from services.rollback_analysis.fold import RULE_VERSION, Fold
from services.rollback_analysis.fold_input import (
    VERSION_REGRESSED,
    ChangesetHalted,
    ChangesetResumed,
    LimitsChanged,
    NodeGone,
    Parameters,
    RolloutCreated,
    RolloutEnd,
    RolloutEnded,
    RolloutResumed,
    Ticked,
    UpdateKind,
    UpdateObserved,
)
from services.rollback_analysis.fold_rows import FoldRow
from services.rollback_analysis.verdicts import (
    Blind,
    BlindReason,
    Counts,
    Expire,
    ExpireReason,
    Halt,
    Pace,
    Park,
    Sighted,
    verdict_bytes,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
OFFERED, STAGED, AWAITED, BOOTED = (
    UpdateKind.OFFERED,
    UpdateKind.STAGED,
    UpdateKind.REBOOT_AWAITED,
    UpdateKind.BOOTED,
)
COMMITTED, ROLLED_BACK, FAILED = UpdateKind.COMMITTED, UpdateKind.ROLLED_BACK, UpdateKind.FAILED
PARAMETERS = Parameters(planned_blocks=20, block_size=16, hold_budget=10, pace_limit=100)


class Story:
    """A ledger in the making: every event is applied as it is told, every verdict kept."""

    def __init__(self) -> None:
        self.fold = Fold()
        self.seq = 0
        self.at = START
        self.verdicts = []
        self.tick()

    def tell(self, data):
        self.seq += 1
        verdicts = self.fold.apply(self.seq, self.at, "told", data)
        self.verdicts += verdicts
        return verdicts

    def rollout(self, changeset="c", name="r", size=1000, limit=100, parameters=PARAMETERS):
        return self.tell(
            RolloutCreated(
                rollout_id=name,
                changeset_id=changeset,
                group_id=f"g-{name}",
                group_size=size,
                group_pace_limit=limit,
                parameters=parameters,
            )
        )

    def node(self, node, *kinds, attempt=None, changeset="c", rollout="r", applied=True, reason=None):
        told = []
        for kind in kinds:
            told += self.tell(
                UpdateObserved(
                    kind=kind,
                    attempt_id=attempt or f"a-{changeset}-{node}",
                    node_id=node,
                    changeset_id=changeset,
                    rollout_id=rollout,
                    group_id=f"g-{rollout}",
                    applied=applied,
                    reason=reason,
                )
            )
        return told

    def tick(self, gap=10.0, *, contacts=None, expected=None, lag=0.0):
        self.at += timedelta(seconds=gap)
        return self.tell(Ticked(contacts=contacts or {}, expected=expected or {}, ingest_lag_s=lag))

    def wait(self, seconds, gap=10.0):
        told = []
        for _ in range(math.ceil(seconds / gap)):
            told += self.tick(gap)
        return told

    def of(self, kind):
        return [verdict for verdict in self.verdicts if isinstance(verdict, kind)]

    def counts(self, changeset="c"):
        return self.fold.counts(changeset)


def counts(*, started=0, good=0, bad=0, pending=0, dropped=0, silent=0, late_good=0):
    return Counts(
        started=started, good=good, bad=bad, pending=pending, dropped=dropped, silent=silent, late_good=late_good
    )


@pytest.fixture
def story():
    told = Story()
    told.rollout()
    return told


# Starts and outcomes


def test_going_back_on_purpose_is_good_for_where_it_leads_and_nothing_for_what_it_leaves(story):
    """A node that committed a changeset and later its downgrade is one good outcome of each."""
    story.rollout("older", "back")
    story.node("n", OFFERED, STAGED, BOOTED, COMMITTED)
    story.node("n", OFFERED, STAGED, BOOTED, COMMITTED, changeset="older", rollout="back")
    assert story.counts() == counts(started=1, good=1)
    assert story.counts("older") == counts(started=1, good=1)
    story.wait(40_000)
    assert (story.of(Halt), story.of(Expire)) == ([], [])


def test_started_only_from_the_boot(story):
    """Offered, downloading and staged attempts are in neither n nor k; the boot starts, the commit is good."""
    for kind in (OFFERED, UpdateKind.DOWNLOAD_STARTED, UpdateKind.DOWNLOADED, STAGED, AWAITED):
        story.node("n", kind)
        assert story.counts() == counts()
    story.node("n", BOOTED)
    assert story.counts() == counts(started=1, pending=1)
    story.node("n", COMMITTED)
    assert story.counts() == counts(started=1, good=1)


@pytest.mark.parametrize("outcome", [COMMITTED, ROLLED_BACK])
@pytest.mark.parametrize("told", [(), (OFFERED,), (OFFERED, STAGED), (OFFERED, STAGED, AWAITED, BOOTED)])
def test_an_outcome_implies_the_start(story, told, outcome):
    """Lost reports do not matter: an outcome counts its node as started, whatever was heard before."""
    story.node("n", *told, outcome)
    good = outcome is COMMITTED
    assert story.counts() == counts(started=1, good=int(good), bad=int(not good))


def test_hundred_percent_bad_halts_after_two():
    """When every node rolls back, the second or third report halts, with what the scan says."""
    story = Story()
    story.rollout()
    for node in range(10):
        story.node(str(node), OFFERED, STAGED, BOOTED)
    assert not story.of(Halt)
    for node in range(3):
        story.node(str(node), ROLLED_BACK)
    (halt,) = story.of(Halt)
    assert halt.changeset_id == "c"
    evidence = halt.evidence
    assert evidence["started"] == 10
    assert evidence["bad"] in {2, 3}
    assert evidence["pending"] == 10 - evidence["bad"]
    assert evidence["ln_e"] == ln_e_scan([(10, evidence["bad"])], 0.01, 20)[0] >= evidence["threshold"]
    assert float.fromhex(evidence["ln_e_hex"]) == evidence["ln_e"]
    assert evidence["threshold"] == math.log(100)
    assert (evidence["p0"], evidence["alpha"], evidence["rule_version"]) == (0.01, 0.01, RULE_VERSION)
    assert (evidence["argmax_prefix"], evidence["prefix"]) == (1, 10)
    assert evidence["deciding_seq"] == halt.seq
    assert evidence["deciding_type"] == "told"
    assert evidence["pace_before"] == 10
    low, high = evidence["interval"]
    assert 0 < low < evidence["bad"] / 10 < high <= 1


def test_halt_is_latched(story):
    """One halt only, no pace after it, and good news that follows changes nothing."""
    story.node("a", ROLLED_BACK)
    story.node("b", ROLLED_BACK)
    assert len(story.of(Halt)) == 1
    told = story.node("c", ROLLED_BACK)
    for node in range(100):
        told += story.node(str(node), COMMITTED)
    assert told == []
    assert story.fold.halted("c")
    assert story.counts() == counts(started=103, good=100, bad=3)


def test_all_good_never_halts_and_reaches_the_limit(story):
    """A release without a bad node is never halted, and the pace widens to the operators' limit."""
    for node in range(400):
        story.node(str(node), OFFERED, STAGED, BOOTED, COMMITTED)
    assert not story.of(Halt)
    paces = [verdict.pace for verdict in story.of(Pace)]
    assert paces[0] == 10
    assert paces == sorted(paces)
    assert paces[-1] == 100
    assert story.of(Pace)[-1].groups == {"r": 100}


def test_bad_is_absorbing_and_late_good_is_shown(story):
    """A node that fell silent and commits later stays bad and is shown as late good, once."""
    story.node("n", OFFERED, STAGED, BOOTED)
    assert [v.reason for v in story.wait(9_000) if isinstance(v, Expire)] == [ExpireReason.SILENT]
    assert story.counts() == counts(started=1, bad=1, silent=1)
    story.node("n", UpdateKind.PRESUMED_LOST)
    story.node("n", COMMITTED)
    story.node("n", COMMITTED, applied=False)
    story.node("n", ROLLED_BACK)
    assert story.counts() == counts(started=1, bad=1, silent=1, late_good=1)


@pytest.mark.parametrize(("applied", "reason"), [(True, None), (True, VERSION_REGRESSED), (False, VERSION_REGRESSED)])
def test_rolled_back_after_the_commit_is_bad(story, applied, reason):
    """A version that goes back after the commit turns good into bad, once."""
    story.node("n", BOOTED, COMMITTED)
    for _ in range(2):
        story.node("n", ROLLED_BACK, applied=applied, reason=reason)
    assert story.counts() == counts(started=1, bad=1)


def test_rollback_without_attempt_falls_to_the_nodes_attempt(story):
    """A rollback that names no attempt counts for the node's counted one, and for none otherwise."""
    story.node("n", BOOTED)
    for node in ("n", "stranger"):
        story.tell(
            UpdateObserved(
                kind=ROLLED_BACK, attempt_id=None, node_id=node, changeset_id="c", rollout_id="r", group_id="g-r"
            )
        )
    story.tell(
        UpdateObserved(kind=BOOTED, attempt_id=None, node_id="x", changeset_id="c", rollout_id="r", group_id="g-r")
    )
    assert story.counts() == counts(started=1, bad=1)


def test_only_the_first_started_attempt_counts(story):
    """A retry after a rollback counts neither way, and a failed attempt before the start does not use the node up."""
    story.node("n", OFFERED, FAILED, attempt="first")
    story.node("n", OFFERED, BOOTED, ROLLED_BACK, attempt="second")
    story.node("n", OFFERED, BOOTED, ROLLED_BACK, attempt="third")
    story.node("n", OFFERED, BOOTED, COMMITTED, attempt="fourth")
    story.node("n", COMMITTED, attempt="third")
    assert story.counts() == counts(started=1, bad=1)


@pytest.mark.parametrize("kind", [FAILED, UpdateKind.RECALLED])
def test_failed_and_recalled_before_the_start_count_neither_way(story, kind):
    """What failed or was recalled is closed; a start or outcome of it afterwards is not counted."""
    story.node("n", OFFERED, STAGED, kind)
    story.node("n", BOOTED, ROLLED_BACK, COMMITTED)
    story.wait(20_000)
    assert story.counts() == counts()
    assert not story.of(Expire)


def test_failed_after_the_boot_is_bad_and_recalled_is_dropped(story):
    """A booted node that fails is bad; one recalled after its start stays in n, never in k."""
    story.node("a", BOOTED, FAILED)
    story.node("b", BOOTED, UpdateKind.RECALLED)
    story.node("b", ROLLED_BACK)
    assert story.counts() == counts(started=2, bad=1, dropped=1)


def test_gone_nodes_stay_in_n(story):
    """A node taken out of service is in n if it had started, never in k, and owes nothing any more."""
    story.node("a", BOOTED)
    story.node("b", OFFERED)
    for node in ("a", "b", "stranger"):
        story.tell(NodeGone(node_id=node))
    story.wait(30_000)
    assert story.counts() == counts(started=1, dropped=1)
    assert not story.of(Expire)


def test_what_was_not_applied_moves_nothing(story):
    """Events that moved no attempt count nothing and make no attempt known."""
    story.node("n", OFFERED, BOOTED, COMMITTED, ROLLED_BACK, FAILED, applied=False)
    story.node("n", OFFERED)
    story.node("n", STAGED, BOOTED, COMMITTED, ROLLED_BACK, FAILED, UpdateKind.RECALLED, applied=False)
    assert story.counts() == counts()
    story.node("n", BOOTED)
    assert story.counts() == counts(started=1, pending=1)


def test_unknown_changesets_are_ignored(story):
    """Events about a changeset without a rollout change nothing."""
    before = story.fold.snapshot()
    story.node("n", OFFERED, BOOTED, ROLLED_BACK, changeset="unknown")
    for data in (
        ChangesetHalted(changeset_id="unknown"),
        ChangesetResumed(changeset_id="unknown"),
        RolloutEnded(changeset_id="unknown", rollout_id="r", how=RolloutEnd.ABORTED),
        RolloutEnded(changeset_id="c", rollout_id="unknown", how=RolloutEnd.ABORTED),
        RolloutResumed(changeset_id="unknown", rollout_id="r"),
        LimitsChanged(changeset_id="unknown", rollout_id="r", pace_limit=1),
    ):
        assert story.tell(data) == []
    after = story.fold.snapshot()
    assert (before.changesets, before.attempts) == (after.changesets, after.attempts)
    assert story.fold.changeset_ids == ("c",)


def test_an_event_is_applied_once(story):
    """An event at or before the last seq is skipped."""
    data = UpdateObserved(
        kind=ROLLED_BACK, attempt_id="a", node_id="n", changeset_id="c", rollout_id="r", group_id="g-r"
    )
    assert story.tell(data)[-1:] != ["nothing"]
    before = story.fold.snapshot()
    assert story.fold.apply(story.seq, story.at, "told", data) == []
    assert story.fold.snapshot() == before
    assert story.fold.last_seq == story.seq


# Deadlines


def test_overdue_contact_is_a_start_and_silence_is_bad(story):
    """A staged node starts when its contact is overdue, and is bad when the silence deadline passes as well."""
    story.tick()
    story.node("n", OFFERED, STAGED)
    story.wait(5_390)
    assert story.counts() == counts()
    story.wait(10)
    assert story.counts() == counts(started=1, pending=1)
    story.wait(3_590)
    assert not story.of(Expire)
    (expire,) = story.wait(10)[:1]
    assert expire == Expire(
        seq=story.seq,
        attempt_id="a-c-n",
        node_id="n",
        changeset_id="c",
        rollout_id="r",
        reason=ExpireReason.SILENT,
        counted=True,
    )
    assert story.counts() == counts(started=1, bad=1, silent=1)


def test_overdue_then_committed_is_good(story):
    """An overdue node that commits in time is good."""
    story.node("n", OFFERED, STAGED)
    story.wait(6_000)
    story.node("n", COMMITTED)
    story.wait(20_000)
    assert story.counts() == counts(started=1, good=1)


@pytest.mark.parametrize("applied", [True, False])
def test_a_staged_node_that_polls_does_not_start(story, applied):
    """A staged node that still reports is in neither n nor k, for days, whether the report moved it or not."""
    story.node("n", OFFERED, STAGED)
    for _ in range(100):
        story.wait(900)
        story.node("n", AWAITED, applied=applied)
    assert story.counts() == counts()
    assert not story.of(Expire)


def test_overdue_node_that_returns_in_its_old_boot_stays_in_n(story):
    """It was counted as started and n never falls; it can wait on, and still commit, roll back or fall silent."""
    story.node("n", OFFERED, STAGED)
    story.wait(5_400)
    for _ in range(20):
        story.node("n", AWAITED)
        story.wait(1_800)
    assert story.counts() == counts(started=1, pending=1)
    assert not story.of(Expire)
    story.wait(9_000)
    assert story.counts() == counts(started=1, bad=1, silent=1)


def test_overdue_node_whose_update_fails_is_dropped(story):
    """It had not booted after all: in n, not in k."""
    story.node("n", OFFERED, STAGED)
    story.wait(5_400)
    story.node("n", FAILED, reason="marker_reset")
    assert story.counts() == counts(started=1, dropped=1)


def test_offers_without_progress_expire_uncounted(story):
    """After six hours without an event an offer is given up and counts neither way."""
    story.node("n", OFFERED)
    story.wait(21_500)
    story.node("n", UpdateKind.DOWNLOAD_STARTED)
    story.wait(21_590)
    assert not story.of(Expire)
    story.wait(10)
    (expire,) = story.of(Expire)
    assert (expire.reason, expire.counted) == (ExpireReason.NO_PROGRESS, False)
    assert story.counts() == counts()


def test_given_up_offer_that_moves_after_all_counts(story):
    """When the database let the attempt move before our verdict came, what follows is evidence like any other."""
    story.node("n", OFFERED)
    story.wait(21_600)
    story.node("n", FAILED)
    story.node("n", STAGED, applied=False)
    assert story.counts() == counts()
    story.node("n", STAGED)
    story.node("n", ROLLED_BACK)
    assert story.counts() == counts(started=1, bad=1)


def test_silent_retries_expire_uncounted(story):
    """A second attempt that falls silent is given up, and is no evidence."""
    story.node("n", BOOTED, COMMITTED, attempt="first")
    story.node("n", OFFERED, BOOTED, attempt="second")
    story.wait(9_000)
    (expire,) = story.of(Expire)
    assert (expire.attempt_id, expire.counted) == ("second", False)
    assert story.counts() == counts(started=1, good=1)


def test_waiting_for_a_day_parks_up_to_a_tenth_of_the_group():
    """Of three that wait for their reboot in a group of twenty, two are parked; the third when one of them boots."""
    story = Story()
    story.rollout(size=20)
    nodes = ["x", "y", "z"]
    for node in nodes:
        story.node(node, OFFERED, STAGED)
    for _ in range(100):
        story.wait(900)
        for node in nodes:
            story.node(node, AWAITED)
    assert [park.node_id for park in story.of(Park)] == ["x", "y"]
    story.node("x", BOOTED)
    story.wait(910)
    assert [park.node_id for park in story.of(Park)] == ["x", "y", "z"]
    assert story.counts() == counts(started=1, pending=1)


def test_parked_by_others_counts_as_parked():
    """The ledger's word that an attempt was parked is taken; our own echo changes nothing."""
    story = Story()
    story.rollout(size=10)
    for node in ("x", "y"):
        story.node(node, OFFERED, STAGED)
    story.node("x", UpdateKind.PARKED)
    story.node("x", UpdateKind.PARKED)
    for _ in range(100):
        story.wait(900)
        story.node("x", AWAITED)
        story.node("y", AWAITED)
    assert not story.of(Park)


def test_our_own_outage_makes_nobodys_deadline_pass(story):
    """A day without ticks is ten seconds of observed time, and nodes get their grace afterwards."""
    story.tick()
    story.node("staged", OFFERED, STAGED)
    story.node("booted", OFFERED, BOOTED)
    story.node("offered", OFFERED)
    before = story.fold.observed_s
    assert story.tick(86_400) == []
    assert story.fold.observed_s == before + 10
    story.wait(21_500)
    assert [e.reason for e in story.of(Expire)] == []
    assert story.counts() == counts(started=1, pending=1)
    story.wait(200)
    assert {e.attempt_id: e.reason for e in story.of(Expire)} == {
        "a-c-booted": ExpireReason.SILENT,
        "a-c-staged": ExpireReason.SILENT,
        "a-c-offered": ExpireReason.NO_PROGRESS,
    }


def test_heard_after_the_outage_owes_the_usual_deadline(story):
    """The grace is only for nodes that were last heard before the end of our outage."""
    story.tick()
    story.tick(3_600)
    story.tick()
    story.node("n", OFFERED, BOOTED)
    story.wait(8_990)
    assert not story.of(Expire)
    story.wait(10)
    assert len(story.of(Expire)) == 1


def test_contact_after_the_outage_ends_the_grace(story):
    """A node that was heard again after our outage owes the usual deadline from then on, not the grace."""
    story.tick()
    story.node("n", OFFERED, BOOTED)
    story.tick(3_600)
    story.tick()
    story.node("n", BOOTED, applied=False)
    story.wait(8_990)
    assert not story.of(Expire)
    story.wait(10)
    assert len(story.of(Expire)) == 1


def test_short_gaps_call_for_no_grace(story):
    """A tick that comes half a minute late is no outage."""
    story.tick()
    story.node("n", OFFERED, BOOTED)
    story.tick(30)
    story.wait(8_990)
    assert len(story.of(Expire)) == 1


def test_time_does_not_run_backwards(story):
    """A tick before the last one adds nothing."""
    story.tick(10)
    story.tick(10)
    observed = story.fold.observed_s
    story.tick(-15)
    assert story.fold.observed_s == observed
    story.tick(10)
    assert story.fold.observed_s == observed


# Blindness


def blinded(story):
    story.tick()
    story.tick(contacts={"s": 60}, expected={"s": 60.0})
    return story.tick(contacts={"s": 12}, expected={"s": 40.0})


def test_blind_brakes_and_sight_restores(story):
    """A site that falls silent on nodes that are not updating brakes everything at once; sight restores the paces."""
    story.rollout(changeset="d", name="q")
    told = blinded(story)
    assert told[0] == Blind(seq=story.seq, site="s", reason=BlindReason.CONTACTS_MISSING, seen=12.0, expected=40.0)
    assert [(v.changeset_id, v.pace, dict(v.groups)) for v in told[1:]] == [("c", 0, {"r": 0}), ("d", 0, {"q": 0})]
    assert story.fold.blind
    assert story.tick(contacts={"s": 12}, expected={"s": 40.0}) == []
    assert [v.pace for v in story.rollout(changeset="e", name="p")] == [0]
    assert story.node("n", COMMITTED) == []
    told = story.tick(contacts={"s": 14}, expected={"s": 40.0})
    assert told[0] == Sighted(seq=story.seq, site="s", reason=BlindReason.CONTACTS_MISSING)
    assert [(v.changeset_id, v.pace) for v in told[1:]] == [("c", 10), ("d", 10), ("e", 10)]


def test_sites_are_judged_by_forty_expected_contacts(story):
    """Nothing is judged before forty contacts were to be expected; one blind site is enough to brake."""
    for _ in range(39):
        assert story.tick(expected={"s": 1.0}) == []
    assert isinstance(story.tick(expected={"s": 1.0})[0], Blind)
    story.tick(contacts={"t": 0, "s": 40}, expected={"s": 40.0, "t": 80.0})
    assert story.fold.blind
    assert [v.site for v in story.verdicts if isinstance(v, Blind | Sighted)] == ["s", "s", "t"]


def test_silence_does_not_count_while_blind(story):
    """Observed time stands still while blind; explicit reports of rollbacks go on counting, and halt."""
    story.node("n", OFFERED, BOOTED)
    blinded(story)
    observed = story.fold.observed_s
    for _ in range(8_640):
        story.tick(contacts={"s": 1}, expected={"s": 5.0})
    assert story.fold.observed_s == observed
    assert not story.of(Expire)
    story.node("a", ROLLED_BACK)
    told = story.node("b", ROLLED_BACK)
    assert [type(v) for v in told] == [Halt]
    story.tick(contacts={"s": 40}, expected={"s": 40.0})
    assert story.fold.observed_s == observed
    story.tick()
    assert story.fold.observed_s == observed + 10


def test_nodes_get_grace_after_blindness(story):
    """Blind for minutes, a node last heard before has six hours; blind for seconds, the usual deadline."""
    blinded(story)
    story.node("n", OFFERED, BOOTED)
    story.wait(120)
    story.tick(contacts={"s": 40}, expected={"s": 40.0})
    story.wait(21_590)
    assert not story.of(Expire)
    story.wait(10)
    assert len(story.of(Expire)) == 1

    short = Story()
    short.rollout()
    blinded(short)
    short.node("n", OFFERED, BOOTED)
    short.tick(contacts={"s": 40}, expected={"s": 40.0})
    short.wait(9_000)
    assert len(short.of(Expire)) == 1


def test_ingest_lag_is_blindness(story):
    """Reports that lag by more than a third of the shortest active deadline blind us, as long as they do."""
    assert story.tick(lag=3_000.0) == []
    assert story.tick(lag=3_001.0)[0] == Blind(
        seq=story.seq, site=None, reason=BlindReason.INGEST_LAG, seen=3_001.0, expected=3_000.0
    )
    told = story.tick(lag=10.0)
    assert told[0] == Sighted(seq=story.seq, site=None, reason=BlindReason.INGEST_LAG)
    assert told[1].pace == 10
    story.tell(RolloutEnded(changeset_id="c", rollout_id="r", how=RolloutEnd.ABORTED))
    assert story.tick(lag=1e6) == []


def test_a_forsaken_site_does_not_blind_for_ever(story):
    """A blind site at which no node is left is given up after a day."""
    blinded(story)
    told = story.wait(86_390)
    assert told == []
    assert [type(v) for v in story.tick()] == [Sighted, Pace]


# Pace and groups


def test_pace_follows_the_formula(story):
    """After 100 good outcomes the pace is floor(10 / p_upper); a bad one narrows it at once."""
    for node in range(30):
        story.node(str(node), COMMITTED)
    told = story.of(Pace)[-1]
    assert told.p_upper == upper(0, 30)
    assert told.pace == math.floor(10 / upper(0, 30)) < 100
    assert told.counts == counts(started=30, good=30)
    wide = Story()
    wide.rollout(parameters=Parameters(planned_blocks=20, hold_budget=10, pace_limit=10_000), limit=50)
    for node in range(100):
        wide.node(str(node), COMMITTED)
    assert wide.of(Pace)[-1].pace == math.floor(10 / upper(0, 100))
    assert wide.of(Pace)[-1].groups == {"r": 50}
    (narrower,) = wide.node("x", ROLLED_BACK)
    assert narrower.pace == math.floor(10 / upper(1, 101))


def test_later_groups_learn_from_the_first(story):
    """A second rollout of the changeset adds its group; its pace follows from what the first one's nodes showed."""
    for node in range(100):
        story.node(str(node), COMMITTED)
    (told,) = story.rollout(
        name="second",
        size=100,
        limit=60,
        parameters=Parameters(planned_blocks=1, hold_budget=99, pace_limit=9_999, p0=0.2),
    )
    assert told.groups == {"r": 100, "second": 60}
    assert told.pace == 100
    assert story.rollout(name="second") == []
    assert story.fold.view("c")["p0"] == 0.01


def test_group_budget_can_be_given():
    """H_g of the rollout holds where it is given."""
    story = Story()
    (told,) = story.tell(
        RolloutCreated(
            rollout_id="r",
            changeset_id="c",
            group_id="g",
            group_size=1000,
            group_pace_limit=100,
            parameters=PARAMETERS,
            group_hold_budget=3,
        )
    )
    assert told.groups == {"r": 3}


def test_ended_rollouts_leave(story):
    """An ended rollout has no pace any more; its nodes in flight are still judged, and still halt the changeset."""
    story.rollout(name="other")
    for node in "abcd":
        story.node(node, BOOTED)
    story.tell(RolloutEnded(changeset_id="c", rollout_id="r", how=RolloutEnd.SUPERSEDED))
    for node in range(10):
        story.node(str(node), COMMITTED, rollout="other")
    assert set(story.of(Pace)[-1].groups) == {"other"}
    story.tell(RolloutEnded(changeset_id="c", rollout_id="other", how=RolloutEnd.ABORTED))
    assert story.node("y", COMMITTED) == []
    assert [type(v) for v in story.wait(9_000)] == [Expire] * 4 + [Halt]


def test_small_group_waits_for_others_or_an_operator():
    """The first bad outcome brakes a group of twenty, until an operator or the others' good outcomes release it."""
    story = Story()
    story.rollout(name="small", size=20)
    story.rollout(name="large", size=1000)
    story.node("bad", ROLLED_BACK, rollout="small")
    assert story.of(Pace)[-1].groups["small"] == 0
    story.tell(RolloutResumed(changeset_id="c", rollout_id="small"))
    assert story.of(Pace)[-1].groups["small"] == 1
    for node in range(40):
        story.node(str(node), COMMITTED, rollout="large")
    story.node("worse", ROLLED_BACK, rollout="small")
    assert story.of(Pace)[-1].groups["small"] == 0
    for node in range(40, 120):
        story.node(str(node), COMMITTED, rollout="large")
    assert story.of(Pace)[-1].groups["small"] > 0


def test_operators_can_change_limits(story):
    """Limits that change show in the next pace at once."""
    (told,) = story.tell(LimitsChanged(changeset_id="c", rollout_id="r", pace_limit=4))
    assert (told.pace, told.groups) == (4, {"r": 10})
    (told,) = story.tell(LimitsChanged(changeset_id="c", rollout_id="r", group_size=60, group_pace_limit=2))
    assert (told.pace, told.groups) == (4, {"r": 2})
    (told,) = story.tell(LimitsChanged(changeset_id="c", rollout_id="r", group_pace_limit=50))
    assert told.groups == {"r": 3}


# Halts and resumes


def test_operators_halt_stops_the_verdicts(story):
    """A halt by hand is taken like our own; the echo of ours changes nothing."""
    story.tell(ChangesetHalted(changeset_id="c"))
    story.tell(ChangesetHalted(changeset_id="c"))
    assert story.fold.halted("c")
    assert story.node("n", COMMITTED) == []
    assert not story.of(Halt)


def test_resume_begins_anew_with_half_the_alpha(story):
    """After a resume only nodes that start from then on are judged, against a higher threshold."""
    story.node("old", BOOTED)
    story.node("a", ROLLED_BACK)
    story.node("b", ROLLED_BACK)
    (told,) = story.tell(ChangesetResumed(changeset_id="c"))
    assert isinstance(told, Pace)
    assert not story.fold.halted("c")
    story.node("old", ROLLED_BACK)
    assert story.fold.view("c")["judged_started"] == 0
    story.node("c", ROLLED_BACK)
    assert len(story.of(Halt)) == 1
    story.node("d", ROLLED_BACK)
    (_, halt) = story.of(Halt)
    assert halt.evidence["alpha"] == 0.005
    assert halt.evidence["threshold"] == math.log(200)
    assert (halt.evidence["started"], halt.evidence["bad"], halt.evidence["resumes"]) == (2, 2, 1)
    assert story.counts() == counts(started=5, bad=5)
    for _ in range(5):
        story.tell(ChangesetResumed(changeset_id="c"))
    assert story.fold.view("c")["alpha"] == 0.0025


def test_outcomes_from_before_a_resume_are_shown_not_judged(story):
    """Every kind of outcome of an attempt from before a resume goes into the totals only."""
    for node in ("good", "worse", "drop", "silent"):
        story.node(node, BOOTED)
    story.tell(ChangesetHalted(changeset_id="c"))
    story.tell(ChangesetResumed(changeset_id="c"))
    story.node("good", COMMITTED)
    story.node("worse", COMMITTED, ROLLED_BACK)
    story.node("drop", UpdateKind.RECALLED)
    story.wait(9_000)
    story.node("silent", COMMITTED)
    assert story.counts() == counts(started=4, good=1, bad=2, dropped=1, silent=1, late_good=1)
    view = story.fold.view("c")
    assert (view["judged_started"], view["judged_bad"], view["ln_e"]) == (0, 0, 0.0)


def test_resumed_evidence_knows_late_good_and_worse(story):
    """The counts since the resume follow the same rules as the totals."""
    story.tell(ChangesetHalted(changeset_id="c"))
    story.tell(ChangesetResumed(changeset_id="c"))
    story.node("late", BOOTED)
    story.wait(9_000)
    story.node("late", COMMITTED)
    story.node("drop", BOOTED, UpdateKind.RECALLED)
    told = story.node("worse", COMMITTED, ROLLED_BACK)
    told += story.node("x", ROLLED_BACK)
    (halt,) = [v for v in told if isinstance(v, Halt)]
    evidence = halt.evidence
    assert (evidence["started"], evidence["bad"], evidence["good"], evidence["dropped"], evidence["silent"]) == (
        evidence["bad"] + 1,
        evidence["bad"],
        0,
        1,
        1,
    )


# Bytes and rows


def test_verdict_bytes_are_canonical(story):
    """Sorted keys, floats as hex and repr, enums by value."""
    raw = verdict_bytes(story.verdicts[0])
    assert orjson.loads(raw) == {
        "verdict": "pace",
        "seq": 2,
        "changeset_id": "c",
        "pace": 10,
        "groups": {"r": 10},
        "p_upper": {"hex": "0x1.0000000000000p+0", "repr": "1.0"},
        "counts": {
            "started": 0,
            "good": 0,
            "bad": 0,
            "pending": 0,
            "dropped": 0,
            "silent": 0,
            "late_good": 0,
        },
    }
    assert raw == orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)
    story.node("a", ROLLED_BACK)
    story.node("b", ROLLED_BACK)
    assert b'"interval":[{"hex":' in verdict_bytes(story.of(Halt)[0])


def test_changes_are_taken_once(story):
    """Rows come once; nothing is dirty until the next event."""
    fold = story.fold
    assert fold.dirty()
    first = fold.take_changes()
    assert first.fold is not None
    assert [row.changeset_id for row in first.changesets] == ["c"]
    assert not fold.dirty()
    assert fold.take_changes().fold is None
    story.node("n", OFFERED)
    changes = fold.take_changes()
    assert [row.attempt_id for row in changes.attempts] == ["a-c-n"]
    assert changes.changesets == ()
    story.node("n", OFFERED)
    assert fold.take_changes().attempts == ()


def test_rows_of_other_rules_are_refused(story):
    """A fold is not continued under rules that its state does not follow."""
    row = story.fold.snapshot().fold
    with pytest.raises(ValueError, match="from its beginning"):
        Fold.restore(FoldRow(last_seq=row.last_seq, state={**row.state, "rule_version": "older"}), [], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"p0": 0.5},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"block_size": 0},
        {"planned_blocks": 0},
        {"hold_budget": 0},
        {"pace_limit": -1},
        {"silence_s": 0.0},
        {"overdue_s": math.inf},
        {"park_after_s": math.nan},
        {"outage_grace_s": -1.0},
    ],
)
def test_impossible_parameters_are_refused(wrong):
    """Parameters that nothing can be judged by are refused by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Parameters(**{"planned_blocks": 1, "hold_budget": 10, "pace_limit": 10, **wrong})


def test_default_parameters_by_fleet():
    """Small fleets use blocks of 16; H and the plan follow the fleet's size."""
    small, large = (Parameters.for_fleet(fleet, pace_limit=500) for fleet in (300, 100_000))
    assert (small.block_size, small.planned_blocks, small.hold_budget) == (16, 19, 10)
    assert (large.block_size, large.planned_blocks, large.hold_budget) == (64, 1563, 50)
    assert Parameters.for_fleet(0, pace_limit=1).planned_blocks == 1
