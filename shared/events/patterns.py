"""Patterns over event types, as a topic exchange reads them: ``*`` is one word, ``#`` any number of words."""

from __future__ import annotations

import functools
import re

from shared.errors import InvalidInput

_PATTERN = re.compile(r"(?:[a-z0-9_]+|\*|#)(?:\.(?:[a-z0-9_]+|\*|#))*", re.ASCII)
_WORDS_OF_A_TYPE = 3


@functools.lru_cache(maxsize=1024)
def to_regex(pattern: str) -> str:
    """An anchored regular expression with the same meaning, for Python and for Postgres.

    Raises:
        InvalidInput: The pattern is malformed, or its number of words fits no type.
    """
    if len(pattern) > 200 or _PATTERN.fullmatch(pattern) is None:
        raise InvalidInput(f"{pattern[:80]!r} is no pattern: write words, * for one word or # for any, with dots")
    words = pattern.split(".")
    if "#" not in words and len(words) != _WORDS_OF_A_TYPE:
        raise InvalidInput(f"{pattern!r} fits no event type: types have three words, write {words[0]}.# or add words")
    words = [word for place, word in enumerate(words) if not (word == "#" and words[place - 1 : place] == ["#"])]
    if words == ["#"]:
        return "^.*$"
    regex = ""
    for place, word in enumerate(words):
        if word == "#":
            regex += r"(\.[a-z0-9_]+)*" if place else r"([a-z0-9_]+\.)*"
        else:
            after_leading_hash = place == 1 and words[0] == "#"
            regex += (r"\." if place and not after_leading_hash else "") + (r"[a-z0-9_]+" if word == "*" else word)
    return f"^{regex}$"


@functools.lru_cache(maxsize=8192)
def matches(pattern: str, event_type: str) -> bool:
    """Whether the pattern takes in the type."""
    return re.fullmatch(to_regex(pattern), event_type) is not None
