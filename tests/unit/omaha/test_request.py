"""Reading Omaha requests: every shape that clients send, and everything that is not read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.omaha import request as omaha
from shared.omaha.identity import normalise_app_id, normalise_boot_id
from shared.omaha.request import App, Event, OmahaMalformed, OmahaRefused, Request, parse_request
from shared.testing.omaha_clients import render_request, render_stub_request

GOLDEN = Path(__file__).parent / "golden"
FLATCAR = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def node(**app: object) -> Request:
    fields: dict[str, object] = {
        "appid": FLATCAR,
        "version": "3760.2.0",
        "track": "stable",
        "bootid": "{ef3c8c1c-5cee-4f03-87db-13903ab7f866}",
        "oem": "ami",
        "alephversion": "3510.2.0",
        "machineid": "06fe98d2a89248b6a2542ef2bcb8c16a",
        "lang": "en-US",
        "board": "amd64-usr",
    }
    return Request(
        protocol="3.0",
        updater_version="update_engine-0.4.10",
        install_source="scheduler",
        is_machine=True,
        os_platform="CoreOS",
        os_version="Chateau",
        os_service_pack="3760.2.0_x86_64",
        apps=(App(**{**fields, **app}),),  # type: ignore[arg-type]
    )


def check(*events: Event) -> Request:
    return node(ping=True, update_check=True, events=events)


SENT_BY_UPDATE_ENGINE = {
    "request_a_update_check.xml": check(Event(3, 2)),
    "request_a_first_check_ever.xml": check(Event(3, 2, None, "0.0.0.0")),
    "request_a_updated.xml": check(Event(3, 2, None, "3510.2.0")),
    "request_b_download_started.xml": node(events=(Event(13, 1),)),
    "request_b_failed.xml": node(events=(Event(3, 0, 268437959),)),
    "request_b_deferred.xml": node(events=(Event(3, 9, 268435496),)),
    "request_c_ping.xml": node(ping=True),
    "request_d_rolled_back.xml": check(Event(3, 0, 44)),
}


@pytest.mark.parametrize("name", SENT_BY_UPDATE_ENGINE)
def test_update_engine_messages_are_read(name: str) -> None:
    """Each message of update_engine is read to the last attribute."""
    assert parse_request(golden(name)) == SENT_BY_UPDATE_ENGINE[name]


@pytest.mark.parametrize("name", SENT_BY_UPDATE_ENGINE)
def test_the_request_writer_is_byte_exact(name: str) -> None:
    """The simulator's writer sends what update_engine sends, byte for byte."""
    assert render_request(SENT_BY_UPDATE_ENGINE[name]) == golden(name)


def test_an_operators_check_on_arm_is_read() -> None:
    """An interactive check says so in installsource."""
    request = parse_request(golden("request_a_on_demand.xml"))
    assert (request.install_source, request.os_service_pack) == ("ondemandupdate", "3760.2.0_aarch64")
    assert request.apps[0].board == "arm64-usr"
    assert render_request(request) == golden("request_a_on_demand.xml")


def test_the_stub_of_diskless_machines_is_read() -> None:
    """The PXE stub sends neither board nor ping nor update check, and its event is no news."""
    request = parse_request(golden("request_e_stub.xml"))
    app = request.apps[0]
    assert request.updater_version == "FlatcarUpdateEngine-0.1.0.0"
    assert (app.oem, app.board, app.alephversion) == ("diskless", "", "")
    assert (app.ping, app.update_check, app.events) == (False, False, (Event(3, 2),))
    assert render_stub_request(request) == golden("request_e_stub.xml")


def test_what_other_clients_add_is_read_or_ignored() -> None:
    """Other orders, unknown attributes and elements, several applications, a namespace, ids as sent."""
    request = parse_request(golden("request_f_other_clients.xml"))
    assert (request.os_arch, request.is_machine) == ("aarch64", True)
    first, second = request.apps
    assert first == App(
        appid="E96281A6-D1AF-4BDE-9A0A-97B76E56DC57",
        version="1745.7.0",
        track="beta",
        bootid="EF3C8C1C-5CEE-4F03-87DB-13903AB7F866",
        oem="ec2",
        machineid="{deadbeef}",
        delta_okay=True,
        from_track="alpha",
        hardware_class="m5",
        ping=True,
        update_check=True,
        target_version_prefix="1800.",
        events=(Event(14, 1), Event(3, 1)),
    )
    assert second == App(appid="io.example.addon", version="1.0.0")


def test_namespace_prefixes_are_ignored() -> None:
    """A prefixed document means the same as one without prefixes."""
    body = b'<o:request xmlns:o="urn:x" protocol="3.1"><o:app appid="a"><o:ping/></o:app></o:request>'
    assert parse_request(body).apps == (App(appid="a", ping=True),)


@pytest.mark.parametrize(
    "body",
    [
        b'<request protocol="3.0"><x><app appid="b"/></x><app appid="a"/></request>',
        b'<request protocol="3.0"><app appid="a"><x><ping/><updatecheck/><event/></x></app></request>',
        b'<request protocol="3.0"><app appid="a"/><os><ping/><event/></os></request>',
    ],
)
def test_known_elements_in_unknown_places_are_ignored(body: bytes) -> None:
    """Only the protocol's own places count."""
    assert parse_request(body).apps == (App(appid="a"),)


def test_ids_are_compared_without_braces_and_case() -> None:
    """Application and boot ids mean the same with and without braces, blanks and capitals."""
    assert normalise_app_id(" {E96281A6-D1AF-4BDE-9A0A-97B76E56DC57} ") == "e96281a6-d1af-4bde-9a0a-97b76e56dc57"
    assert normalise_app_id("io.Example.Addon") == "io.example.addon"
    assert normalise_boot_id("{EF3C8C1C}") == "ef3c8c1c"
    assert normalise_boot_id("") == ""


# --- faults -----------------------------------------------------------------------------------------------------------


def app_with(inner: str = "", attributes: str = "") -> bytes:
    return f'<request protocol="3.0"><app appid="a" {attributes}>{inner}</app></request>'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"GET / HTTP/1.1",
        b"<request",
        b'<request protocol="3.0"><app appid="a"></request>',
        b'<response protocol="3.0"><app appid="a"/></response>',
        b'<request><app appid="a"/></request>',
        b'<request protocol="2.0"><app appid="a"/></request>',
        b'<request protocol="3.0"></request>',
        b'<request protocol="3.0"><app appid="\xff"/></request>',
        b'<request protocol="3.0"><app appid="a" appid="b"/></request>',
        b'<request protocol="3.0"><app appid="&unknown;"/></request>',
        app_with('<event eventtype="three" eventresult="1"/>'),
        app_with('<event eventtype="3" eventresult="1_0"/>'),
        app_with('<event eventtype="3" eventresult=""/>'),
        app_with('<event eventtype="3" eventresult="0" errorcode="4294967296"/>'),
        app_with('<event eventtype="3" eventresult="0" errorcode="99999999999999999999999999"/>'),
        app_with('<event eventtype="3" eventresult="0" errorcode="٣"/>'),
    ],
)
def test_what_is_no_omaha_request_is_malformed(body: bytes) -> None:
    """A body that is not a request is refused with the code for it."""
    with pytest.raises(OmahaMalformed) as caught:
        parse_request(body)
    assert caught.value.code == "omaha_malformed"
    assert caught.value.status == 400
    assert isinstance(caught.value, InvalidInput)


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE request><request protocol="3.0"><app appid="a"/></request>',
        b'<!DOCTYPE r [<!ENTITY e "x">]><request protocol="3.0"><app appid="&e;"/></request>',
        b'<!DOCTYPE r SYSTEM "http://127.0.0.1/x.dtd"><request protocol="3.0"><app appid="a"/></request>',
        b'<!DOCTYPE r [<!ENTITY % p SYSTEM "file:///etc/passwd">%p;]><request protocol="3.0"/>',
        b'<?xml version="1.0" encoding="ISO-8859-1"?><request protocol="3.0"><app appid="a"/></request>',
        b'<?xml version="1.0" encoding="UTF-16"?><request protocol="3.0"><app appid="a"/></request>',
        '<?xml version="1.0"?><request protocol="3.0"><app appid="a"/></request>'.encode("utf-16"),
        '<?xml version="1.0"?><request protocol="3.0"><app appid="a"/></request>'.encode("utf-16-le"),
        '<?xml version="1.0"?><request protocol="3.0"><app appid="a"/></request>'.encode("utf-16-be"),
        b" " * (omaha.MAX_BODY_BYTES + 1),
        app_with("<d>" * omaha.MAX_DEPTH + "</d>" * omaha.MAX_DEPTH),
        app_with("<d/>" * omaha.MAX_TAGS),
        app_with(attributes=" ".join(f'a{n}="1"' for n in range(omaha.MAX_ATTRIBUTES))),
        app_with(attributes=f'track="{"x" * (omaha.MAX_ATTRIBUTE_CHARS + 1)}"'),
        app_with(attributes=f'{"x" * (omaha.MAX_ATTRIBUTE_CHARS + 1)}=""'),
        app_with('<event eventtype="13" eventresult="1"/>' * (omaha.MAX_EVENTS_PER_APP + 1)),
        b'<request protocol="3.0">' + b'<app appid="a"/>' * (omaha.MAX_APPS + 1) + b"</request>",
    ],
)
def test_hostile_bodies_are_refused(body: bytes) -> None:
    """DOCTYPEs, entities, other encodings and whatever is beyond a limit are refused, told apart from mistakes."""
    with pytest.raises(OmahaRefused) as caught:
        parse_request(body)
    assert caught.value.code == "omaha_refused"
    assert caught.value.status == 400


def test_entities_are_refused_even_where_a_doctype_is_not() -> None:
    """Behind the refusal of the DOCTYPE stands one of its own, should a parser ever let that through."""
    with pytest.raises(OmahaRefused):
        omaha._refuse_entity("context", None, "file:///etc/passwd", None)


def test_at_the_limits_everything_is_read() -> None:
    """A limit is the last value that is read, not the first that is not."""
    events = '<event eventtype="13" eventresult="1"/>' * omaha.MAX_EVENTS_PER_APP
    apps = (
        f'<app appid="a" track="{"x" * omaha.MAX_ATTRIBUTE_CHARS}" '
        + " ".join(f'a{n}="1"' for n in range(omaha.MAX_ATTRIBUTES - 2))
        + f">{events}{'<d>' * (omaha.MAX_DEPTH - 2)}{'</d>' * (omaha.MAX_DEPTH - 2)}</app>"
    ) * omaha.MAX_APPS
    body = f'<request protocol="3.0">{apps}</request>'.encode()
    request = parse_request(body.ljust(omaha.MAX_BODY_BYTES))
    assert len(request.apps) == omaha.MAX_APPS
    assert {len(app.events) for app in request.apps} == {omaha.MAX_EVENTS_PER_APP}


@pytest.mark.parametrize(
    "declaration", ["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="us-ascii"?>', "\ufeff"]
)
def test_utf8_and_ascii_are_read(declaration: str) -> None:
    """UTF-8 with or without a declaration or a byte order mark, and US-ASCII, are read."""
    body = declaration + '<request protocol="3.0"><app appid="a"/></request>'
    assert parse_request(body.encode()).apps == (App(appid="a"),)


def test_a_malformed_body_is_located() -> None:
    """Line and column of the fault are said, counted from 1."""
    with pytest.raises(OmahaMalformed, match="line 2, column 3") as caught:
        parse_request(b'<request protocol="3.0">\n <\x01/></request>')
    assert caught.value.details == {"line": 2, "column": 3}
    assert "MACHINE_ALIAS" not in caught.value.message


@pytest.mark.parametrize("alias", ['"a b"', '"', '""', 'rack "7"'])
def test_the_unescaped_alias_of_older_clients_is_explained(alias: str) -> None:
    """Older clients do not escape quotation marks: the operator is told which setting to mend."""
    body = render_request(node(machinealias=alias), escape_quotes=False)
    with pytest.raises(OmahaMalformed, match=r"MACHINE_ALIAS in /etc/flatcar/update\.conf"):
        parse_request(body)
    assert parse_request(render_request(node(machinealias=alias))).apps[0].machinealias == alias


def test_the_unescaped_alias_is_explained_in_any_order_of_attributes() -> None:
    """An alias that opens twice is recognised where update_engine's lang does not follow it."""
    with pytest.raises(OmahaMalformed, match="MACHINE_ALIAS"):
        parse_request(app_with(attributes='machinealias=""a b"" board="x"'))
    for attributes in ('machinealias="" board="x" <', 'machinealias="fine" board="x" <', 'machinealias="'):
        with pytest.raises(OmahaMalformed) as caught:
            parse_request(app_with(attributes=attributes))
        assert "MACHINE_ALIAS" not in caught.value.message


def test_a_signed_error_code_is_read_as_unsigned() -> None:
    """A code with bit 31 set is printed as a negative number by the client."""
    request = parse_request(app_with('<event eventtype="3" eventresult="0" errorcode="-2147483643"/>'))
    assert request.apps[0].events == (Event(3, 0, 0x80000005),)


def test_names_of_strangers_are_forgotten() -> None:
    """The names that expat shares between requests do not pile up."""
    for number in range(300):
        parse_request(app_with(attributes=f'stranger{number}=""'))
        assert len(omaha._shared_names) <= omaha._MAX_SHARED_NAMES + 2


# --- round trips ------------------------------------------------------------------------------------------------------

# Attribute values lose tabs and line breaks to XML's normalisation, and controls are no XML at all.
texts = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"), max_size=40)
codes = st.none() | st.integers(0, 2**32 - 1)
events = st.builds(Event, st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), codes, texts)
apps = st.builds(
    App,
    appid=texts,
    version=texts,
    track=texts,
    bootid=texts,
    oem=texts,
    oemversion=texts,
    alephversion=texts,
    machineid=texts,
    machinealias=texts,
    board=texts,
    delta_okay=st.booleans(),
    hardware_class=texts,
    lang=texts,
    ping=st.booleans(),
    update_check=st.booleans(),
    events=st.lists(events, max_size=4).map(tuple),
)
requests = st.builds(
    Request,
    protocol=st.sampled_from(["3.0", "3.1"]),
    updater_version=texts,
    install_source=texts,
    is_machine=st.booleans(),
    os_platform=texts,
    os_version=texts,
    os_service_pack=texts,
    apps=st.lists(apps, min_size=1, max_size=3).map(tuple),
)


@settings(deadline=None)
@given(requests)
def test_what_is_written_is_read(request: Request) -> None:
    """Any request that the writer can write is read back as it was."""
    assert parse_request(render_request(request)) == request


@settings(deadline=None)
@given(
    apps.map(lambda app: node(**{name: getattr(app, name) for name in ("appid", "version", "machinealias", "board")}))
)
def test_the_quick_way_reads_as_the_general_way_does(request: Request) -> None:
    """update_engine's own form is recognised as a whole; in another form the same values give the same request."""
    quick = render_request(request).replace(b"</app>", b"<ping></ping><updatecheck></updatecheck><event></event></app>")
    general = quick.replace(b"<ping></ping>", b"<unknown></unknown><ping></ping>")
    assert parse_request(quick) == parse_request(general)


def _read(body: bytes) -> Request | str:
    try:
        return parse_request(body)
    except (OmahaMalformed, OmahaRefused) as fault:
        return fault.message


@settings(deadline=None)
@given(
    st.lists(st.text(alphabet='ab1 {}>=/"<&;#\t\n\r\0\x7f\xe9', max_size=4) | texts, min_size=20, max_size=20),
    st.sampled_from(["3.0", "3.1", "2.0"]),
)
def test_the_quickest_way_reads_as_expat_does(values: list[str], protocol: str) -> None:
    """A check whose event is no news is read by one pattern; another blank at its end sends the same to expat."""
    golden = (GOLDEN / "request_a_update_check.xml").read_text(encoding="utf-8")
    parts = re.split(r'(?<==")[^"]*(?=")', golden)
    # The declaration's two values and the event's three are fixed in that form.
    written = ["1.0", "UTF-8", protocol, *values, "1", "3", "2", ""]
    body = "".join(part + value for part, value in zip(parts, [*written, ""], strict=True)).encode()
    assert _read(body) == _read(body + b" \n")


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='<>/="&;ab!-[] \n', max_size=120).map(str.encode))
def test_any_bytes_give_a_request_or_a_fault_of_ours(body: bytes) -> None:
    """Whatever is sent, nothing but the two faults comes out."""
    try:
        parse_request(body)
    except (OmahaMalformed, OmahaRefused) as fault:
        assert fault.message  # noqa: PT017  # either outcome is right; only its kind is checked
