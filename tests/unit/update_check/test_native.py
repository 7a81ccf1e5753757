"""The native check: what is read, whose group it is, when an attempt is off; and its description."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import services.update_check
from services.update_check.app import make_app
from services.update_check.configuration import ApplicationView, Configuration, GroupView
from services.update_check.description import describe_api, main
from services.update_check.native import (
    AttemptStanding,
    Check,
    Payload,
    poll_of,
    recall_of,
    with_urls,
)
from services.update_check.poll import contact_of
from services.update_check.settings import Settings
from shared.domain.observation import ObservationSource
from shared.errors import InvalidInput
from shared.events.types import NodeEnrolled
from shared.settings import Secret

CHECK = Check(
    application="flatcar", machine_id="m1", boot_id="b1", version="1.0.0", arch="amd64", facts={"site": "fra1"}
)


def group(number: int, name: str, **selector: tuple[str, ...]) -> GroupView:
    return GroupView(uuid.UUID(int=number), name, selector, updates_enabled=True, poll_interval_s=300, rollouts={})


FRANKFURT, OTHERS = group(2, "frankfurt", site=("fra1",)), group(3, "others")
FLATCAR = ApplicationView(uuid.UUID(int=1), "flatcar", "omaha-id", (FRANKFURT, OTHERS), ("site",))
CONFIGURATION = Configuration.of(1, [FLATCAR], is_open=True)


def poll(check: Check = CHECK, **more):
    return poll_of(
        check,
        FLATCAR,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        address="192.0.2.7",
        traceparent=None,
        **{"group_id": None} | more,
    )


def test_a_check_says_who_where_and_in_which_boot():
    """Its arch is a fact too, whatever its facts say; what it tells wins over what was imported."""
    told = poll(msgspec.structs.replace(CHECK, facts={"site": "fra1", "arch": "made up"}), imported={"rack": "r1"})
    assert told.source is ObservationSource.NATIVE
    assert (told.key, told.version, told.boot_id, told.arch) == ((FLATCAR.application_id, "m1"), "1.0.0", "b1", "amd64")
    assert told.facts() == {"site": "fra1", "arch": "amd64"}
    assert [told.fact(name) for name in ("site", "rack", "version", "model")] == ["fra1", "r1", "1.0.0", None]
    assert told.group is FRANKFURT
    assert told.asks


words = st.text(st.characters(exclude_categories=("Cs",)), max_size=140)


@settings(deadline=None)
@given(
    said=st.fixed_dictionaries(dict.fromkeys(("machine_id", "boot_id", "version", "arch"), words)),
    facts=st.dictionaries(words, words, max_size=3),
)
def test_whatever_a_node_says_fits_its_events(said, facts):
    """An event that followers cannot read would stop them all."""
    try:
        check = msgspec.convert({**said, "application": "flatcar", "facts": facts}, Check)
    except msgspec.ValidationError:
        return
    contact = contact_of(poll(check), uuid.UUID(int=5))
    msgspec.convert(
        {
            "node_id": str(contact.node_id),
            "machine_id": contact.machine_id,
            "application_id": str(contact.application_id),
            "version": contact.version,
            "boot_id": contact.boot_id,
            "facts": contact.facts,
            "arch": contact.arch,
        },
        NodeEnrolled,
    )


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000", "\\n"])
def test_what_no_column_holds_is_refused(text):
    """Half a surrogate pair, NUL, a line feed in an id."""
    body = b'{"application":"a","machine_id":"m%b","boot_id":"b","version":"1","arch":"x"}' % text.encode()
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(body, type=Check)


def test_a_token_puts_a_node_into_its_group():
    """Whatever its facts say; where that group is gone, they decide again."""
    assert poll(group_id=OTHERS.group_id).group is OTHERS
    assert poll(group_id=uuid.UUID(int=99)).group is FRANKFURT


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("flatcar", FLATCAR),
        (str(FLATCAR.application_id), FLATCAR),
        ("{" + str(FLATCAR.application_id).upper() + "}", FLATCAR),
        ("OMAHA-ID", FLATCAR),
        ("nobody", None),
        (str(uuid.UUID(int=9)), None),
    ],
)
def test_an_application_is_found_by_its_id_its_omaha_id_or_its_name(reference, found):
    """In capitals and braces too, as Omaha has them."""
    assert CONFIGURATION.application(reference) is found


STANDING = AttemptStanding("staged", None, "open", None, open=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"state": "committed"}, None),
        ({"gate_state": "suspended"}, None),
        ({"state": "recalled"}, "the offer was taken back"),
        ({"state": "recalled", "reason": "rollout aborted"}, "rollout aborted"),
        ({"gate_state": "halted", "gate_reason": "4 of 9 rolled back"}, "4 of 9 rolled back"),
        ({"gate_state": "withdrawn"}, "the changeset is withdrawn"),
        ({"open": False}, "everything is halted"),
        ({"aborted": True}, "the rollout was aborted"),
        ({"excluded": True}, "the node was excluded from the rollout"),
        ({"held": True}, "the changeset is held for nodes like this one"),
        ({"state": "probation", "open": False}, "everything is halted"),
        ({"state": "probation", "aborted": True, "excluded": True, "held": True}, None),
    ],
)
def test_what_was_stopped_is_called_off(changes, reason):
    """A payload in doubt stops downloads; what is staged was verified."""
    assert recall_of(dataclasses.replace(STANDING, **changes)) == reason


def test_an_attempt_that_is_not_there_is_called_off():
    """A node that tells of another one's, or of one that was removed."""
    assert recall_of(None) == "there is no such attempt of this node"


def test_all_files_are_under_the_main_ones_digest():
    """As distribution finds them; without a file there is nothing to offer."""
    files = tuple(Payload(name=name, role="main", required=True, sha256=name * 64, size=1) for name in "ab")
    assert [file.urls for file in with_urls(files, "http://dist/", "t")] == [
        ("http://dist/payloads/" + "a" * 64 + "/t/a",),
        ("http://dist/payloads/" + "a" * 64 + "/t/b",),
    ]
    with pytest.raises(InvalidInput):
        with_urls((), "http://dist/", "t")


def _described() -> dict:
    return yaml.safe_load(Path(services.update_check.__file__).with_name("openapi.yaml").read_text(encoding="utf-8"))


def test_the_description_is_that_of_the_code():
    """After a change run `python -m services.update_check.description > services/update_check/openapi.yaml`."""
    assert _described() == msgspec.to_builtins(describe_api())


def test_what_is_printed_is_the_file(capsys):
    """So the command that the test above names mends it."""
    main()
    assert yaml.safe_load(capsys.readouterr().out) == _described()


def test_every_json_route_is_described_and_every_described_route_is_there():
    """Omaha's own routes are XML, and none of HTTP's methods is served beside those that are described."""
    settings = Settings(
        database_url=Secret("postgresql://nowhere/x"), distribution_url="http://nowhere", spool_dir="/nowhere"
    )
    served = {
        (route.method, route.resource.canonical)
        for route in make_app(settings).router.routes()
        if route.resource is not None and not route.resource.canonical.startswith("/v1/update")
    }
    described = {(method.upper(), path) for path, operations in _described()["paths"].items() for method in operations}
    assert served == described
