"""What makes a changeset fit to be published, and the same policy twice. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.domain.policy import Policy
from shared.errors import Conflict, InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A payload of a changeset, as far as publishing asks."""

    position: int
    role: str
    name: str


def check_publishable(parts: Sequence[Part]) -> None:
    """Refuse a changeset that a node could not take.

    A node takes the first package of the answer as the update itself, so exactly one main payload stands first.

    Raises:
        Conflict: There is no main payload, more than one, or it is not at position 0.
    """
    main = [part for part in parts if part.role == "main"]
    if not main:
        raise Conflict("the changeset has no main payload: add one with `uneventful changeset payload add`")
    if len(main) > 1:
        names = ", ".join(part.name for part in main)
        raise Conflict(f"the changeset has {len(main)} main payloads ({names}): it takes exactly one")
    if main[0].position != 0:
        raise Conflict(f"the main payload {main[0].name} is at position {main[0].position}: it must be at position 0")


def read_policy(given: Mapping[str, Any]) -> Policy:
    """The policy that an operator gave, defaults filled in.

    Raises:
        InvalidInput: A name is unknown or a value is out of range; the message names it.
    """
    try:
        return msgspec.convert(dict(given), Policy)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"the policy is not usable: {fault}", details={"field": "policy"}) from fault


def merge_policy(stored: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The stored policy after a patch: values replace values, null takes a name out (RFC 7396).

    Raises:
        InvalidInput: As `read_policy`, for the result and for names that the patch takes out.
    """
    unknown = sorted(patch.keys() - {field.name for field in msgspec.structs.fields(Policy)})
    if unknown:
        raise InvalidInput(f"a policy has no {unknown[0]!r}", details={"field": "policy"})
    merged = {name: value for name, value in {**stored, **patch}.items() if value is not None}
    read_policy(merged)
    return merged
