"""What update_engine writes and how it reads the answer: byte-exact templates and a strict response reader.

The templates are those of update_engine's ``omaha_request_action.cc`` (``GetRequestXml``), the reader follows its
``ParseResponse``. They are deliberately not shared with the server's own Omaha codec: a simulator that used the
server's code could not disagree with it.
"""

from __future__ import annotations

import base64
import enum
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from xml.parsers import expat

FLATCAR_APPLICATION_ID: Final = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
"""The application id of Flatcar, with braces as update_engine sends it."""

TEST_OMAHA_URL_FLAG: Final = 1 << 28
"""Set in every reported error code when the server is not Flatcar's public one, so always with a private server."""

HTTP_CODE_BASE: Final = 2000
"""Error codes 2000 + n say "the answer was HTTP status n"; n = 0 says that there was no answer."""

SERVER_ERROR_STATUSES: Final = frozenset({500, 503})
"""The only HTTP statuses that make update_engine slow down."""


class ErrorCode(enum.IntEnum):
    """The base codes of update_engine's ``action_processor.h`` that a simulated node reports."""

    DOWNLOAD_TRANSFER = 9
    PAYLOAD_HASH_MISMATCH = 10
    PAYLOAD_SIZE_MISMATCH = 11
    OMAHA_EMPTY_RESPONSE = 30
    OMAHA_XML_PARSE = 31
    OMAHA_RESPONSE_INVALID = 34
    OMAHA_UPDATE_IGNORED_PER_POLICY = 35
    OMAHA_UPDATE_DEFERRED_PER_POLICY = 36
    OMAHA_UPDATE_DEFERRED_FOR_BACKOFF = 40
    ROLLBACK = 44


_DEFERRALS: Final = frozenset(
    {
        ErrorCode.OMAHA_UPDATE_IGNORED_PER_POLICY,
        ErrorCode.OMAHA_UPDATE_DEFERRED_PER_POLICY,
        ErrorCode.OMAHA_UPDATE_DEFERRED_FOR_BACKOFF,
    },
)


class Arch(enum.StrEnum):
    """A node's architecture; it decides the ``board`` attribute and the machine name in ``sp``."""

    AMD64 = "amd64"
    ARM64 = "arm64"

    @property
    def board(self) -> str:
        """The FLATCAR_RELEASE_BOARD of this architecture."""
        return f"{self.value}-usr"

    @property
    def uname(self) -> str:
        """What ``uname -m`` prints on it."""
        return "x86_64" if self is Arch.AMD64 else "aarch64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a node says about itself in every message and what never changes.

    Attributes:
        machine_id: 32 hexadecimal digits, without dashes, as in /etc/machine-id.
        aleph_version: The first version that this machine ever ran.
        application_id: With braces, as update_engine sends it.
        updater_version: The version of update_engine itself.
    """

    machine_id: str
    aleph_version: str
    track: str = "stable"
    arch: Arch = Arch.AMD64
    application_id: str = FLATCAR_APPLICATION_ID
    oem: str = ""
    oem_version: str = ""
    machine_alias: str = ""
    updater_version: str = "0.4.10"


def event_success(event_type: int) -> str:
    """An event with result 1, for instance ``13/1`` when a download starts."""
    return f'<event eventtype="{event_type}" eventresult="1"></event>'


def event_previous_version(previous_version: str) -> str:
    """The ``3/2`` that rides on every update check.

    Args:
        previous_version: Empty in steady state, the version that ran before on the first check after an update,
            ``0.0.0.0`` on the first check of a machine's life.
    """
    return f'<event eventtype="3" eventresult="2" previousversion="{_escape(previous_version)}"></event>'


def event_rollback() -> str:
    """The ``3/0`` with error code 44 after a boot that came back on the old version; it carries no flag bits."""
    return f'<event eventtype="3" eventresult="0" errorcode="{ErrorCode.ROLLBACK.value}"></event>'


def event_error(code: int) -> str:
    """The ``3/0`` (``3/9`` for a deferral) of a failed attempt.

    Args:
        code: The base code, without flag bits.
    """
    result = 9 if code in _DEFERRALS else 0
    return f'<event eventtype="3" eventresult="{result}" errorcode="{code | TEST_OMAHA_URL_FLAG}"></event>'


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parts of a message that stay the same from one boot to the next."""

    head: bytes

    @classmethod
    def of(cls, identity: Identity, *, version: str, boot_id: str) -> Envelope:
        """Writes the envelope.

        Args:
            identity: Who speaks.
            version: The version that runs.
            boot_id: The kernel's boot id, without braces.
        """
        updater = _escape(f"update_engine-{identity.updater_version}")
        return cls(
            head=(
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f'<request protocol="3.0" version="{updater}" updaterversion="{updater}"'
                ' installsource="scheduler" ismachine="1">\n'
                f'    <os version="Chateau" platform="CoreOS" sp="{_escape(version)}_{identity.arch.uname}"></os>\n'
                f'    <app appid="{_escape(identity.application_id)}" version="{_escape(version)}"'
                f' track="{_escape(identity.track)}" bootid="{{{boot_id}}}" oem="{_escape(identity.oem)}"'
                f' oemversion="{_escape(identity.oem_version)}" alephversion="{_escape(identity.aleph_version)}"'
                f' machineid="{_escape(identity.machine_id)}" machinealias="{_escape(identity.machine_alias)}"'
                f' lang="en-US" board="{identity.arch.board}" hardware_class="" delta_okay="false" >\n'
            ).encode(),
        )

    def check(self, event: str) -> bytes:
        """An update check: ping, updatecheck and the event that tells how the last update ended."""
        return b"%b        %b\n        %b\n        %b\n%b" % (self.head, _PING, _UPDATECHECK, event.encode(), _TAIL)

    def report(self, event: str) -> bytes:
        """A message with one event and nothing else."""
        return b"%b        %b\n%b" % (self.head, event.encode(), _TAIL)

    def ping(self) -> bytes:
        """The message of a node that waits for its reboot."""
        return b"%b        %b\n%b" % (self.head, _PING, _TAIL)


_PING: Final = b'<ping active="1"></ping>'
_UPDATECHECK: Final = b"<updatecheck></updatecheck>"
_TAIL: Final = b"    </app>\n</request>\n"
_SPECIAL: Final = re.compile(r"[^\t\n\x20-\x25\x27-\x3b\x3d\x3f-\x7f]")
_NAMED: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\r": "&#13;"}


def _escape(value: str) -> str:
    """Escapes like libxml2's ``xmlEncodeEntitiesReentrant`` without a document: a double quote stays as it is."""
    return _SPECIAL.sub(lambda match: _NAMED.get(match[0]) or f"&#x{ord(match[0]):X};", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An update that the server offers.

    Attributes:
        version: The manifest's version; update_engine shows it and never compares it.
        codebases: Each ends in ``/``; the order is the order of preference.
        name: The first package's name.
        size: The first package's size in bytes.
        sha256: The payload's SHA-256 in base64, as text: update_engine compares the texts.
        poll_interval_s: ``PollInterval``, 0 where absent.
        max_failures_per_url: After so many transient failures the next URL is taken.
        backoff_disabled: ``DisablePayloadBackoff``.
        delta: ``IsDeltaPayload``.
    """

    version: str
    codebases: tuple[str, ...]
    name: str
    size: int
    sha256: str
    poll_interval_s: int = 0
    max_failures_per_url: int = 10
    backoff_disabled: bool = False
    delta: bool = False

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the payload is, in the order of preference."""
        return tuple(codebase + self.name for codebase in self.codebases)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoUpdate:
    """The server has nothing for this node now: a success."""

    poll_interval_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFailed:
    """An answer that update_engine treats as a failure and reports with an error event of its own.

    Attributes:
        code: The base error code.
        slow_down: The answer was HTTP 500 or 503.
    """

    code: int
    poll_interval_s: int = 0
    slow_down: bool = False


CheckOutcome = Offer | NoUpdate | CheckFailed


def read_response(status: int | None, body: bytes) -> CheckOutcome:
    """Reads the answer to an update check by the rules of update_engine's ``ParseResponse``.

    Args:
        status: The HTTP status, None when there was no answer.
        body: The answer's body.
    """
    if status is None:
        return CheckFailed(code=HTTP_CODE_BASE)
    if not 200 <= status < 300:
        code = status if 0 <= status <= 999 else 999
        return CheckFailed(code=HTTP_CODE_BASE + code, slow_down=status in SERVER_ERROR_STATUSES)
    return _read_document(body)


@dataclass(slots=True)
class _Found:
    """What the XPaths of ParseResponse select, gathered in one pass."""

    updatecheck: dict[str, str] | None = None
    manifest: dict[str, str] | None = None
    package: dict[str, str] | None = None
    action: dict[str, str] | None = None
    codebases: list[str] | None = None


_UPDATECHECK_PATH: Final = ("response", "app", "updatecheck")
_URL_PATH: Final = (*_UPDATECHECK_PATH, "urls", "url")
_MANIFEST_PATH: Final = (*_UPDATECHECK_PATH, "manifest")
_PACKAGE_PATH: Final = (*_MANIFEST_PATH, "packages", "package")
_ACTION_PATH: Final = (*_MANIFEST_PATH, "actions", "action")


def _gather(body: bytes) -> _Found:
    found = _Found()
    path: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        path.append(name)
        here = tuple(path)
        if here == _UPDATECHECK_PATH:
            found.updatecheck = attributes if found.updatecheck is None else found.updatecheck
        elif here == _URL_PATH:
            found.codebases = [*(found.codebases or []), attributes.get("codebase", "")]
        elif here == _MANIFEST_PATH:
            found.manifest = attributes if found.manifest is None else found.manifest
        elif here == _PACKAGE_PATH:
            found.package = attributes if found.package is None else found.package
        elif here == _ACTION_PATH and found.action is None and attributes.get("event") == "postinstall":
            found.action = attributes

    def end(_name: str) -> None:
        path.pop()

    # With a namespace separator a default xmlns changes every element's name, so that all paths miss, as they do for
    # the XPaths of libxml2.
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(body, True)  # noqa: FBT003 - expat takes no keywords
    return found


@lru_cache(maxsize=512)  # most answers of a quiet server are the same bytes
def _read_document(body: bytes) -> CheckOutcome:
    if not body:
        return CheckFailed(code=ErrorCode.OMAHA_EMPTY_RESPONSE)
    try:
        found = _gather(body)
    except (expat.ExpatError, LookupError, ValueError):  # the latter two: an encoding that nobody knows
        return CheckFailed(code=ErrorCode.OMAHA_XML_PARSE)
    if found.updatecheck is None:
        return CheckFailed(code=ErrorCode.OMAHA_RESPONSE_INVALID)
    poll_interval_s = _integer(found.updatecheck.get("PollInterval", ""))
    invalid = CheckFailed(code=ErrorCode.OMAHA_RESPONSE_INVALID, poll_interval_s=poll_interval_s)
    match found.updatecheck.get("status"):
        case "noupdate":
            return NoUpdate(poll_interval_s=poll_interval_s)
        case "ok":
            return _read_offer(found, poll_interval_s) or invalid
        case _:
            return invalid


def _read_offer(found: _Found, poll_interval_s: int) -> Offer | None:
    if found.manifest is None or not found.codebases or "" in found.codebases:
        return None
    if found.package is None or found.action is None:
        return None
    name, size, sha256 = found.package.get("name", ""), found.package.get("size", ""), found.action.get("sha256", "")
    if not name or _size(size) <= 0 or not sha256:
        return None
    return Offer(
        version=found.manifest.get("version", ""),
        codebases=tuple(base if base.endswith("/") else f"{base}/" for base in found.codebases),
        name=name,
        size=_size(size),
        sha256=sha256,
        poll_interval_s=poll_interval_s,
        max_failures_per_url=_integer(found.action.get("MaxFailureCountPerUrl", "")) or 10,
        backoff_disabled=found.action.get("DisablePayloadBackoff") == "true",
        delta=found.action.get("IsDeltaPayload") == "true",
    )


def _integer(text: str) -> int:
    """An integer as base::StringToInt takes it; what is none counts as absent."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else 0


def _size(text: str) -> int:
    """An integer as update_engine's ParseInt takes it, with sscanf: what follows the digits does not matter."""
    match = re.match(r"[ \t\n\r\f\v]*([+-]?[0-9]{1,18})", text)
    return int(match[1]) if match else 0


def encode_sha256(digest: bytes) -> str:
    """A SHA-256 digest as the text that update_engine compares."""
    return base64.b64encode(digest).decode("ascii")
