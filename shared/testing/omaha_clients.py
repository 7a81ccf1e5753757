"""Omaha clients as pure functions: the bytes they send, and by which rules they take an answer.

Sources: update_engine's ``omaha_request_action.cc`` (request text, response rules) and ``systemd/update_engine_stub``;
ue-rs's ``omaha/src/response.rs`` (what ``download_sysext`` insists on); libxml2's ``entities.c`` (escaping).
"""

from __future__ import annotations

import base64
import binascii
import enum
import re
import uuid
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree as ET

import msgspec

from shared.omaha.errorcodes import ErrorCode
from shared.omaha.request import App, Event, Request

# --- what they send ---------------------------------------------------------------------------------------------------


def xml_encode(text: str, *, escape_quotes: bool = True) -> str:
    """Escapes a value as xmlEncodeEntitiesReentrant does without a document: ``<``, ``>``, ``&``, CR and non-ASCII.

    It leaves quotation marks alone, which is why older clients send malformed XML for an alias in quotation marks;
    ``escape_quotes=False`` is such a client.
    """
    written = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    if escape_quotes:
        written = written.replace('"', "&quot;")
    if written.isascii():
        return written
    return "".join(character if character.isascii() else f"&#x{ord(character):X};" for character in written)


def render_request(request: Request, *, escape_quotes: bool = True) -> bytes:
    """The exact bytes that update_engine sends: attribute order, line breaks, indents, and a blank before ``>``.

    Attributes that update_engine never sends (``os@arch``, ``from_track``, ``targetversionprefix``) are not written.
    """

    def encoded(text: str) -> str:
        return xml_encode(text, escape_quotes=escape_quotes)

    apps = "".join(
        f'    <app appid="{encoded(app.appid)}" version="{encoded(app.version)}" track="{encoded(app.track)}"'
        f' bootid="{encoded(app.bootid)}" oem="{encoded(app.oem)}" oemversion="{encoded(app.oemversion)}"'
        f' alephversion="{encoded(app.alephversion)}" machineid="{encoded(app.machineid)}"'
        f' machinealias="{encoded(app.machinealias)}" lang="{encoded(app.lang)}" board="{encoded(app.board)}"'
        f' hardware_class="{encoded(app.hardware_class)}" delta_okay="{"true" if app.delta_okay else "false"}" >\n'
        f"{_app_body(app, escape_quotes=escape_quotes)}    </app>\n"
        for app in request.apps
    )
    updater = encoded(request.updater_version)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<request protocol="{encoded(request.protocol)}" version="{updater}" updaterversion="{updater}"'
        f' installsource="{encoded(request.install_source)}" ismachine="{"1" if request.is_machine else "0"}">\n'
        f'    <os version="{encoded(request.os_version)}" platform="{encoded(request.os_platform)}"'
        f' sp="{encoded(request.os_service_pack)}"></os>\n'
        f"{apps}"
        "</request>\n"
    ).encode("ascii")


def _app_body(app: App, *, escape_quotes: bool) -> str:
    lines = []
    if app.ping:
        lines.append('        <ping active="1"></ping>\n')
    if app.update_check:
        lines.append("        <updatecheck></updatecheck>\n")
    lines.extend(f"        {_event_element(event, escape_quotes=escape_quotes)}\n" for event in app.events)
    return "".join(lines)


def _event_element(event: Event, *, escape_quotes: bool) -> str:
    """An event; as update_engine does it, the previous version goes with result 2 and the code with what has one."""
    attributes = f'eventtype="{event.eventtype}" eventresult="{event.eventresult}"'
    if event.errorcode is not None:
        attributes += f' errorcode="{event.errorcode}"'
    if event.eventresult == 2 or event.previousversion:
        attributes += f' previousversion="{xml_encode(event.previousversion, escape_quotes=escape_quotes)}"'
    return f"<event {attributes}></event>"


def render_stub_request(request: Request) -> bytes:
    """The exact bytes of ``update_engine_stub``, the check-in of machines without a disk; it escapes nothing."""
    app = request.apps[0]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<request protocol="3.0" version="{request.updater_version}" updaterversion="{request.updater_version}"'
        f' installsource="{request.install_source}" ismachine="1">\n'
        f'<os version="{request.os_version}" platform="{request.os_platform}" sp="{request.os_service_pack}"></os>\n'
        f'<app appid="{app.appid}" oem="{app.oem}" version="{app.version}" track="{app.track}" bootid="{app.bootid}"'
        f' machineid="{app.machineid}" machinealias="{app.machinealias}" lang="{app.lang}" hardware_class=""'
        ' delta_okay="false"  >\n'
        '<event eventtype="3" eventresult="2" previousversion=""></event>\n'
        "</app>\n"
        "</request>"
    ).encode()


# --- how update_engine takes an answer --------------------------------------------------------------------------------


class Expects(enum.Enum):
    """What a message asked for, which decides how much of the answer is read."""

    UPDATE_CHECK = enum.auto()
    PING = enum.auto()
    EVENT = enum.auto()


class UpdateEngineResult(msgspec.Struct, frozen=True, kw_only=True):
    """What update_engine knows after an answer it accepted; without an update only ``poll_interval`` counts.

    ``poll_interval`` is 0 when none was sent; ``urls`` are whole payload URLs in order of preference.
    """

    update: bool
    poll_interval: int = 0
    version: str = ""
    urls: tuple[str, ...] = ()
    size: int = 0
    sha256_base64: str = ""
    is_delta: bool = False
    disable_payload_backoff: bool = False
    max_failure_count_per_url: int = 10


class UpdateEngineRejectionError(Exception):
    """update_engine takes the answer as a failure; ``base`` is the code it then reports, without flag bits."""

    def __init__(self, base: int, reason: str) -> None:
        super().__init__(f"update_engine error {base}: {reason}")
        self.base = base


def update_engine_reads(
    body: bytes, *, http_status: int = 200, expects: Expects = Expects.UPDATE_CHECK
) -> UpdateEngineResult:
    """What update_engine makes of an answer.

    Raises:
        UpdateEngineRejectionError: With the base code that it would report.
    """
    if expects is Expects.EVENT:
        return UpdateEngineResult(update=False)
    if not 200 <= http_status < 300:
        raise UpdateEngineRejectionError(2000 + (http_status if 0 <= http_status < 1000 else 999), "HTTP status")
    if not body:
        raise UpdateEngineRejectionError(ErrorCode.OMAHA_REQUEST_EMPTY_RESPONSE_ERROR, "empty body")
    root = _xml(body)
    if root is None:
        raise UpdateEngineRejectionError(ErrorCode.OMAHA_REQUEST_XML_PARSE_ERROR, "not well-formed")
    if expects is Expects.PING:
        return UpdateEngineResult(update=False)
    # A default namespace makes "response" something else here, exactly as it does for XPath without prefixes.
    checks = root.findall("./app/updatecheck") if root.tag == "response" else []
    if not checks:
        raise _invalid("no /response/app/updatecheck")
    check = checks[0]
    interval = check.get("PollInterval", "")
    poll_interval = int(interval) if re.fullmatch(r"[+-]?[0-9]{1,9}", interval) else 0
    status = check.get("status")
    if status == "noupdate":
        return UpdateEngineResult(update=False, poll_interval=poll_interval)
    if status != "ok":
        raise _invalid(f"updatecheck status {status}")
    manifest = root.find("./app/updatecheck/manifest")
    if manifest is None:
        raise _invalid("no manifest")
    codebases = [url.get("codebase", "") for url in root.findall("./app/updatecheck/urls/url")]
    if not codebases or not all(codebases):
        raise _invalid("no url, or one without a codebase")
    package = root.find("./app/updatecheck/manifest/packages/package")
    name = "" if package is None else package.get("name", "")
    if package is None or not name:
        raise _invalid("no package with a name")
    size = re.match(r"\s*[+-]?[0-9]+", package.get("size", ""))
    if size is None or int(size[0]) <= 0:
        raise _invalid("the first package has no size")
    actions = root.findall("./app/updatecheck/manifest/actions/action")
    action = next((action for action in actions if action.get("event") == "postinstall"), None)
    if action is None:
        raise _invalid("no postinstall action")
    sha256 = action.get("sha256", "")
    if not sha256:
        raise _invalid("the postinstall action has no sha256")
    failures = action.get("MaxFailureCountPerUrl", "")
    return UpdateEngineResult(
        update=True,
        poll_interval=poll_interval,
        version=manifest.get("version", ""),
        urls=tuple((base if base.endswith("/") else base + "/") + name for base in codebases),
        size=int(size[0]),
        sha256_base64=sha256,
        is_delta=action.get("IsDeltaPayload") == "true",
        disable_payload_backoff=action.get("DisablePayloadBackoff") == "true",
        max_failure_count_per_url=int(failures) if re.fullmatch(r"[0-9]{1,9}", failures) else 10,
    )


def _invalid(reason: str) -> UpdateEngineRejectionError:
    return UpdateEngineRejectionError(ErrorCode.OMAHA_RESPONSE_INVALID, reason)


# --- how ue-rs takes it -----------------------------------------------------------------------------------------------


class UeRsPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package that ``download_sysext`` could fetch."""

    name: str
    url: str
    size: int
    required: bool
    sha1: bytes | None
    sha256: bytes | None


class UeRsRejectionError(Exception):
    """ue-rs cannot read the answer."""


def ue_rs_reads(body: bytes) -> tuple[UeRsPackage, ...]:
    """The packages that ue-rs finds in an answer; those without any hash are left out, as it leaves them out.

    flatcar-postinst hands ue-rs the saved answer that made update_engine install, so a real ue-rs never sees one
    without an update; such an answer is checked here as far as ue-rs's rules go (ids, statuses) and has no packages.

    Raises:
        UeRsRejectionError: Something that ue-rs insists on is missing or of another form.
    """
    root = _xml(body)
    if root is None or root.tag != "response":
        raise UeRsRejectionError("no <response>")
    _attribute(root, "protocol")
    return tuple(package for app in root.findall("app") for package in _ue_rs_app(app))


def _ue_rs_app(app: ET.Element) -> list[UeRsPackage]:
    try:
        uuid.UUID(_attribute(app, "appid"))
    except ValueError as error:
        raise UeRsRejectionError("app@appid is no UUID") from error
    _attribute(app, "status")
    check = app.find("updatecheck")
    if check is None:
        return []
    status = _attribute(check, "status")
    urls = check.find("urls")
    if urls is None:
        raise UeRsRejectionError("no <urls>")
    codebases = [_attribute(url, "codebase") for url in urls.findall("url")]
    for codebase in codebases:
        if not urlsplit(codebase).scheme:
            raise UeRsRejectionError(f"{codebase} is no URL")
    if status == "noupdate":
        return []
    manifest = check.find("manifest")
    if manifest is None:
        raise UeRsRejectionError("no <manifest>")
    _attribute(manifest, "version")
    packages = manifest.find("packages")
    actions = manifest.find("actions")
    if packages is None or actions is None:
        raise UeRsRejectionError("no <packages> or no <actions>")
    for action in actions.findall("action"):
        if _attribute(action, "event") not in {"preinstall", "install", "postinstall", "update"}:
            raise UeRsRejectionError(f"unknown action event {action.get('event')}")
        _base64(_attribute(action, "sha256"), 32)
        if action.get("DisablePayloadBackoff", "true") not in {"true", "false"}:
            raise UeRsRejectionError("DisablePayloadBackoff is no boolean")
    found = [_ue_rs_package(package, codebases) for package in packages.findall("package")]
    return [package for package in found if package.sha1 is not None or package.sha256 is not None]


def _ue_rs_package(package: ET.Element, codebases: list[str]) -> UeRsPackage:
    name = _attribute(package, "name")
    size = _attribute(package, "size")
    required = _attribute(package, "required")
    sha1 = package.get("hash")
    sha256 = package.get("hash_sha256")
    if not (size.isascii() and size.isdecimal()):
        raise UeRsRejectionError(f"size {size} of {name}")
    if required not in {"true", "false"}:
        raise UeRsRejectionError(f"required {required} of {name}")
    if sha256 is not None and re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
        raise UeRsRejectionError(f"hash_sha256 {sha256} of {name}")
    if not codebases:
        raise UeRsRejectionError("no <url>")
    return UeRsPackage(
        name=name,
        url=urljoin(codebases[0], name),
        size=int(size),
        required=required == "true",
        sha1=None if sha1 is None else _base64(sha1, 20),
        sha256=None if sha256 is None else bytes.fromhex(sha256),
    )


def _attribute(element: ET.Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise UeRsRejectionError(f"{element.tag}@{name} is missing")
    return value


def _base64(text: str, size: int) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UeRsRejectionError(f"{text} is not base64") from error
    if len(digest) != size:
        raise UeRsRejectionError(f"{text} is not the base64 of {size} bytes")
    return digest


def _xml(body: bytes) -> ET.Element | None:
    try:
        return ET.fromstring(body)  # noqa: S314  # answers of our own server, in tests and in the simulator
    except ET.ParseError:
        return None
