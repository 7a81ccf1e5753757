"""The contract, both ways: what openapi.yaml has is there, and what is there keeps to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    load_all_checks,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup

from services.control.reference import page
from services.control.routes import PUBLIC_PATHS
from tests.integration.control.contract import check, document

load_all_checks()
EXAMPLES = {GenerationMode.POSITIVE: 5, GenerationMode.NEGATIVE: 2}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
async def things(operator, app, fleet) -> dict[str, str]:
    """One of everything, so that what is generated finds something: ids by the noun of their path."""
    channel_id, group_id = await operator.channel(), await operator.group(policy={"four_eyes": ["resume"]})
    changeset_id = await operator.changeset("2.0.0")
    (rollout_id,) = await operator.promote(channel_id, changeset_id)
    node_id = await fleet.node("m1", group_id, "1.0.0", facts={"oem": "azure"})
    await fleet.attempt(node_id, rollout_id)
    await fleet.quarantine(node_id, changeset_id)
    await operator.post(f"/changesets/{changeset_id}/halt", {"reason": "bad"})
    asked = await operator.ask("POST", f"/changesets/{changeset_id}/resume", {"reason": "good"})
    await operator.post("/tokens", {"name": "ci", "role": "viewer"})
    return {
        "applications": app["application_id"],
        "approvals": asked.body["approval_id"],
        "changesets": changeset_id,
        "channels": channel_id,
        "groups": group_id,
        "nodes": str(node_id),
        "rollouts": rollout_id,
        "tokens": "ci",
    }


def explore(operation: Any, mode: GenerationMode, url: str, token: str, things: Mapping[str, str]) -> None:
    """Send generated requests of one operation; the answers must be such as openapi.yaml has."""
    noun = operation.path.removeprefix("/api/v1/").partition("/")[0]

    @seed(20_260_301)
    @settings(
        max_examples=EXAMPLES[mode],
        deadline=10_000,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def sends(case: Any, known: bool) -> None:
        if known and noun in things:
            for name in case.path_parameters or {}:
                case.path_parameters[name] = things[noun]
        if operation.path.endswith("/stream"):
            _soon_over(case.query)
        answer = case.call(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        case.validate_response(answer, checks=CHECKS)

    sends()


def _soon_over(query: dict[str, Any]) -> None:
    """A stream lasts for as long as it was asked for, a minute by itself: let it be a moment, unless that is wrong."""
    try:
        lasts = 0 < float(query.get("seconds", 60)) <= 3_600
    except (TypeError, ValueError):
        return
    if lasts:
        query["seconds"] = 0.05


@pytest.mark.timeout(300)  # about 30 s on an idle machine, for well over a hundred operations
@pytest.mark.parametrize("mode", list(EXAMPLES), ids=lambda mode: mode.value)
async def test_whatever_is_sent_the_answer_keeps_to_the_contract(control, things, mode):
    """Requests made from openapi.yaml, well-formed and not, to every operation: no fault, and no answer it has not."""
    schema = schemathesis.openapi.from_dict(document())
    faults: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in PUBLIC_PATHS and mode is GenerationMode.NEGATIVE:
            continue  # they take nothing, so nothing can be wrong
        try:
            await asyncio.to_thread(explore, operation, mode, control.url, control.token, things)
        except (Exception, FailureGroup) as fault:  # noqa: BLE001  # all of them are told at the end
            faults.append(f"{operation.method.upper()} {operation.path}: {fault}")
    assert not faults, "\n\n".join(faults)


async def test_the_reference_is_a_page_for_everybody(operator, session):
    """Without a token, script or anything from elsewhere; every operation is on it and linked."""
    async with session.get(f"{operator.url}/api/v1/") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        check("GET", "/api/v1/", answer.status, answer.headers["Content-Type"], None)
        text = await answer.text()
    assert text.encode() == page()
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            assert text.count(f"id='op-{operation['operationId']}'") == 1
            assert f"href='#op-{operation['operationId']}'" in text
            assert f"{method.upper()}</span> <code>{path}</code>" in text
    for name in document()["components"]["schemas"]:
        assert f"id='schema-{name}'" in text
    assert "<script" not in text
    assert "http" not in text.replace("<code>http", "")
