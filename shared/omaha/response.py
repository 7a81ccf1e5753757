"""Writes Omaha v3 responses: bytes, pre-rendered as far as they can be.

Every document is the XML declaration and one line, with the attributes in the order in which go-omaha writes them and
without a namespace, for update_engine's XPath expressions know none. An update that is withheld, for whatever reason,
is ``noupdate``: any ``error-*`` in its place makes update_engine report a failure (base code 34) at every poll.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterable, Sequence

import msgspec

from shared.errors import InvalidInput

CONTENT_TYPE = "text/xml; charset=utf-8"
TOKEN = "{token}"  # noqa: S105  # a place in a template, no secret
"""Stands in a codebase where the attempt's token belongs, as a path segment of its own."""
MAX_POLL_INTERVAL_S = 86_400

_HEAD = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<response protocol="3.0" server="uneventful"><daystart elapsed_seconds="0"></daystart>'
)
_TAIL = b"</response>"
_APP = b'<app appid="'
_APP_OK = b'" status="ok">'
_APP_OK_PING = b'" status="ok"><ping status="ok"></ping>'
_APP_UNKNOWN = b'" status="error-unknownApplication">'
_APP_END = b"</app>"
_EVENT = b'<event status="ok"></event>'
_TOKEN_SEGMENT = TOKEN + "/"
_TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,254}")
_SHA256_FORM = re.compile(r"[0-9a-f]{64}")
_URL_FORM = re.compile(r"https?://[^/\s?#{}]+/[^\s?#]*")
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
)


class Package(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A file of an update.

    ``sha1_base64`` is what Omaha calls ``hash``; ``sha256_hex`` is lower-case. ``required`` decides whether an extra
    that cannot be had fails the whole update. Names are one plain path segment: ue-rs makes files of them and resolves
    them as URL references.
    """

    name: str
    sha256_hex: str
    size: int
    sha1_base64: str | None = None
    required: bool = True


class UpdateAnswer:
    """One update, rendered once and then only spliced: application id, token, poll interval.

    Args:
        version: The version offered; update_engine only shows it.
        packages: The main payload **first** (update_engine installs that one only), then the extras.
        codebases: Base URLs in order of preference, each with at most one ``{token}/`` in it. A missing slash at the
            end is added: without it ue-rs would replace the last segment by the package's name.

    Raises:
        InvalidInput: One of them is nothing that update_engine or ue-rs would accept.
    """

    __slots__ = ("_parts", "action_sha256", "version")

    def __init__(self, *, version: str, packages: Sequence[Package], codebases: Sequence[str]) -> None:
        if not version or TOKEN in version:
            raise InvalidInput(f"an update needs a version, and none with {TOKEN} in it")
        if not packages:
            raise InvalidInput("an update needs at least one package, the main payload first")
        if not codebases:
            raise InvalidInput("an update needs at least one codebase")
        self.version = version
        written = "".join(map(_package, packages))
        self.action_sha256 = base64.b64encode(bytes.fromhex(packages[0].sha256_hex)).decode()
        urls = "".join(f'<url codebase="{_escaped(_codebase(url))}"></url>' for url in codebases)
        after = (
            f"<urls>{urls}</urls>"
            f'<manifest version="{_escaped(version)}"><packages>{written}</packages><actions>'
            f'<action event="postinstall" sha256="{self.action_sha256}" DisablePayloadBackoff="true"></action>'
            "</actions></manifest></updatecheck>"
        )
        self._parts = tuple(part.encode() for part in after.split(_TOKEN_SEGMENT))

    def app(self, appid: str, token: str | None, *, ping: bool, events: int, poll_interval: int | None = None) -> bytes:
        """The ``<app>`` element; ``render`` is the whole document for a request with one application."""
        segment = b"" if token is None else _segment(token)
        return b"".join(
            (
                _APP,
                _quoted(appid),
                _APP_OK_PING if ping else _APP_OK,
                _check_opens("ok", poll_interval),
                segment.join(self._parts),
                _EVENT * events,
                _APP_END,
            )
        )

    def render(
        self, appid: str, token: str | None, *, ping: bool, events: int, poll_interval: int | None = None
    ) -> bytes:
        """The document that offers the update to one application.

        Args:
            appid: As the client sent it.
            token: The attempt's token; None leaves its path segment out.
            ping: Whether the request had a ping, which is then acknowledged.
            events: How many events it had, each of which is acknowledged.
            poll_interval: Seconds until the next poll; update_engine ignores less than 45 min and caps at 4 h.
        """
        return document((self.app(appid, token, ping=ping, events=events, poll_interval=poll_interval),))


def document(apps: Iterable[bytes]) -> bytes:
    """The response to a request with these applications, in the request's order."""
    return b"".join((_HEAD, *apps, _TAIL))


def no_update_app(appid: str, *, ping: bool, events: int, poll_interval: int | None = None) -> bytes:
    """The ``<app>`` that says "no update", which is also the answer while an update is withheld.

    ``PollInterval`` rides along, since update_engine reads it before the status and forgets it at each start.
    """
    return b"".join(
        (
            _APP,
            _quoted(appid),
            _APP_OK_PING if ping else _APP_OK,
            _check_opens("noupdate", poll_interval),
            b"<urls></urls></updatecheck>",
            _EVENT * events,
            _APP_END,
        )
    )


def render_no_update(appid: str, *, ping: bool, events: int, poll_interval: int | None = None) -> bytes:
    """The document that says "no update" to one application: nearly every answer, so mostly a look-up."""
    return _no_update(appid, ping, events, poll_interval)


@functools.lru_cache(maxsize=512)
def _no_update(appid: str, ping: bool, events: int, poll_interval: int | None) -> bytes:
    return document((no_update_app(appid, ping=ping, events=events, poll_interval=poll_interval),))


def acknowledged_app(appid: str, *, ping: bool, events: int) -> bytes:
    """The ``<app>`` for a ping or events without an update check."""
    return b"".join((_APP, _quoted(appid), _APP_OK_PING if ping else _APP_OK, _EVENT * events, _APP_END))


def render_acknowledged(appid: str, *, ping: bool, events: int) -> bytes:
    """The document that acknowledges a ping or events of one application."""
    return document((acknowledged_app(appid, ping=ping, events=events),))


def unknown_app(appid: str, *, update_check: bool, poll_interval: int | None = None) -> bytes:
    """The ``<app>`` for an application that is not ours.

    The fault is said in ``app@status``, with the word that Omaha has for it, and the update check beside it is an
    ordinary ``noupdate``. update_engine does not read ``app@status`` at all, so a stock node goes on quietly instead of
    reporting an invalid response at every poll; ue-rs reads it as free text; go-omaha's client and people who look at
    the wire see what is wrong. Neither ping nor events are acknowledged, for nothing was recorded.
    """
    check = _check_opens("noupdate", poll_interval) + b"<urls></urls></updatecheck>" if update_check else b""
    return b"".join((_APP, _quoted(appid), _APP_UNKNOWN, check, _APP_END))


def render_unknown(appid: str, *, update_check: bool, poll_interval: int | None = None) -> bytes:
    """The document for a request whose one application is not ours; see ``unknown_app``."""
    return document((unknown_app(appid, update_check=update_check, poll_interval=poll_interval),))


@functools.lru_cache(maxsize=256)
def _check_opens(status: str, poll_interval: int | None) -> bytes:
    if poll_interval is None:
        return f'<updatecheck status="{status}">'.encode()
    if not 0 < poll_interval <= MAX_POLL_INTERVAL_S:
        raise InvalidInput(f"a poll interval is 1 to {MAX_POLL_INTERVAL_S} seconds, not {poll_interval}")
    return f'<updatecheck status="{status}" PollInterval="{poll_interval}">'.encode()


@functools.lru_cache(maxsize=512)
def _quoted(appid: str) -> bytes:
    """An application id between quotation marks; few are in use, and what strangers send is forgotten again."""
    return _escaped(appid).encode()


def _segment(token: str) -> bytes:
    if _TOKEN_FORM.fullmatch(token) is None:
        raise InvalidInput("an attempt token is 1 to 128 letters, digits, '_' or '-'")
    return token.encode() + b"/"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _codebase(url: str) -> str:
    closed = url if url.endswith("/") else url + "/"
    if _URL_FORM.fullmatch(closed) is None:
        raise InvalidInput(f"a codebase is an http or https URL without query and fragment, not {url[:200]!r}")
    if not {".", ".."}.isdisjoint(closed.split("/")):
        raise InvalidInput(f"a codebase has no '.' or '..' segments; clients resolve them differently: {url[:200]!r}")
    if closed.count(TOKEN) > 1 or closed.count(TOKEN) != closed.count("/" + _TOKEN_SEGMENT):
        raise InvalidInput(f"{TOKEN} is one path segment of a codebase, and there once at most: {url[:200]!r}")
    return closed


def _package(package: Package) -> str:
    if _NAME_FORM.fullmatch(package.name) is None:
        raise InvalidInput(f"a package's name is one plain path segment, not {package.name[:200]!r}")
    if package.size <= 0:
        raise InvalidInput(f"package {package.name} has {package.size} bytes; update_engine refuses empty ones")
    if _SHA256_FORM.fullmatch(package.sha256_hex) is None:
        raise InvalidInput(f"package {package.name} needs its SHA-256 as 64 lower-case hex digits")
    sha1 = "" if package.sha1_base64 is None else f' hash="{_sha1(package.name, package.sha1_base64)}"'
    required = "true" if package.required else "false"
    return (
        f'<package name="{package.name}"{sha1} hash_sha256="{package.sha256_hex}" size="{package.size}"'
        f' required="{required}"></package>'
    )


def _sha1(name: str, sha1_base64: str) -> str:
    try:
        digest = base64.b64decode(sha1_base64, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 20:
        raise InvalidInput(f"package {name} needs its SHA-1 as base64 of 20 bytes")
    return sha1_base64
