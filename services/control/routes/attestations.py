"""Attestations: results of release tests; and the testers whose signatures are believed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from aiohttp import hdrs, web

from services.control import attestation, requests
from services.control.attestation import Result
from services.control.routes.route import (
    API,
    STORE,
    Route,
    Scope,
    by,
    get,
    key_id,
    made,
    path_id,
    post,
    query,
)
from services.control.store.attestations import Report
from shared.domain.manifest import Signature
from shared.errors import InvalidInput, UnsupportedType
from shared.web import Role, decode_json, json_response, read_body, read_json

SIGNATURE_HEADER: Final = "Uneventful-Signature"
_READERS: Final[dict[str, Callable[[bytes], Sequence[Result]]]] = {
    "application/xml": attestation.read_junit,
    "text/xml": attestation.read_junit,
    "text/tap": attestation.read_tap,
    "application/x-tap": attestation.read_tap,
}


async def add_attestation(request: web.Request) -> web.Response:
    """POST /changesets/{id}/attestations; JSON, or a report in JUnit XML or TAP with ``?name=``."""
    changeset_id = path_id(request, "changeset")
    asked = query(request, requests.AttestationQuery)
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "application/json").partition(";")[0].strip().lower()
    body = await read_body(request, max_bytes=attestation.MAX_REPORT_BYTES)
    signature = _signature(request.headers.get(SIGNATURE_HEADER))
    if media_type == "application/json":
        report = _from_json(body, asked, signature)
    elif media_type in _READERS:
        if asked.name is None:
            raise InvalidInput("say which test this is the report of: ?name=kubernetes")
        # A large report takes a while to read; others are not to wait for it.
        results = await asyncio.to_thread(_READERS[media_type], body)
        report = Report(
            name=asked.name,
            verdict=attestation.verdict_of(results),
            summary=attestation.summary_of(results),
            sha256=hashlib.sha256(body).hexdigest(),
            results=results,
            link=asked.link,
            signature=signature,
        )
    else:
        raise UnsupportedType(
            f"send the report as application/json, application/xml (JUnit) or text/tap, not {media_type[:100]!r}"
        )
    return json_response(await request.app[STORE].attestations.add(changeset_id, report, by=by(request)), status=201)


def _from_json(body: bytes, asked: requests.AttestationQuery, signature: Signature | None) -> Report:
    given = decode_json(body, requests.NewAttestation)
    if asked.name not in (None, given.name):
        raise InvalidInput(f"the report is of {given.name!r} and the query says {asked.name!r}: say the same")
    results = [
        Result(name=result.name, verdict=result.verdict, seconds=result.seconds, message=result.message)
        for result in given.results
    ]
    verdict = attestation.verdict_of(results) if results else given.verdict
    if verdict is None:
        raise InvalidInput("the report has neither results nor a verdict: give one of them")
    if given.verdict not in (None, verdict):
        raise InvalidInput(f"the report says {given.verdict}, but its results say {verdict}: leave the verdict out")
    return Report(
        name=given.name,
        verdict=verdict,
        summary=given.summary or (attestation.summary_of(results) if results else ""),
        sha256=hashlib.sha256(body).hexdigest(),
        results=results,
        link=given.link or asked.link,
        artefact_sha256=given.artefact_sha256,
        signature=signature,
    )


def _signature(header: str | None) -> Signature | None:
    if header is None:
        return None
    signer, _, signature = header.strip().partition(":")
    try:
        return msgspec.convert({"key_id": signer, "signature": signature}, Signature)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"{SIGNATURE_HEADER} is not KEY_ID:BASE64 of an Ed25519 signature: {fault}") from fault


async def list_attestations(request: web.Request) -> web.Response:
    """GET /changesets/{id}/attestations."""
    changeset_id = path_id(request, "changeset")
    asked = query(request, requests.HistoryQuery)
    store = request.app[STORE]
    await store.changesets.get(changeset_id)
    return json_response({"items": await store.attestations.listing(changeset_id, asked.limit), "next": None})


async def list_attesters(request: web.Request) -> web.Response:
    """GET /attesters."""
    return json_response({"items": await request.app[STORE].keys.attesters(), "next": None})


async def trust(request: web.Request) -> web.Response:
    """POST /attesters."""
    return made(await request.app[STORE].keys.trust(await read_json(request, requests.NewAttester), by=by(request)))


async def distrust(request: web.Request) -> web.Response:
    """POST /attesters/{key}/distrust."""
    asked = await read_json(request, requests.Because)
    return json_response(await request.app[STORE].keys.distrust(key_id(request), reason=asked.reason, by=by(request)))


ROUTES: Final = (
    get(
        "/changesets/{id}/attestations",
        list_attestations,
        "[Attestation]",
        "The results of release tests, the newest first; the last one of each name counts.",
        requests.HistoryQuery,
    ),
    Route(
        method="POST",
        path=f"{API}/changesets/{{id}}/attestations",
        handler=add_attestation,
        answer="Attestation",
        summary="Attach the result of a release test: JSON, or JUnit XML or TAP with `name` in the query; signed by "
        f"a tester where the header {SIGNATURE_HEADER} says so.",
        body=requests.NewAttestation,
        query=requests.AttestationQuery,
        created=True,
        reports=tuple(_READERS),
        max_body_bytes=attestation.MAX_REPORT_BYTES,
    ),
    get(
        "/attesters",
        list_attesters,
        "[Attester]",
        "The testers whose signatures are believed, or were.",
        scope=Scope.ANYBODY,
    ),
    post(
        "/attesters",
        trust,
        "Attester",
        "Trust a tester's key.",
        requests.NewAttester,
        created=True,
        role=Role.ADMIN,
    ),
    post(
        "/attesters/{key}/distrust",
        distrust,
        "Attester",
        "Trust a tester's key no longer.",
        requests.Because,
        role=Role.ADMIN,
    ),
)
