"""Settings: typed, frozen, read once from the environment, refused by name.

A service's settings are a frozen, keyword-only msgspec Struct. Field ``foo_bar`` is read from ``UNEVENTFUL_FOO_BAR``,
or from the file that ``UNEVENTFUL_FOO_BAR_FILE`` names (container secrets). Bounds and the line of documentation come
from ``Annotated[int, msgspec.Meta(ge=1, le=10, description="...")]``. A variable that is set to nothing counts as not
set, so that ``${NAME:-}`` in a compose file means the default.
"""

from __future__ import annotations

import difflib
import enum
import hmac
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin

import msgspec

from shared.errors import SettingsInvalid

PREFIX: Final = "UNEVENTFUL_"
FILE_SUFFIX: Final = "_FILE"
MAX_FILE_BYTES: Final = 64 * 1024

S = TypeVar("S")


class Secret:
    """A value that does not show itself: ``repr``, ``str`` and logs have ``***``; ``reveal()`` gives it out.

    It is no ``str``, so orjson and msgspec refuse to write it unless they are told how.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))


class LogLevel(enum.StrEnum):
    """How much is logged; read without regard to case."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @classmethod
    def _missing_(cls, value: object) -> LogLevel | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service is told; each service's own settings derive from it."""

    database_url: Annotated[
        Secret, msgspec.Meta(description="Postgres, as postgresql://user:password@host:port/database.")
    ]
    amqp_url: Annotated[
        Secret | None,
        msgspec.Meta(description="RabbitMQ, as amqp://user:password@host:port/vhost; not set: follow the ledger."),
    ] = None
    host: Annotated[str, msgspec.Meta(min_length=1, description="The address that the service listens on.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, msgspec.Meta(ge=0, le=65535, description="The service's port; 0 takes a free one.")] = 0
    status_host: Annotated[
        str, msgspec.Meta(min_length=1, description="The address for /livez, /readyz and /metrics.")
    ] = "127.0.0.1"
    status_port: Annotated[int, msgspec.Meta(ge=0, le=65535, description="The status port; 0 takes a free one.")] = 0
    log_level: Annotated[LogLevel, msgspec.Meta(description="How much is logged.")] = LogLevel.INFO
    otlp_endpoint: Annotated[
        str | None,
        msgspec.Meta(description="OTLP over HTTP, as http://host:4318; not set: no traces, no pushed metrics."),
    ] = None
    shutdown_seconds: Annotated[
        float, msgspec.Meta(ge=0.1, le=300, description="Seconds that a graceful stop may take.")
    ] = 8.0
    ready_file: Annotated[
        str | None,
        msgspec.Meta(description="A file that gets {pid, url, status_url} as JSON once the service serves."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDoc:
    """One setting, for ``--help`` and the reference.

    Attributes:
        name: The environment variable.
        type: The type in words: ``int``, ``text``, ``secret``, or the words of an enumeration.
        default: The default as it would be written, or None where there is none.
        required: Whether it must be set.
        bounds: Like ``0..65535``; empty where there are none.
        doc: One sentence.
    """

    name: str
    type: str
    default: str | None
    required: bool
    bounds: str
    doc: str


def load(kind: type[S], environ: Mapping[str, str], *, prefix: str = PREFIX) -> S:
    """Read the settings of ``kind`` from ``environ``.

    Args:
        kind: A frozen, keyword-only msgspec Struct.
        environ: Usually ``os.environ``; nothing else is read, except the files that ``..._FILE`` variables name.
        prefix: What every variable's name begins with.

    Raises:
        SettingsInvalid: With all faults at once: missing, malformed and out-of-range variables, and those that
            begin with ``prefix`` but are none of ``kind``'s.
    """
    fields = {prefix + field.name.upper(): field for field in _fields(kind)}
    faults: list[str] = []
    values: dict[str, object] = {}
    for variable, field in fields.items():
        try:
            raw = _raw(variable, environ, fields)
            if raw is not None:
                values[field.name] = _convert(variable, raw, field.type)
            elif field.required:
                faults.append(f"{variable} is missing; {_expectation(field.type)}")
        except _FaultError as fault:
            faults.append(str(fault))
    faults.extend(_unknown(environ, prefix, fields))
    if faults:
        raise SettingsInvalid(tuple(faults))
    return kind(**values)


def describe(kind: type[object], *, prefix: str = PREFIX) -> list[SettingDoc]:
    """The settings of ``kind``, in the order of its fields."""
    return [
        SettingDoc(
            name=prefix + field.name.upper(),
            type=_type_words(field.type),
            default=_default_words(field),
            required=field.required,
            bounds=_bounds(field.type),
            doc=_description(field.type),
        )
        for field in _fields(kind)
    ]


class _FaultError(Exception):
    """One fault, in words that begin with the variable's name."""


def _fields(kind: type[object]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(cast("type[msgspec.Struct]", kind))


def _raw(variable: str, environ: Mapping[str, str], known: Mapping[str, object]) -> str | None:
    direct = environ.get(variable) or None
    file_variable = variable + FILE_SUFFIX
    path = None if file_variable in known else environ.get(file_variable) or None
    if path is None:
        return direct
    if direct is not None:
        raise _FaultError(f"{variable} and {file_variable} are both set; set one of them")
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _FaultError(f"{file_variable} names {path!r}, which cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise _FaultError(f"{file_variable} names {path!r}, which is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode().rstrip("\r\n") or None
    except UnicodeDecodeError as error:
        raise _FaultError(f"{file_variable} names {path!r}, which is not UTF-8 text") from error


def _convert(variable: str, raw: str, annotation: Any) -> object:
    inner = _strip(annotation)
    value: object = raw
    if get_origin(inner) in (tuple, list):
        value = [part.strip() for part in raw.split(",") if part.strip()]
    elif inner in (int, float):
        value = raw.strip()
    elif inner is bool:
        value = _BOOL_WORDS.get(raw.strip().lower())
        if value is None:
            raise _FaultError(f"{variable} is {raw!r}; {_expectation(annotation)}")
    try:
        return msgspec.convert(value, annotation, strict=False, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        shown = "***" if inner is Secret else repr(raw)
        raise _FaultError(f"{variable} is {shown}; {_expectation(annotation)}") from error


_BOOL_WORDS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


def _decode_custom(kind: type[Any], value: Any) -> object:
    if kind is Secret:
        return Secret(value)
    if kind is Path:
        return Path(value)
    msg = f"settings cannot be of type {kind!r}; use a number, text, bool, enum, Path, Secret or a tuple of them"
    raise NotImplementedError(msg)


def _unknown(environ: Mapping[str, str], prefix: str, known: Mapping[str, object]) -> list[str]:
    faults = []
    for name in sorted(environ):
        if not name.startswith(prefix) or name in known or name.removesuffix(FILE_SUFFIX) in known:
            continue
        bare = [other.removeprefix(prefix) for other in known]
        near = difflib.get_close_matches(name.removeprefix(prefix), bare, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else "take it out"
        faults.append(f"{name} is no setting of this program; {hint}")
    return faults


def _metas(annotation: Any) -> list[msgspec.Meta]:
    """All ``Meta`` of a type, those inside ``X | None`` included; the outermost comes first."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return [item for item in extra if isinstance(item, msgspec.Meta)] + _metas(inner)
    if get_origin(annotation) in (Union, types.UnionType):
        return [meta for part in get_args(annotation) for meta in _metas(part)]
    return []


def _strip(annotation: Any) -> Any:
    """The type itself: without ``Annotated`` and ``| None``."""
    if get_origin(annotation) is Annotated:
        return _strip(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        return _strip(parts[0]) if len(parts) == 1 else annotation
    return annotation


def _type_words(annotation: Any) -> str:
    inner = _strip(annotation)
    if isinstance(inner, type) and issubclass(inner, enum.Enum):
        return " | ".join(str(member.value) for member in inner)
    if get_origin(inner) in (tuple, list):
        return f"{_type_words(get_args(inner)[0])}, ... (comma-separated)"
    names = {str: "text", Secret: "secret", bool: "true | false", int: "integer", float: "number", Path: "path"}
    return names.get(inner, getattr(inner, "__name__", str(inner)))


def _bounds(annotation: Any) -> str:
    low: str | float | None = None
    high: str | float | None = None
    least = most = pattern = None
    for meta in _metas(annotation):
        low = meta.ge if meta.ge is not None else low
        low = f"over {meta.gt}" if meta.gt is not None else low
        high = meta.le if meta.le is not None else high
        high = f"under {meta.lt}" if meta.lt is not None else high
        least = meta.min_length if meta.min_length is not None else least
        most = meta.max_length if meta.max_length is not None else most
        pattern = meta.pattern if meta.pattern is not None else pattern
    words = []
    if low is not None or high is not None:
        words.append(f"{'' if low is None else low}..{'' if high is None else high}")
    if least is not None or most is not None:
        words.append(f"length {'' if least is None else least}..{'' if most is None else most}")
    if pattern is not None:
        words.append(f"matches {pattern}")
    return ", ".join(words)


def _description(annotation: Any) -> str:
    return next((meta.description for meta in _metas(annotation) if meta.description), "")


def _expectation(annotation: Any) -> str:
    bounds = _bounds(annotation)
    words = f"expected {_type_words(annotation)}" + (f" ({bounds})" if bounds else "")
    doc = _description(annotation)
    return f"{words}: {doc}" if doc else words


def _default_words(field: msgspec.structs.FieldInfo) -> str | None:
    default = field.default
    if default is msgspec.NODEFAULT:
        if field.default_factory is msgspec.NODEFAULT:
            return None
        default = field.default_factory()
    if default is None:
        return None
    if isinstance(default, enum.Enum):
        return str(default.value)
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple | list):
        return ",".join(str(item) for item in default)
    return str(default)
