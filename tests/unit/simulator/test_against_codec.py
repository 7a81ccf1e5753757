"""The simulator and the server's codec were written apart; here they meet."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from services.simulator.fates import Fate
from services.simulator.node import DownloadDone, Elapsed, Expects, Input, Node, Response, Send, Span, Timing
from services.simulator.wire import (
    TEST_OMAHA_URL_FLAG,
    Arch,
    CheckFailed,
    Identity,
    NoUpdate,
    Offer,
    read_response,
)
from shared.omaha.errorcodes import ErrorFlag
from shared.omaha.request import Event, parse_request
from shared.omaha.response import Package, UpdateAnswer, document, no_update_app
from shared.testing.omaha_clients import UpdateEngineRejectionError, render_request, update_engine_reads

OFFER = (
    b'<response><app><updatecheck status="ok"><urls><url codebase="http://127.0.0.1/"/></urls>'
    b'<manifest version="2.0.0"><packages><package name="a" size="1"/></packages><actions>'
    b'<action event="postinstall" sha256="x" DisablePayloadBackoff="true"/></actions></manifest>'
    b"</updatecheck></app></response>"
)


def messages(fate: Fate, count: int) -> list[tuple[Node, Send, str, str]]:
    """The first messages of a node that is always offered an update, with the version and boot that sent them."""
    node = Node(
        Identity(machine_id="06fe98d2a89248b6a2542ef2bcb8c16a", aleph_version="1.0.0", arch=Arch.ARM64, oem="ami"),
        "1.0.0",
        fate_of=lambda _version: fate,
        rng=random.Random(3),
        timing=Timing(reboot_after=Span(3100.0, 3200.0)),
    )
    effect = node.start()
    sent: list[tuple[Node, Send, str, str]] = []
    while len(sent) < count:
        result: Input = Elapsed()
        if isinstance(effect, Send):
            sent.append((node, effect, node.version, node.boot_id))
            result = Response(200, OFFER)
        elif not hasattr(effect, "seconds"):
            result = DownloadDone()
        effect = node.step(result)
    return sent


def test_the_server_reads_every_message_as_it_was_meant():
    """All fields, for each kind of message, through a good update and a rollback."""
    for fate, last in ((Fate.GOOD, Event(3, 2, None, "1.0.0")), (Fate.ROLLS_BACK, Event(3, 0, 44))):
        sent = messages(fate, 6)
        for node, send, version, boot_id in sent:
            request = parse_request(send.body)
            assert render_request(request, escape_quotes=False) == send.body
            (app,) = request.apps
            assert (request.protocol, request.updater_version) == ("3.0", "update_engine-0.4.10")
            assert (request.install_source, request.is_machine) == ("scheduler", True)
            assert (request.os_platform, request.os_service_pack) == ("CoreOS", f"{version}_aarch64")
            assert app.appid == node.identity.application_id
            assert (app.version, app.bootid) == (version, f"{{{boot_id}}}")
            assert (app.machineid, app.board, app.oem) == (node.identity.machine_id, "arm64-usr", "ami")
            assert (app.track, app.alephversion, app.delta_okay) == ("stable", "1.0.0", False)
            assert app.update_check == (send.expects is Expects.CHECK)
            assert app.ping == (send.expects is not Expects.EVENT)
        assert [event for _, send, _, _ in sent for app in parse_request(send.body).apps for event in app.events] == [
            Event(3, 2, None, "0.0.0.0"),
            Event(13, 1),
            Event(14, 1),
            Event(3, 1),
            last,
        ]


def test_both_know_the_same_flag():
    """A private server's nodes set it in every error code but 44."""
    assert ErrorFlag.TEST_OMAHA_URL == TEST_OMAHA_URL_FLAG


AFTER_DECLARATION = 39
SHA256 = hashlib.sha256(b"payload")
ANSWERS = [
    UpdateAnswer(
        version="2.0.0",
        packages=[
            Package(name="update.gz", sha256_hex=SHA256.hexdigest(), size=7),
            Package(name="oem-ami.gz", sha256_hex=SHA256.hexdigest(), size=8, required=False),
        ],
        codebases=["http://127.0.0.1:8001/payloads/{token}/", "http://127.0.0.1:8002/a&b"],
    ).render("{a}", "0123abcd", ping=True, events=1, poll_interval=3600),
    document([no_update_app("{a}", ping=True, events=1)]),
]


def as_the_simulator_reads(body: bytes) -> tuple[object, ...]:
    """What a simulated node makes of an answer, as plain values."""
    read = read_response(200, body)
    match read:
        case CheckFailed(code=code):
            return ("failed", int(code))
        case NoUpdate(poll_interval_s=poll_interval_s):
            return ("no update", poll_interval_s)
        case Offer():
            flags = (read.delta, read.backoff_disabled, read.max_failures_per_url)
            return (read.version, read.urls, read.size, read.sha256, read.poll_interval_s, flags)


def as_the_codecs_client_reads(body: bytes) -> tuple[object, ...]:
    """The same, by the client that the codec was written against."""
    try:
        read = update_engine_reads(body)
    except UpdateEngineRejectionError as rejection:
        return ("failed", int(rejection.base))
    if not read.update:
        return ("no update", read.poll_interval)
    flags = (read.is_delta, read.disable_payload_backoff, read.max_failure_count_per_url)
    return (read.version, read.urls, read.size, read.sha256_base64, read.poll_interval, flags)


def test_the_servers_answers_are_taken():
    """An offer with extras and two mirrors, and a noupdate."""
    offer = read_response(200, ANSWERS[0])
    assert isinstance(offer, Offer)
    assert offer.urls == (
        "http://127.0.0.1:8001/payloads/0123abcd/update.gz",
        "http://127.0.0.1:8002/a&b/update.gz",
    )
    assert (offer.size, offer.poll_interval_s, offer.backoff_disabled) == (7, 3600, True)
    assert read_response(200, ANSWERS[1]) == NoUpdate()
    for answer in ANSWERS:
        assert as_the_simulator_reads(answer) == as_the_codecs_client_reads(answer)


@given(
    answer=st.sampled_from(ANSWERS),
    cut=st.tuples(st.integers(AFTER_DECLARATION, 1200), st.integers(0, 12)),
    put=st.lists(st.sampled_from([b"<", b">", b"/", b'"', b"&", b"x", b" ", b"7", b"<x/>"]), max_size=3).map(b"".join),
)
def test_two_readings_of_the_same_rules_agree_on_damaged_answers(answer, cut, put):
    """Cut anywhere and put something in: both take it alike, or reject it with the same code."""
    start, length = cut
    damaged = answer[:start] + put + answer[start + length :]
    assert as_the_simulator_reads(damaged) == as_the_codecs_client_reads(damaged)
