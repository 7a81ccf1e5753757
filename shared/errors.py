"""The tree of errors that Uneventful raises on purpose.

Every class has a bounded ``code`` (for machines: metrics labels, RFC 9457 problem types), an HTTP ``status`` and a
``title``; the message is for people and says what to do.
"""

# ruff: noqa: N818  # the names say what is wrong; a suffix would add nothing at the raise
from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

_NO_DETAILS: Mapping[str, object] = MappingProxyType({})


class UneventfulError(Exception):
    """The root: whatever Uneventful raises on purpose is one of these.

    Args:
        message: What is wrong and what to do about it; shown to the caller, so it holds no secrets.
        details: Members added to the problem body; JSON values only.
        retry_after_s: Seconds after which trying again may help; becomes ``Retry-After``.
    """

    code: ClassVar[str] = "fault"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal fault"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = _NO_DETAILS if details is None else details
        self.retry_after_s = retry_after_s


class InvalidInput(UneventfulError):
    """What was sent does not have the form or the values that are asked for."""

    code = "invalid_input"
    status = 400
    title = "Invalid input"


class NotAuthenticated(UneventfulError):
    """No valid credentials came with the request."""

    code = "not_authenticated"
    status = 401
    title = "Not authenticated"


class NotPermitted(UneventfulError):
    """Who asks is known, and may not do this; or what is asked for may not be given out now."""

    code = "not_permitted"
    status = 403
    title = "Not permitted"


class NotFound(UneventfulError):
    """There is no such thing."""

    code = "not_found"
    status = 404
    title = "Not found"


class MethodNotAllowed(UneventfulError):
    """The thing is there, but not for this method."""

    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"


class NotAcceptable(UneventfulError):
    """The client takes no media type in which the answer can be given."""

    code = "not_acceptable"
    status = 406
    title = "Not acceptable"


class Conflict(UneventfulError):
    """What is asked for does not fit the present state; look again, then decide."""

    code = "conflict"
    status = 409
    title = "Conflict"


class Gone(UneventfulError):
    """It was there and will not come back."""

    code = "gone"
    status = 410
    title = "Gone"


class PreconditionFailed(UneventfulError):
    """It has changed since the caller looked (RFC 9110 13.1)."""

    code = "precondition_failed"
    status = 412
    title = "Precondition failed"


class Unprocessable(UneventfulError):
    """It is well-formed, and contradicts what the caller said before."""

    code = "unprocessable"
    status = 422
    title = "Unprocessable"


class TooLarge(UneventfulError):
    """What was sent is larger than the limit."""

    code = "too_large"
    status = 413
    title = "Too large"


class UnsupportedType(UneventfulError):
    """The body's media type or content coding is not one that is read here."""

    code = "unsupported_type"
    status = 415
    title = "Unsupported type"


class RangeUnsatisfiable(UneventfulError):
    """No byte of the representation is in the range asked for (RFC 9110 15.5.17)."""

    code = "range_unsatisfiable"
    status = 416
    title = "Range not satisfiable"


class TooSlow(UneventfulError):
    """The request did not arrive in the time given to it."""

    code = "too_slow"
    status = 408
    title = "Request timeout"


class TooMany(UneventfulError):
    """The caller asks more often than it may."""

    code = "too_many"
    status = 429
    title = "Too many requests"


class Unavailable(UneventfulError):
    """It cannot be done now and probably can later; ``retry_after_s`` says when to try."""

    code = "unavailable"
    status = 503
    title = "Unavailable"


class Fault(UneventfulError):
    """A rule of our own was broken: a bug, or somebody else's hand in our data."""

    code = "fault"
    status = 500
    title = "Internal fault"


class SettingsInvalid(UneventfulError):
    """The environment does not hold usable settings.

    Args:
        faults: One line per fault, each beginning with the variable's name.
    """

    code = "settings_invalid"
    title = "Settings invalid"

    def __init__(self, faults: tuple[str, ...]) -> None:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(f"the settings are not usable:\n{lines}", details={"faults": list(faults)})
        self.faults = faults


class QueriesInvalid(UneventfulError):
    """A file of named queries cannot be read."""

    code = "queries_invalid"
    title = "Queries invalid"


class MigrationFailed(UneventfulError):
    """A migration cannot be planned or did not run; the message names the file."""

    code = "migration_failed"
    title = "Migration failed"


class SchemaMismatch(UneventfulError):
    """The database's schema is too old or too new for this code."""

    code = "schema_mismatch"
    status = 503
    title = "Schema mismatch"


class BackupDamaged(UneventfulError):
    """A backup is not whole, or not what its manifest says."""

    code = "backup_damaged"
    title = "Backup damaged"


class LedgerBroken(UneventfulError):
    """The ledger has a gap, or its chain of hashes does not verify."""

    code = "ledger_broken"
    title = "Ledger broken"


class EventInvalid(InvalidInput):
    """An event is of no registered type, or does not have its type's form."""

    code = "event_invalid"
    title = "Event invalid"
