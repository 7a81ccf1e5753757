"""What an Omaha event says about an update."""

from __future__ import annotations

import enum

from shared.omaha.errorcodes import ErrorCode, base_code
from shared.omaha.request import Event

_NO_PREVIOUS_VERSION = frozenset({"", "0.0.0.0"})
_DEFERRALS = frozenset(
    {
        ErrorCode.OMAHA_UPDATE_IGNORED_PER_POLICY,
        ErrorCode.OMAHA_UPDATE_DEFERRED_PER_POLICY,
        ErrorCode.OMAHA_UPDATE_DEFERRED_FOR_BACKOFF,
    }
)
_TYPE_UNKNOWN = 0
_TYPE_UPDATE_COMPLETE = 3
_RESULT_ERROR = 0
_RESULT_DEFERRED = 9


class EventMeaning(enum.StrEnum):
    """What an event says, whatever numbers it said it with."""

    DOWNLOAD_STARTED = "download_started"
    DOWNLOADED = "downloaded"
    STAGED = "staged"
    UPDATED = "updated"
    NO_NEWS = "no_news"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    DEFERRED = "deferred"
    INSTALLED_OTHER = "installed_other"
    UNKNOWN = "unknown"


_SUCCESSES: dict[tuple[int, int], EventMeaning] = {
    (13, 1): EventMeaning.DOWNLOAD_STARTED,
    (14, 1): EventMeaning.DOWNLOADED,
    (3, 1): EventMeaning.STAGED,
    # Declared by update_engine and never sent by it; other updaters send them, 800 is Nebraska's own.
    (1, 1): EventMeaning.INSTALLED_OTHER,
    (2, 1): EventMeaning.INSTALLED_OTHER,
    (6, 1): EventMeaning.INSTALLED_OTHER,
    (800, 1): EventMeaning.INSTALLED_OTHER,
}


def event_meaning(event: Event) -> EventMeaning:
    """What an event says; total, so every event means something, if only ``UNKNOWN``.

    Every update check of update_engine carries a 3/2: it is news only with a real previous version, for that is the
    first check after a successful update and reboot. ``ROLLED_BACK`` is the client's word; whether the boot id changed
    is for the caller to compare, since a marker that was reset before the reboot says the same.
    """
    event_type = event.eventtype
    result = event.eventresult
    if event_type == _TYPE_UPDATE_COMPLETE and result == 2:
        return EventMeaning.NO_NEWS if event.previousversion.strip() in _NO_PREVIOUS_VERSION else EventMeaning.UPDATED
    success = _SUCCESSES.get((event_type, result))
    if success is not None:
        return success
    base = None if event.errorcode is None else base_code(event.errorcode)
    if event_type == _TYPE_UPDATE_COMPLETE and result == _RESULT_DEFERRED:
        return EventMeaning.DEFERRED
    if event_type == _TYPE_UNKNOWN or result not in {_RESULT_ERROR, _RESULT_DEFERRED}:
        return EventMeaning.UNKNOWN
    if base in _DEFERRALS:
        return EventMeaning.DEFERRED
    if result != _RESULT_ERROR:
        return EventMeaning.UNKNOWN
    if event_type == _TYPE_UPDATE_COMPLETE and base == ErrorCode.ROLLBACK_ERROR:
        return EventMeaning.ROLLED_BACK
    return EventMeaning.FAILED
