"""The pure rules of control: completion, standstill, publishing, policies, tokens, and the description of the API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

import services.control
from services.control import answers, completion, publishing, requests, tokens
from services.control.app import make_app
from services.control.auth import MAX_REMEMBERED, TokenCheck
from services.control.description import describe_api
from services.control.routes import ROUTES
from services.control.settings import Settings
from services.control.standstill import EXPLANATIONS, Situation, Standstill, standstill
from services.control.tokens import KnownToken, Role
from shared.errors import Conflict, Fault, InvalidInput
from shared.settings import Secret
from shared.testing.clock import ManualClock

flags = st.booleans()


@given(flags, flags, flags, flags)
def test_a_rollout_with_anything_left_is_never_complete(left, in_flight, committed, on_target):
    """It is complete only when nobody is left, nobody is on the way, and somebody has it."""
    complete = completion.is_complete(
        completion.Remainder(left=left, in_flight=in_flight, committed=committed, on_target=on_target)
    )
    assert complete == (not left and not in_flight and (committed or on_target))


@given(st.floats(0, 100), st.floats(0.05, 60))
def test_looking_for_completion_takes_a_bounded_share_of_the_time(took_s, at_least_s):
    """A slow look is followed by a long pause."""
    pause = completion.pause_s(took_s=took_s, at_least_s=at_least_s)
    assert pause >= at_least_s
    assert took_s <= 0.05 * (pause + took_s)


MOVING = Situation(
    everything_open=True,
    gate_state="open",
    braked=False,
    rollout_state="running",
    updates_enabled=True,
    window_open=True,
    nodes=10,
    left=5,
    wave_left=3,
    in_flight=1,
    pace=10,
    group_in_flight=1,
    group_pace=2,
)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, None),
        ({"everything_open": False}, Standstill.HALTED_EVERYWHERE),
        ({"gate_state": "halted"}, Standstill.CHANGESET_HALTED),
        ({"gate_state": "suspended"}, Standstill.CHANGESET_SUSPENDED),
        ({"gate_state": "withdrawn"}, Standstill.CHANGESET_WITHDRAWN),
        ({"rollout_state": "created"}, Standstill.ROLLOUT_CREATED),
        ({"rollout_state": "paused"}, Standstill.ROLLOUT_PAUSED),
        ({"rollout_state": "halted"}, Standstill.ROLLOUT_HALTED),
        ({"rollout_state": "completed", "everything_open": False}, Standstill.ROLLOUT_COMPLETED),
        ({"rollout_state": "aborted"}, Standstill.ROLLOUT_ABORTED),
        ({"rollout_state": "superseded", "gate_state": "halted"}, Standstill.ROLLOUT_SUPERSEDED),
        ({"braked": True}, Standstill.BRAKED),
        ({"updates_enabled": False}, Standstill.UPDATES_DISABLED),
        ({"rollout_state": "waiting_for_gate"}, Standstill.ROLLOUT_WAITING_FOR_GATE),
        ({"rollout_state": "waiting_for_approval"}, Standstill.ROLLOUT_WAITING_FOR_APPROVAL),
        ({"rollout_state": "scheduled"}, Standstill.ROLLOUT_SCHEDULED),
        ({"window_open": False}, Standstill.WINDOW_SHUT),
        ({"nodes": 0, "left": 0}, Standstill.NO_NODES),
        ({"wave_left": 0}, Standstill.WAVE_DONE),
        ({"left": 0}, Standstill.NO_NODE_LEFT),
        ({"in_flight": 10}, Standstill.PACE_OF_CHANGESET),
        ({"group_in_flight": 2}, Standstill.PACE_OF_GROUP),
    ],
)
def test_why_nothing_happens(change, word):
    """One word, the first that holds, and a sentence for each that says what to do."""
    assert standstill(replace(MOVING, **change)) is word
    assert set(EXPLANATIONS) == set(Standstill)


def _part(position: int, role: str = "main") -> publishing.Part:
    return publishing.Part(position=position, role=role, name=f"file-{position}")


@pytest.mark.parametrize("parts", [[], [_part(0, "extra")], [_part(1)], [_part(0), _part(1)]])
def test_what_a_node_could_not_take_is_not_published(parts):
    """Without exactly one main payload, and that first, a changeset stays a draft."""
    with pytest.raises(Conflict):
        publishing.check_publishable(parts)


def test_a_main_payload_with_extras_is_publishable():
    """Extras may follow in any number."""
    publishing.check_publishable([_part(0), _part(1, "extra"), _part(2, "extra")])


def test_a_policy_patch_replaces_and_takes_back():
    """Values replace values, null takes a name out; the rest stays."""
    stored = {"max_attempts": 2, "hold_budget": 3}
    assert publishing.merge_policy(stored, {"max_attempts": None, "concurrency": 9}) == {
        "hold_budget": 3,
        "concurrency": 9,
    }
    assert stored == {"max_attempts": 2, "hold_budget": 3}


@pytest.mark.parametrize(
    "patch", [{"nonsense": None}, {"hold_budget": 0}, {"poll_interval_s": "often"}, {"silence_deadline_s": 60}]
)
def test_a_policy_that_is_not_usable_is_refused(patch):
    """Unknown names and values out of range, deadlines that no node can keep included."""
    with pytest.raises(InvalidInput):
        publishing.merge_policy({}, patch)


def test_tokens_are_long_random_and_kept_as_hashes():
    """Every token is new, of one form, and its hash does not show it."""
    made = {tokens.make_token() for _ in range(50)}
    assert len(made) == 50
    for token in made:
        assert tokens.is_token(token)
        assert len(tokens.token_hash(token)) == 32
    for other in ("", "une_", "une_" + "x" * 42, "une_" + "x" * 44, "une_" + "\N{GREEK SMALL LETTER ALPHA}" * 43):
        assert not tokens.is_token(other)


async def test_a_token_is_looked_up_once_in_a_while():
    """Valid tokens are remembered for seconds, invalid ones never, and not without end."""
    clock = ManualClock()
    asked: list[bytes] = []
    valid: dict[bytes, KnownToken] = {}

    async def lookup(hashed: bytes) -> KnownToken | None:
        asked.append(hashed)
        return valid.get(hashed)

    check = TokenCheck(lookup, clock=clock, remember_s=3)
    token = tokens.make_token()
    assert await check.verify("nonsense") is None
    assert asked == []
    assert await check.verify(token) is None
    valid[tokens.token_hash(token)] = KnownToken(name="op", role=Role.VIEWER)
    for _ in range(3):
        principal = await check.verify(token)
        assert principal is not None
        assert (principal.name, principal.role) == ("op", "viewer")
    assert len(asked) == 2
    del valid[tokens.token_hash(token)]
    clock.advance(3)
    assert await check.verify(token) is None
    for _ in range(MAX_REMEMBERED + 5):
        more = tokens.make_token()
        valid[tokens.token_hash(more)] = KnownToken(name="op", role=Role.ADMIN)
        await check.verify(more)
    assert len(check._known) == MAX_REMEMBERED


def _described() -> dict:
    return yaml.safe_load(Path(services.control.__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))


def test_the_description_is_that_of_the_code():
    """openapi.yaml is what the code says; after a change run `python -m services.control.description`."""
    assert _described() == msgspec.to_builtins(describe_api())


def test_every_route_is_described_and_every_described_route_is_there():
    """Both ways: the application's own router against openapi.yaml."""
    app = make_app(Settings(database_url=Secret("postgresql://nowhere/x")))
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(method.upper(), path) for path, operations in _described()["paths"].items() for method in operations}
    assert served == described
    assert len(ROUTES) == len(served)


def test_an_answer_has_one_definition():
    """Two nouns that describe an answer of one name are refused, for one would silently win."""
    assert answers.merge({"A": {}}, {"B": {}}) == {"A": {}, "B": {}}
    with pytest.raises(Fault, match="answer A is defined twice"):
        answers.merge({"A": {}}, {"B": {}, "A": {}})


def test_the_description_is_whole():
    """Every reference leads somewhere, every operation has a name of its own and says what it answers."""
    description = _described()

    def references(value):
        if isinstance(value, dict):
            for name, inner in value.items():
                if name == "$ref":
                    yield inner
                else:
                    yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for reference in references(description):
        place = description
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"].endswith(".") for operation in operations)
    assert all("200" in operation["responses"] for operation in operations)


@given(st.text(max_size=70))
def test_names_never_hold_what_breaks_urls_tables_or_logs(text):
    """A name that is let in is one line of plain characters."""
    try:
        name = msgspec.convert(text, requests.Name)
    except msgspec.ValidationError:
        return
    assert name.isascii()
    assert name.isprintable()
    assert 1 <= len(name) <= 64
    assert not set(name) & set("/?#%\\\"'<>")


def test_handlers_are_plain_functions():
    """The table of routes can be registered as it is."""
    assert all(isinstance(web.route(route.method, route.path, route.handler), web.RouteDef) for route in ROUTES)
