"""Why a payload is not given out, as problems; the codes are those of `RefusalCode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.distribution.access import RefusalCode, Refused
from shared.errors import NotPermitted, UneventfulError


class PayloadHalted(NotPermitted):  # as in shared.errors
    """The changeset is halted."""

    code = RefusalCode.HALTED.value
    title = "Halted"


class PayloadSuspended(NotPermitted):
    """The payload or its changeset is in doubt."""

    code = RefusalCode.SUSPENDED.value
    title = "Suspended"


class PayloadWithdrawn(NotPermitted):
    """The changeset is taken back for good."""

    code = RefusalCode.WITHDRAWN.value
    title = "Withdrawn"


class OfferRecalled(NotPermitted):
    """The offer that the token belongs to is taken back."""

    code = RefusalCode.RECALLED.value
    title = "Recalled"


class TokenUnknown(NotPermitted):
    """No attempt has this token for this payload."""

    code = RefusalCode.TOKEN_UNKNOWN.value
    title = "Token unknown"


class DigestMismatch(UneventfulError):  # noqa: N818
    """The bytes that came do not have the digest in the address."""

    code = "digest_mismatch"
    status = 422
    title = "Digest mismatch"


_BY_CODE: Final[Mapping[RefusalCode, type[NotPermitted]]] = {
    RefusalCode.HALTED: PayloadHalted,
    RefusalCode.SUSPENDED: PayloadSuspended,
    RefusalCode.WITHDRAWN: PayloadWithdrawn,
    RefusalCode.RECALLED: OfferRecalled,
    RefusalCode.TOKEN_UNKNOWN: TokenUnknown,
}


def problem_of(refusal: Refused) -> NotPermitted:
    """The error that tells a peer of a refusal."""
    return _BY_CODE[refusal.code](f"{refusal.code.value}: {refusal.reason}", details={"reason": refusal.reason})
