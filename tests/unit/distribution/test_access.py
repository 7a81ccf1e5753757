"""Who may have which payload: a decision on a snapshot."""

from __future__ import annotations

import uuid

import pytest

from services.distribution.access import (
    TOKEN_UNKNOWN,
    UNLISTED,
    Allowed,
    Attempt,
    Closure,
    Listing,
    RefusalCode,
    Refused,
    Snapshot,
    decide,
    decide_for_attempt,
)
from services.distribution.errors import problem_of

DIGEST = "ab" * 32
ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)
LISTINGS = {DIGEST: (Listing(ONE, "a.gz"), Listing(TWO, "a.gz"), Listing(TWO, "b.gz"))}
HALTED = Closure(RefusalCode.HALTED, "nodes roll back")
WITHDRAWN = Closure(RefusalCode.WITHDRAWN, "wrong key")


def test_a_payload_is_found_by_digest_and_name_together():
    """A known digest under a foreign name, or a foreign digest, is not found, with a token or without."""
    snapshot = Snapshot(listings=LISTINGS)
    assert decide(snapshot, DIGEST, "a.gz") == Allowed(DIGEST)
    for digest, name in ((DIGEST, "c.gz"), ("cd" * 32, "a.gz")):
        assert decide(snapshot, digest, name) is UNLISTED
        assert decide_for_attempt(snapshot, digest, name, Attempt(ONE, "offered")) is UNLISTED


def test_without_a_token_one_open_changeset_is_enough():
    """Only when every changeset that lists the payload is shut is it refused, with the first one's reason."""
    assert decide(Snapshot(listings=LISTINGS, closed={ONE: HALTED}), DIGEST, "a.gz") == Allowed(DIGEST)
    assert decide(Snapshot(listings=LISTINGS, closed={TWO: HALTED}), DIGEST, "b.gz") == Refused(
        RefusalCode.HALTED, "nodes roll back"
    )
    shut = Snapshot(listings=LISTINGS, closed={ONE: WITHDRAWN, TWO: HALTED})
    assert decide(shut, DIGEST, "a.gz") == Refused(RefusalCode.WITHDRAWN, "wrong key")


def test_with_a_token_the_attempts_own_changeset_counts():
    """The token's changeset being shut refuses, though another one with the same payload is open."""
    snapshot = Snapshot(listings=LISTINGS, closed={ONE: HALTED})
    assert decide_for_attempt(snapshot, DIGEST, "a.gz", Attempt(ONE, "downloading")) == Refused(
        RefusalCode.HALTED, "nodes roll back"
    )
    assert decide_for_attempt(snapshot, DIGEST, "a.gz", Attempt(TWO, "downloading")) == Allowed(DIGEST)


def test_a_token_of_nobody_or_of_another_changeset_is_unknown():
    """Guessed tokens, and tokens of attempts that do not take this payload, are refused alike."""
    snapshot = Snapshot(listings=LISTINGS)
    assert decide_for_attempt(snapshot, DIGEST, "a.gz", None) is TOKEN_UNKNOWN
    assert decide_for_attempt(snapshot, DIGEST, "b.gz", Attempt(ONE, "offered")) is TOKEN_UNKNOWN


def test_an_extra_is_found_beside_the_main_payload():
    """Omaha has one base URL for all packages: the path names the main payload, the name says which file is meant."""
    extra = "cd" * 32
    snapshot = Snapshot(listings={**LISTINGS, extra: (Listing(TWO, "oem.gz"),)})
    assert decide_for_attempt(snapshot, DIGEST, "oem.gz", Attempt(TWO, "downloading")) == Allowed(extra)
    assert decide_for_attempt(snapshot, DIGEST, "oem.gz", Attempt(ONE, "downloading")) is UNLISTED
    assert decide(snapshot, DIGEST, "oem.gz") is UNLISTED
    suspended = Snapshot(listings=snapshot.listings, suspended={extra: "a bad disk"})
    assert decide_for_attempt(suspended, DIGEST, "oem.gz", Attempt(TWO, "downloading")) == Refused(
        RefusalCode.SUSPENDED, "a bad disk"
    )


@pytest.mark.parametrize("state", ["offered", "downloading", "staged", "committed", "failed", "presumed_lost"])
def test_any_attempt_that_is_not_recalled_may_download(state):
    """Extras are fetched late, and a lost node may come back: only a recall takes the right away."""
    assert decide_for_attempt(Snapshot(listings=LISTINGS), DIGEST, "a.gz", Attempt(ONE, state)) == Allowed(DIGEST)


def test_a_recalled_attempt_is_refused():
    """A recall refuses; where the gate is shut too, the gate's reason is the one told."""
    recalled = Attempt(ONE, "recalled")
    decision = decide_for_attempt(Snapshot(listings=LISTINGS), DIGEST, "a.gz", recalled)
    assert isinstance(decision, Refused)
    assert decision.code is RefusalCode.RECALLED
    halted = decide_for_attempt(Snapshot(listings=LISTINGS, closed={ONE: HALTED}), DIGEST, "a.gz", recalled)
    assert halted == Refused(RefusalCode.HALTED, "nodes roll back")


def test_a_suspended_digest_and_a_halt_of_everything_refuse_all():
    """They hold for every changeset and every attempt."""
    suspended = Snapshot(listings=LISTINGS, suspended={DIGEST: "re-hash failed"})
    stopped = Snapshot(listings=LISTINGS, everything_halted="power cut")
    for snapshot, refusal in (
        (suspended, Refused(RefusalCode.SUSPENDED, "re-hash failed")),
        (stopped, Refused(RefusalCode.HALTED, "power cut")),
    ):
        assert decide(snapshot, DIGEST, "a.gz") == refusal
        assert decide_for_attempt(snapshot, DIGEST, "a.gz", Attempt(ONE, "offered")) == refusal


@pytest.mark.parametrize("code", list(RefusalCode))
def test_every_refusal_is_a_403_with_its_code_and_reason(code):
    """The problem's code is the refusal's, and its reason is a member of the body."""
    problem = problem_of(Refused(code, "because"))
    assert (problem.status, problem.code) == (403, code.value)
    assert problem.details == {"reason": "because"}
    assert "because" in problem.message
