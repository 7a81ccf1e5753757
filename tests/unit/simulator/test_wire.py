"""The response reader accepts and rejects what update_engine's ParseResponse does; attributes are escaped alike."""

from __future__ import annotations

import pytest

from services.simulator.wire import CheckFailed, Envelope, Identity, NoUpdate, Offer, read_response

NEBRASKA_UPDATE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<response protocol="3.0" server="nebraska"><daystart elapsed_seconds="0">'
    b'</daystart><app appid="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}" status="ok"><ping status="ok"></ping><updatecheck '
    b'status="ok"><urls><url codebase="https://update.example/amd64-usr/3975.2.1/"></url></urls><manifest version="'
    b'3975.2.1"><packages><package name="flatcar_production_update.gz" hash="I6DGNAOrJRUxPbCuLw+AITfiVMo=" size="'
    b'382137917" required="true"></package><package name="oem-azure.gz" hash="wepxwEV9L2SS1l/ycEZSqWM3dDc=" '
    b'hash_sha256="3aed3129de50b959a97e4913ba485bd60e72d2bb6aa377d5ed404103f0680043" size="40897503" required="false">'
    b'</package></packages><actions><action event="postinstall" sha256="stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=" '
    b'DisablePayloadBackoff="true"></action></actions></manifest></updatecheck><event status="ok"></event></app>'
    b"</response>"
)


def test_an_offer_is_its_first_package():
    """Extras are further packages and do not concern update_engine."""
    assert read_response(200, NEBRASKA_UPDATE) == Offer(
        version="3975.2.1",
        codebases=("https://update.example/amd64-usr/3975.2.1/",),
        name="flatcar_production_update.gz",
        size=382137917,
        sha256="stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=",
        backoff_disabled=True,
    )


def test_a_codebase_gets_its_slash():
    """The URL is the codebase, a slash if missing, and the package's name."""
    offer = read_response(200, NEBRASKA_UPDATE.replace(b'3975.2.1/"', b'3975.2.1"'))
    assert isinstance(offer, Offer)
    assert offer.urls == ("https://update.example/amd64-usr/3975.2.1/flatcar_production_update.gz",)


@pytest.mark.parametrize(("given", "read"), [("3600", 3600), ("", 0), ("soon", 0), ("-5", -5), ("1.5", 0)])
def test_noupdate_with_a_poll_interval(given, read):
    """PollInterval counts for noupdate too; what is no integer counts as absent."""
    body = f'<response><app><updatecheck PollInterval="{given}" status="noupdate"/></app></response>'
    assert read_response(200, body.encode()) == NoUpdate(poll_interval_s=read)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'<response protocol="3.0"', b'<response xmlns="http://www.google.com/update2" protocol="3.0"'),
        (b'updatecheck status="ok"', b'updatecheck status="error-internal"'),
        (b'updatecheck status="ok"', b"updatecheck"),
        (b'size="382137917"', b'size="0"'),
        (b'size="382137917"', b'size="many"'),
        (b'name="flatcar_production_update.gz"', b'name=""'),
        (b'<url codebase="https://update.example/amd64-usr/3975.2.1/">', b'<url codebase="">'),
        (b'<url codebase="https://update.example/amd64-usr/3975.2.1/"></url>', b""),
        (b' sha256="stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA="', b""),
        (b'event="postinstall"', b'event="install"'),
        (b"manifest", b"Manifest"),
        (b"packages", b"Packages"),
        (b"updatecheck", b"Updatecheck"),
    ],
)
def test_what_update_engine_rejects_as_invalid(old, new):
    """Each is reported as base code 34."""
    assert old in NEBRASKA_UPDATE
    assert read_response(200, NEBRASKA_UPDATE.replace(old, new)) == CheckFailed(code=34)


@pytest.mark.parametrize(
    ("status", "body", "code", "slow_down"),
    [
        (200, b"", 30, False),
        (200, b"<response>", 31, False),
        (200, b"<html><p>Welcome to our hotel!</html>", 31, False),
        (200, b'<?xml version="1.0" encoding="TF-8"?><response/>', 31, False),
        (200, b'<?xml version="1.0" encoding="utf-7"?><response/>', 31, False),
        (200, b"<response>\xff</response>", 31, False),
        (None, b"", 2000, False),
        (404, b"", 2404, False),
        (429, b"", 2429, False),
        (500, b"", 2500, True),
        (503, b"", 2503, True),
        (1234, b"", 2999, False),
    ],
)
def test_failures_by_code(status, body, code, slow_down):
    """Empty, malformed, no answer, HTTP errors; only 500 and 503 slow the node down."""
    assert read_response(status, body) == CheckFailed(code=code, slow_down=slow_down)


def test_attributes_are_escaped_as_libxml2_does_it():
    """Angle brackets, ampersands, controls and what is not ASCII; a double quote stays, and breaks the document."""
    identity = Identity(machine_id="m", aleph_version="1.0.0", machine_alias='"a<b>&\ré"')
    ping = Envelope.of(identity, version="1.0.0", boot_id="b").ping()
    assert b'machinealias=""a&lt;b&gt;&amp;&#13;&#xE9;"" lang' in ping
