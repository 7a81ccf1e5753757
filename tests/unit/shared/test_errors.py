"""The tree of errors: codes that machines can rely on."""

from __future__ import annotations

import re

import pytest

from shared import errors
from shared.errors import SettingsInvalid, Unavailable, UneventfulError


def all_kinds():
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UneventfulError)]


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_a_title_and_an_error_status(kind):
    """Codes are short lower-case words; statuses are those of HTTP errors; every class says what it is for."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert kind.title
    assert 400 <= kind.status <= 599
    assert kind.__doc__


def test_codes_are_distinct():
    """No two classes share a code, so that a code names one class; the root shares the fault's."""
    codes = [kind.code for kind in all_kinds() if kind is not UneventfulError]

    assert len(codes) == len(set(codes))


def test_an_error_keeps_what_it_was_given():
    """The message is its text; details and the time to retry are kept beside it."""
    error = Unavailable("the buffer is full", details={"waiting": 3}, retry_after_s=2.5)

    assert str(error) == error.message == "the buffer is full"
    assert error.details == {"waiting": 3}
    assert error.retry_after_s == 2.5


def test_details_are_empty_where_none_were_given():
    """Nobody has to look for None."""
    assert dict(Unavailable("x").details) == {}


def test_invalid_settings_list_every_fault():
    """Each fault has a line of its own."""
    error = SettingsInvalid(("A is missing", "B is 3"))

    assert str(error).splitlines()[1:] == ["  - A is missing", "  - B is 3"]
    assert error.faults == ("A is missing", "B is 3")
