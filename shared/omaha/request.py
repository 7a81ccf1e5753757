"""Reads Omaha v3 requests.

Source: update_engine's ``omaha_request_action.cc`` (what is sent) and Omaha's "ServerProtocol V3" page (what an absent
attribute means). One expat parser per request, forced to UTF-8; its handlers only note what they see, and the rules
are applied to the notes. Elements and attributes that are not known are ignored, namespace prefixes too.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn
from xml.parsers import expat

import msgspec

from shared.errors import InvalidInput

MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_TAGS = 2048
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_CHARS = 1024
MAX_APPS = 16
MAX_EVENTS_PER_APP = 16

_MAX_INT = 2**31 - 1
_MAX_CODE = 2**32 - 1
_SMALL_BODY_BYTES = 4096
_MAX_SHARED_NAMES = 128
_USUAL_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'
_TRUE = frozenset({"1", "true"})
_ENCODINGS = frozenset({"utf-8", "us-ascii"})
_ALIAS_OPENS = b'machinealias="'
_ALIAS_CLOSES = b'" lang="'
_AFTER_A_VALUE = frozenset({b"", b" ", b"\t", b"\r", b"\n", b"/", b">", b"?"})
_ALIAS_HINT = (
    " The value of machinealias holds a quotation mark that the client did not escape: remove the quotation marks"
    " around MACHINE_ALIAS in /etc/flatcar/update.conf on that node, and restart update-engine."
)


class OmahaMalformed(InvalidInput):
    """The body is not an Omaha v3 request; ``details`` holds line and column (from 1) where that is known."""

    code = "omaha_malformed"
    title = "Malformed Omaha request"


class OmahaRefused(InvalidInput):
    """The body asks for what is never read here (DOCTYPE, entities, other encodings) or is beyond a limit."""

    code = "omaha_refused"
    title = "Refused Omaha request"


class Event(msgspec.Struct, frozen=True, gc=False):
    """An ``<event>``. ``errorcode`` is the unsigned 32-bit code with its flag bits; None when none was sent."""

    eventtype: int
    eventresult: int
    errorcode: int | None = None
    previousversion: str = ""


class App(msgspec.Struct, frozen=True, gc=False):
    """An ``<app>``. Texts are as sent, empty when absent; ``appid`` is to be echoed verbatim."""

    appid: str
    version: str = ""
    track: str = ""
    bootid: str = ""
    oem: str = ""
    oemversion: str = ""
    alephversion: str = ""
    machineid: str = ""
    machinealias: str = ""
    board: str = ""
    delta_okay: bool = False
    from_track: str = ""
    hardware_class: str = ""
    lang: str = ""
    ping: bool = False
    update_check: bool = False
    target_version_prefix: str = ""
    events: tuple[Event, ...] = ()


class Request(msgspec.Struct, frozen=True, gc=False):
    """A ``<request>`` with its ``<os>`` and its applications, of which there is at least one."""

    protocol: str
    updater_version: str = ""
    install_source: str = ""
    is_machine: bool = False
    os_platform: str = ""
    os_version: str = ""
    os_service_pack: str = ""
    os_arch: str = ""
    apps: tuple[App, ...] = ()


# An update check exactly as update_engine writes it: recognised as a whole, which is cheaper than name by name. Tags in
# order, an end tag being empty, then the attributes of each element.
_CHECK_TAGS = ["request", "os", "", "app", "ping", "", "updatecheck", "", "event", "", "", ""]
_REQUEST_NAMES = ["protocol", "version", "updaterversion", "installsource", "ismachine"]
_OS_NAMES = ["version", "platform", "sp"]
_APP_NAMES = [
    "appid",
    "version",
    "track",
    "bootid",
    "oem",
    "oemversion",
    "alephversion",
    "machineid",
    "machinealias",
    "lang",
    "board",
    "hardware_class",
    "delta_okay",
]
_STEADY_EVENT = ["eventtype", "3", "eventresult", "2", "previousversion", ""]
_STEADY_EVENTS = (Event(3, 2),)

# The same with an event that is no news, which is nearly every body that comes, read without expat at a fifth of the
# cost. Every character is fixed but the values, and these have none that means anything in XML, so expat would see the
# same: no reference, no end of line to normalise, nothing outside of ASCII. Whatever differs goes to expat.
_VALUE = r'"([ !#-%\'-;=?-~]*)"'
_STEADY_CHECK = re.compile(
    re.escape(_USUAL_DECLARATION.decode())
    + r'\n<request protocol="3\.0"'
    + "".join(f" {name}={_VALUE}" for name in _REQUEST_NAMES[1:])
    + ">\n    <os"
    + "".join(f" {name}={_VALUE}" for name in _OS_NAMES)
    + "></os>\n    <app"
    + "".join(f" {name}={_VALUE}" for name in _APP_NAMES)
    + ' >\n        <ping active="1"></ping>\n        <updatecheck></updatecheck>\n'
    '        <event eventtype="3" eventresult="2" previousversion=""></event>\n    </app>\n</request>\n?'
)

_KNOWN_NAMES = {name: name for name in (*_CHECK_TAGS, *_REQUEST_NAMES, *_OS_NAMES, *_APP_NAMES, *_STEADY_EVENT[::2])}
_shared_names = dict(_KNOWN_NAMES)


def parse_request(body: bytes) -> Request:
    """Reads a request.

    Raises:
        OmahaMalformed: It is not well-formed, not an Omaha v3 request, or a number in it is none.
        OmahaRefused: It has a DOCTYPE or an entity declaration, another encoding than UTF-8 or US-ASCII, or more of
            something (bytes, depth, tags, attributes, characters, applications, events) than is read here.
    """
    size = len(body)
    if size <= MAX_ATTRIBUTE_CHARS:
        # Any byte is some character of Latin-1, and those outside of ASCII do not match.
        steady = _STEADY_CHECK.fullmatch(body.decode("latin-1"))
        if steady is not None:
            return _steady_check(steady.groups())
    elif size > MAX_BODY_BYTES:
        raise OmahaRefused(f"the body has {size} bytes; at most {MAX_BODY_BYTES} are read")
    # Below this size there is no room for so many tags.
    if size > _SMALL_BODY_BYTES and body.count(b"<") > MAX_TAGS:
        raise OmahaRefused(f"the body has more than {MAX_TAGS} tags")
    tags: list[str] = []
    attributes: list[list[str]] = []
    note = tags.append
    keep = attributes.append

    def start(name: str, pairs: list[str]) -> None:
        note(name)
        keep(pairs)

    def end(_name: str) -> None:
        note("")

    # Forced to UTF-8, expat disregards the encoding that is declared, but still looks for UTF-16 by the first bytes:
    # that has a NUL in each character of the markup, and XML in UTF-8 has none anywhere.
    parser = expat.ParserCreate("utf-8", None, _names_for(size))
    parser.ordered_attributes = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.EntityDeclHandler = _refuse_entity
    parser.ExternalEntityRefHandler = _refuse_entity
    if not body.startswith(_USUAL_DECLARATION):
        if b"\0" in body:
            raise OmahaRefused("the body has NUL bytes, as in UTF-16; only UTF-8 and US-ASCII are read")
        parser.XmlDeclHandler = _check_declaration
    try:
        parser.Parse(body, True)  # noqa: FBT003  # pyexpat takes it by position only
    except expat.ExpatError as error:
        raise _not_well_formed(body, error) from None
    if tags == _CHECK_TAGS and size <= MAX_ATTRIBUTE_CHARS:
        request = _usual_check(attributes)
        if request is not None:
            return request
    return _any_request(tags, attributes, long_values=size > MAX_ATTRIBUTE_CHARS)


def _names_for(size: int) -> dict[str, str]:
    """The dict in which expat interns names: shared, for speed, between small bodies; kept small, for they may lie."""
    global _shared_names  # noqa: PLW0603  # a cache; emptying it loses nothing
    if size > _SMALL_BODY_BYTES:
        return {}
    if len(_shared_names) > _MAX_SHARED_NAMES:
        _shared_names = dict(_KNOWN_NAMES)
    return _shared_names


def _refuse_doctype(*_about: object) -> NoReturn:
    raise OmahaRefused("the body has a DOCTYPE; Omaha requests have none, and it is not read")


def _refuse_entity(*_about: object) -> NoReturn:
    raise OmahaRefused("the body declares or refers to an entity; only XML's own five are read")


def _check_declaration(_version: str, encoding: str | None, _standalone: int) -> None:
    if encoding is not None and encoding.lower() not in _ENCODINGS:
        raise OmahaRefused(f"the body is declared as {encoding[:40]}; only UTF-8 and US-ASCII are read")


def _not_well_formed(body: bytes, error: expat.ExpatError) -> OmahaMalformed:
    line = error.lineno
    column = error.offset + 1
    hint = _ALIAS_HINT if _has_unescaped_alias(body) else ""
    reason = expat.ErrorString(error.code)
    return OmahaMalformed(
        f"the body is not well-formed XML: {reason} at line {line}, column {column}.{hint}",
        details={"line": line, "column": column},
    )


def _has_unescaped_alias(body: bytes) -> bool:
    """Whether the first machine alias is written with its own quotation marks, as in ``machinealias=""a b""``.

    Clients before the fix in update_engine escape with xmlEncodeEntitiesReentrant, which leaves quotation marks alone.
    """
    opens = body.find(_ALIAS_OPENS)
    if opens < 0:
        return False
    begins = opens + len(_ALIAS_OPENS)
    closes = body.find(_ALIAS_CLOSES, begins)
    value = body[begins:closes]
    if closes < 0 or b"<" in value:
        # The next attribute is not update_engine's: only a value that opens twice is a sure sign.
        return body[begins : begins + 1] == b'"' and body[begins + 1 : begins + 2] not in _AFTER_A_VALUE
    return b'"' in value


def _by_name(pairs: list[str]) -> dict[str, str]:
    each = iter(pairs)
    return dict(zip(each, each, strict=True))


def _usual_check(attributes: list[list[str]]) -> Request | None:
    """An update check with update_engine's own attributes in its own order; None if they are others."""
    root, os, app, _ping, check, event = attributes
    if check or root[::2] != _REQUEST_NAMES or os[::2] != _OS_NAMES or app[::2] != _APP_NAMES or root[1] != "3.0":
        return None
    (
        _,
        appid,
        _,
        version,
        _,
        track,
        _,
        bootid,
        _,
        oem,
        _,
        oemversion,
        _,
        alephversion,
        _,
        machineid,
        _,
        machinealias,
        _,
        lang,
        _,
        board,
        _,
        hardware_class,
        _,
        delta_okay,
    ) = app
    return Request(
        "3.0",
        root[5] or root[3],
        root[7],
        root[9] in _TRUE,
        os[3],
        os[1],
        os[5],
        "",
        (
            App(
                appid,
                version,
                track,
                bootid,
                oem,
                oemversion,
                alephversion,
                machineid,
                machinealias,
                board,
                delta_okay in _TRUE,
                "",
                hardware_class,
                lang,
                True,  # noqa: FBT003  # positional structs are made in half the time
                True,  # noqa: FBT003
                "",
                _STEADY_EVENTS if event == _STEADY_EVENT else (_event(event),),
            ),
        ),
    )


def _steady_check(values: tuple[str | Any, ...]) -> Request:
    """The usual check with an event that is no news, from its values in their order."""
    (
        version,
        updater_version,
        install_source,
        is_machine,
        os_version,
        os_platform,
        os_service_pack,
        appid,
        app_version,
        track,
        bootid,
        oem,
        oemversion,
        alephversion,
        machineid,
        machinealias,
        lang,
        board,
        hardware_class,
        delta_okay,
    ) = values
    return Request(
        "3.0",
        updater_version or version,
        install_source,
        is_machine in _TRUE,
        os_platform,
        os_version,
        os_service_pack,
        "",
        (
            App(
                appid,
                app_version,
                track,
                bootid,
                oem,
                oemversion,
                alephversion,
                machineid,
                machinealias,
                board,
                delta_okay in _TRUE,
                "",
                hardware_class,
                lang,
                True,  # noqa: FBT003  # positional structs are made in half the time
                True,  # noqa: FBT003
                "",
                _STEADY_EVENTS,
            ),
        ),
    )


class _SeenApp:
    """What was seen of one ``<app>``."""

    __slots__ = ("events", "get", "ping", "update_check")

    def __init__(self, pairs: list[str]) -> None:
        self.get = _by_name(pairs).get
        self.ping = False
        self.update_check: list[str] | None = None
        self.events: list[Event] = []


def _any_request(tags: list[str], attributes: list[list[str]], *, long_values: bool) -> Request:
    """The request, whatever its tags and attributes are; those that are unknown or elsewhere are ignored.

    Args:
        tags: Names of start tags, and an empty text for each end tag, in the body's order.
        attributes: Name, value, name, value, ... of each start tag.
        long_values: Whether the body has room for values beyond the limit.
    """
    depth = 0
    root: list[str] = []
    os: list[str] = []
    app: _SeenApp | None = None
    apps: list[_SeenApp] = []
    of_each = iter(attributes)
    for tag in tags:
        if not tag:
            depth -= 1
            continue
        depth += 1
        pairs = next(of_each)
        if len(pairs) > 2 * MAX_ATTRIBUTES:
            raise OmahaRefused(f"<{tag[:40]}> has more than {MAX_ATTRIBUTES} attributes")
        if long_values and max(map(len, pairs), default=0) > MAX_ATTRIBUTE_CHARS:
            raise OmahaRefused(f"<{tag[:40]}> has an attribute of more than {MAX_ATTRIBUTE_CHARS} characters")
        name = tag.rpartition(":")[2]
        if depth == 1:
            if name != "request":
                raise OmahaMalformed(f"the root element is <{tag[:40]}>; an Omaha request begins with <request>")
            root = pairs
        elif depth == 2:
            app = None
            if name == "app":
                if len(apps) == MAX_APPS:
                    raise OmahaRefused(f"the request has more than {MAX_APPS} applications")
                app = _SeenApp(pairs)
                apps.append(app)
            elif name == "os":
                os = pairs
        elif depth == 3 and app is not None:
            if name == "event":
                if len(app.events) == MAX_EVENTS_PER_APP:
                    raise OmahaRefused(f"an <app> has more than {MAX_EVENTS_PER_APP} events")
                app.events.append(_event(pairs))
            elif name == "ping":
                app.ping = True
            elif name == "updatecheck":
                app.update_check = pairs
        elif depth > MAX_DEPTH:
            raise OmahaRefused(f"elements are nested more than {MAX_DEPTH} deep")
    of_request = _by_name(root).get
    of_os = _by_name(os).get
    protocol = of_request("protocol", "")
    if protocol.partition(".")[0] != "3":
        raise OmahaMalformed(f"the request speaks protocol {protocol[:40]!r}; this server speaks Omaha 3.0")
    if not apps:
        raise OmahaMalformed("the request names no <app>; there is nothing to answer")
    return Request(
        protocol=protocol,
        updater_version=of_request("updaterversion", "") or of_request("version", ""),
        install_source=of_request("installsource", ""),
        is_machine=of_request("ismachine", "") in _TRUE,
        os_platform=of_os("platform", ""),
        os_version=of_os("version", ""),
        os_service_pack=of_os("sp", ""),
        os_arch=of_os("arch", ""),
        apps=tuple(map(_app, apps)),
    )


def _app(seen: _SeenApp) -> App:
    get = seen.get
    check = seen.update_check
    return App(
        appid=get("appid", ""),
        version=get("version", ""),
        track=get("track", ""),
        bootid=get("bootid", ""),
        oem=get("oem", ""),
        oemversion=get("oemversion", ""),
        alephversion=get("alephversion", ""),
        machineid=get("machineid", ""),
        machinealias=get("machinealias", ""),
        board=get("board", ""),
        delta_okay=get("delta_okay", "") in _TRUE,
        from_track=get("from_track", ""),
        hardware_class=get("hardware_class", ""),
        lang=get("lang", ""),
        ping=seen.ping,
        update_check=check is not None,
        target_version_prefix=_by_name(check).get("targetversionprefix", "") if check else "",
        events=tuple(seen.events),
    )


def _event(pairs: list[str]) -> Event:
    """An event; an absent type or result is 0, as in Omaha's protocol ("unknown", "error")."""
    get = _by_name(pairs).get
    code = get("errorcode")
    return Event(
        _integer("eventtype", get("eventtype", "0"), -_MAX_INT - 1, _MAX_INT),
        _integer("eventresult", get("eventresult", "0"), -_MAX_INT - 1, _MAX_INT),
        # A code with bit 31 set comes out of the client's "%d" as a negative number.
        None if code is None else _integer("errorcode", code, -_MAX_INT - 1, _MAX_CODE) & _MAX_CODE,
        get("previousversion", ""),
    )


def _integer(name: str, text: str, low: int, high: int) -> int:
    digits = text.removeprefix("-")
    if len(digits) <= 10 and digits.isascii() and digits.isdecimal():
        value = int(text)
        if low <= value <= high:
            return value
    raise OmahaMalformed(f"{name} is {text[:40]!r}; a whole number from {low} to {high} is asked for")
