"""The answer "no update now", made once for each reason: polls are answered with it without making anything."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.domain.reasons import Reason


@dataclass(frozen=True, slots=True, eq=False)
class Withheld:
    """No update now."""

    reason: Reason
    label: tuple[str] = field(init=False)
    """The reason as a metric's label: a look at an enum's value, or at its hash, costs more than the rest of a poll."""

    def __post_init__(self) -> None:
        """Prepare the label."""
        object.__setattr__(self, "label", (self.reason.value,))


WITHHELD = {reason: Withheld(reason) for reason in Reason}
