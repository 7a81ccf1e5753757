"""Which paths of the Omaha endpoint serve, and for whom."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from services.update_check.path_secrets import (
    PathGuard,
    PathRefused,
    PathSecret,
    PathUnknown,
    check_machine,
    digest_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLATCAR, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
FOR_ALL = PathSecret(application_id=FLATCAR)
FOR_ONE = PathSecret(application_id=FLATCAR, machine_id="m1", expires_at=NOW + timedelta(days=1))
MINTED = {
    digest_of("of-all-1"): FOR_ALL,
    digest_of("of-one-1"): FOR_ONE,
    digest_of("revoked1"): PathSecret(application_id=FLATCAR, revoked=True),
    digest_of("expired1"): PathSecret(application_id=FLATCAR, expires_at=NOW),
}


@pytest.mark.parametrize(
    ("fleet_secret", "required", "serves"), [(None, False, True), (None, True, False), ("fleet-12", False, False)]
)
def test_the_bare_path_serves_where_no_secret_is_asked_for(fleet_secret, required, serves):
    """A fleet's secret asks for one."""
    guard = PathGuard(fleet_secret, required=required)
    if serves:
        guard.check_bare()
    else:
        with pytest.raises(PathUnknown, match="takes a secret"):
            guard.check_bare()


def test_a_secret_in_force_is_let_in():
    """The fleet's speaks for any node, a minted one for what it was minted for."""
    guard = PathGuard("fleet-12", required=False)
    assert guard.admit("fleet-12", MINTED, NOW) is None
    assert guard.admit("of-all-1", MINTED, NOW) is FOR_ALL
    assert guard.admit("of-one-1", MINTED, NOW) is FOR_ONE
    assert PathGuard(None, required=False).admit("of-all-1", MINTED, NOW) is FOR_ALL


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("revoked1", PathRefused, "was revoked"),
        ("expired1", PathRefused, "expired at 2026-01-01 00:00 UTC"),
        ("guessed1", PathUnknown, "no such path secret"),
    ],
)
def test_a_secret_out_of_force_is_told_so(given, error, words):
    """One that never was is not found."""
    guard = PathGuard(None, required=True)
    with pytest.raises(error, match=words):
        guard.admit(given, MINTED, NOW)


def test_a_secret_expires_by_itself():
    """From that moment on."""
    guard = PathGuard(None, required=True)
    assert guard.admit("of-one-1", MINTED, NOW + timedelta(hours=23)) is FOR_ONE
    with pytest.raises(PathRefused, match="expired"):
        guard.admit("of-one-1", MINTED, NOW + timedelta(days=1))


def test_a_secret_serves_its_own_machine_and_application():
    """An application that is unknown gets its own answer later."""
    check_machine(FOR_ALL, FLATCAR, "m2")
    check_machine(FOR_ONE, FLATCAR, "m1")
    check_machine(FOR_ALL, None, "m1")
    with pytest.raises(PathRefused, match="another machine"):
        check_machine(FOR_ONE, FLATCAR, "m2")
    with pytest.raises(PathRefused, match="another application"):
        check_machine(FOR_ALL, OTHER, "m1")
