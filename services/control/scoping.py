"""What a token for single applications may touch. Pure; the store finds whose a thing is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import NotPermitted
from shared.web import Principal

# The nouns of paths, whose things belong to one application each.
NOUNS: Final = frozenset({"approvals", "changesets", "channels", "groups", "holds", "node-tokens", "nodes", "rollouts"})


@dataclass(frozen=True, slots=True)
class ByThing:
    """The path names a thing: it must belong to one of the token's applications."""

    noun: str
    name: str


@dataclass(frozen=True, slots=True)
class ByReference:
    """The path, the query or the body names the application."""

    reference: str


@dataclass(frozen=True, slots=True)
class Unnamed:
    """It could be said which application is meant, by ``application`` in the query or the body, and it was not."""


@dataclass(frozen=True, slots=True)
class Everything:
    """It concerns all applications at once."""


Concern = ByThing | ByReference | Unnamed | Everything


def concern_of(
    template: str,
    match: Mapping[str, str],
    prefix: str,
    *,
    names_application: bool,
    application: str | None,
) -> Concern:
    """Which application a request is about.

    Args:
        template: The operation's path.
        match: What stands in the path's places.
        prefix: The API's.
        names_application: Whether its query or body can name an application.
        application: The one that it names.
    """
    noun, _, rest = template.removeprefix(prefix).strip("/").partition("/")
    if rest.startswith("{"):
        name = match[rest.partition("}")[0].removeprefix("{")]
        if noun == "applications":
            return ByReference(name)
        return ByThing(noun, name) if noun in NOUNS else Everything()
    if not names_application:
        return Everything()
    return Unnamed() if application is None else ByReference(application)


def check_scope(principal: Principal, concern: Concern, application_id: str | None) -> None:
    """Whether somebody may touch what a request is about.

    Args:
        principal: Who asks.
        concern: What about.
        application_id: Whose it is; None where there is no such thing: the operation will say so.

    Raises:
        NotPermitted: The token is for other applications.
    """
    only = principal.applications
    if only is None:
        return
    match concern:
        case Everything():
            raise NotPermitted(
                f"the token {principal.name!r} is for single applications, and this concerns all of them: "
                "ask somebody whose token is for all"
            )
        case Unnamed():
            raise NotPermitted(
                f"the token {principal.name!r} is for single applications: say which one you mean by `application`"
            )
        case ByThing() | ByReference():
            if application_id is not None and application_id not in only:
                raise NotPermitted(f"the token {principal.name!r} is for other applications than this one")
