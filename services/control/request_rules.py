"""What holds for every request: roles, scopes, conditions, idempotency keys and dry runs. Pure."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from shared.errors import InvalidInput, NotPermitted
from shared.web import Principal, Role

MAX_REASON: Final = 1_000
_KEY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?", re.ASCII)
_ETAGS: Final = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e]*"\s*)*', re.ASCII)
_ETAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"', re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_FLAGS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


def check_role(principal: Principal, needed: Role) -> None:
    """Whether somebody may do what needs a role.

    Raises:
        NotPermitted: Not with this token.
    """
    if not principal.role.covers(needed):
        raise NotPermitted(
            f"{principal.name!r} has the role {principal.role.value}, and this needs {needed.value} or above: "
            "ask somebody with that role, or an admin for such a token"
        )


def check_query_names(given: Sequence[str], known: frozenset[str]) -> None:
    """Refuse what a query names and the operation does not know: it may be a misspelt one.

    Raises:
        InvalidInput: There is such a name.
    """
    unknown = sorted(set(given) - known)
    if unknown:
        may = f"; it may have {', '.join(sorted(known))}" if known else "; it takes none"
        raise InvalidInput(f"the query has {unknown[0][:64]!r}, which this does not know{may}")


def dry_run_of(values: Sequence[str]) -> bool:
    """Whether a query asks for a dry run.

    Raises:
        InvalidInput: It says neither true nor false, or says it twice.
    """
    if not values:
        return False
    if len(values) > 1 or values[0].lower() not in _FLAGS:
        raise InvalidInput("dry_run is true or false, and given once")
    return _FLAGS[values[0].lower()]


def key_of(header: str | None) -> str | None:
    """The idempotency key of a request.

    Raises:
        InvalidInput: It is empty, longer than 128 characters, or not printable ASCII.
    """
    if header is not None and _KEY.fullmatch(header) is None:
        raise InvalidInput("Idempotency-Key is 1 to 128 printable ASCII characters, a UUID for example")
    return header


def approval_of(header: str | None) -> uuid.UUID | None:
    """The approval that a request brings.

    Raises:
        InvalidInput: It is no UUID.
    """
    if header is None:
        return None
    if _UUID.fullmatch(header) is None:
        raise InvalidInput("Uneventful-Approval is the id of an approval: `uneventful approval list` shows them")
    return uuid.UUID(header)


def fingerprint(method: str, path: str, query: str, body: bytes) -> bytes:
    """What tells a request from another one with the same idempotency key: its SHA-256."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), query.encode(), body):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.digest()


def etag_of(body: bytes) -> str:
    """The strong ETag of an answer: the same bytes, the same tag."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@dataclass(frozen=True, slots=True)
class Tags:
    """Of If-Match or If-None-Match: the tags, or any (``*``)."""

    tags: frozenset[str]
    any: bool = False

    def match(self, etag: str, *, weakly: bool) -> bool:
        """Whether one of them is ``etag``; in strong comparison a weak tag never is (RFC 9110 8.8.3.2)."""
        if self.any:
            return True
        return etag in self.tags or (weakly and f"W/{etag}" in self.tags)


def tags_of(name: str, values: Sequence[str]) -> Tags | None:
    """What a conditional header holds; None where there is none.

    Raises:
        InvalidInput: It holds neither ``*`` nor tags in quotes.
    """
    if not values:
        return None
    text = ",".join(values)
    if text.strip() == "*":
        return Tags(frozenset(), any=True)
    if _ETAGS.fullmatch(text) is None:
        raise InvalidInput(f'{name} is * or a list of ETags in quotes, like "5d41402abc4b2a76b9719d911017c592"')
    return Tags(frozenset(_ETAG.findall(text)))


@dataclass(frozen=True, slots=True)
class Told:
    """What the middleware reads of a body before the operation does.

    Attributes:
        value: The body as JSON; ``{}`` where it is not an object: the operation will refuse it.
    """

    value: Mapping[str, Any]

    @property
    def reason(self) -> str | None:
        """Why, in the operator's own words."""
        reason = self.value.get("reason")
        return reason[:MAX_REASON] if isinstance(reason, str) and reason else None

    @property
    def application(self) -> str | None:
        """The application that it names."""
        application = self.value.get("application")
        return application if isinstance(application, str) else None


def told_of(body: bytes) -> Told:
    """A body as JSON, without any judgement of it."""
    try:
        value = msgspec.json.decode(body) if body else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = {}
    return Told(value if isinstance(value, dict) else {})


def target_of(template: str, path: str, prefix: str) -> str | None:
    """What a path names, as events name it: ``groups/<id>`` for ``/groups/{id}/...``; None where it names nothing."""
    parts = template.removeprefix(prefix).strip("/").split("/")
    given = path.removeprefix(prefix).strip("/").split("/")
    if len(parts) < 2 or not parts[1].startswith("{") or len(given) < 2:
        return None
    name = given[1].lower() if _UUID.fullmatch(given[1]) else given[1]
    return f"{parts[0]}/{name}"[:256]


def tagged_path(template: str, looks: Mapping[str, str]) -> str | None:
    """The path whose answer If-Match is about, for an operation that changes something.

    Args:
        template: The operation's path.
        looks: The paths that can be read, each with the name of its answer; lists are in brackets.

    Returns:
        The longest one that the path begins with, and that is one thing; None where there is none.
    """
    parts = template.split("/")
    for length in range(len(parts), 0, -1):
        shorter = "/".join(parts[:length])
        if shorter in looks and not looks[shorter].startswith("["):
            return shorter
    return None


def answers_with(answer: str, target: str) -> bool:
    """Whether an operation answers with its target as it is after it; ``XOrPreview`` is X, where it is no dry run."""
    return answer in (target, f"{target}OrPreview")
