"""Bodies and queries about attestations and testers."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.control.attestation import MAX_RESULTS, AttestedVerdict
from services.control.requests.fields import Link, Name, Reason, Request, Sha256, TestName, Text


class AttestedResult(Request, frozen=True, kw_only=True):
    """One test of a report; ``seconds`` is how long it took."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
    verdict: AttestedVerdict
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    message: Annotated[str, msgspec.Meta(max_length=500, pattern=r"^[^\x00]*\Z")] | None = None


class NewAttestation(Request, frozen=True, kw_only=True):
    """The result of a release test, as JSON. The verdict follows from the results where there are any."""

    name: TestName
    verdict: AttestedVerdict | None = None
    summary: Text = ""
    link: Link | None = None
    artefact_sha256: Sha256 | None = None
    results: Annotated[tuple[AttestedResult, ...], msgspec.Meta(max_length=MAX_RESULTS)] = ()


class AttestationQuery(Request, frozen=True, kw_only=True):
    """What a report that is XML or TAP does not say itself."""

    name: TestName | None = None
    link: Link | None = None


class NewAttester(Request, frozen=True, kw_only=True):
    """Trusts a tester's Ed25519 key, given as PEM."""

    name: Name
    public_key: Annotated[str, msgspec.Meta(max_length=2_000)]
    reason: Reason
