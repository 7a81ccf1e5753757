"""What waits for whom, out of everything that stands still. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final


class Whom(enum.StrEnum):
    """Who has to do something."""

    APPROVER = "approver"
    OPERATOR = "operator"
    NOBODY = "nobody"
    """It goes on by itself."""


_ORDER: Final = {whom: number for number, whom in enumerate(Whom)}


def waiting(
    *,
    everything: Mapping[str, Any],
    approvals: Iterable[Mapping[str, Any]],
    changesets: Iterable[Mapping[str, Any]],
    holds: Iterable[Mapping[str, Any]],
    rollouts: Iterable[Mapping[str, Any]],
    blind: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """All that waits, what needs people first.

    Args:
        everything: The global gate.
        approvals: Those that are open.
        changesets: Those that are halted, suspended or withdrawn.
        holds: Those in force.
        rollouts: As the API shows them.
        blind: What the analysis cannot see.
    """
    found: list[dict[str, Any]] = []
    if not everything["open"]:
        said = f"everything is halted: {everything['reason']}"
        found.append(_item(Whom.OPERATOR, "halt", said, command="uneventful unhalt --reason ..."))
    found += [
        _item(
            Whom.APPROVER,
            "approval",
            f"{one['asked_by']} asks to {one['action'].replace('_', ' ')}: {one['reason']}",
            subject=one["subject"],
            since=one["asked_at"],
            until=one["expires_at"],
            command=f"uneventful approval approve {one['approval_id']} --reason ...",
        )
        for one in approvals
    ]
    for one in changesets:
        if one["state"] != "withdrawn":
            what = f"{_release(one)} is {one['state']}" + (f": {one['reason']}" if one["reason"] else "")
            command = f"uneventful changeset show {one['version']}"
            subject = f"changesets/{one['changeset_id']}"
            found.append(
                _item(Whom.OPERATOR, one["state"], what, subject=subject, since=one["changed_at"], command=command)
            )
    for one in holds:
        segment = ", ".join(f"{fact} {value}" for fact, value in sorted(one["segment"].items()))
        said = f"{_release(one)} is held for {segment}: {one['reason']}"
        found.append(_item(Whom.OPERATOR, "hold", said, subject=f"holds/{one['hold_id']}", since=one["held_at"]))
    for one in rollouts:
        item = _of_rollout(one)
        if item is not None:
            found.append(item)
    for one in blind:
        site = "anything" if one["site"] is None else f"the site {one['site'] or 'without a name'}"
        said = f"the analysis cannot see {site} ({str(one['reason']).replace('_', ' ')}): nothing is offered meanwhile"
        found.append(_item(Whom.NOBODY, "blind", said, since=one["decided_at"]))
    return sorted(found, key=lambda item: (_ORDER[Whom(item["whom"])], item["since"] is not None, item["since"] or 0))


def _release(one: Mapping[str, Any]) -> str:
    return f"{one['application']} {one['version']} ({one['arch']})"


def _of_rollout(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a rollout waits for; None where it moves, or where its halted changeset says it already."""
    state = one["shown"]
    name = f"{one['version']} ({one['arch']}) to {one['group_name']}"
    subject = f"rollouts/{one['rollout_id']}"
    because = f": {one['reason']}" if one["reason"] else ""
    more = "; ".join(one["waits_for"])
    if state == "halted" and one["gate"]["state"] != "open":
        return None
    if state in ("halted", "paused"):
        return _item(
            Whom.OPERATOR,
            state,
            f"{name} is {state}{because}",
            subject=subject,
            since=one["changed_at"],
            command=f"uneventful rollout resume {one['group_name']} --reason ...",
        )
    if state == "waiting_for_approval":
        return _item(
            Whom.APPROVER,
            "approval",
            f"{name} waits for approval",
            subject=subject,
            since=one["changed_at"],
            command=f"uneventful rollout approve {one['group_name']} --reason ...",
        )
    if state in ("waiting_for_gate", "scheduled", "created"):
        kind = "gate" if state == "waiting_for_gate" else "window"
        said = f"{name}: {more or one['explanation'] or state}"
        return _item(Whom.NOBODY, kind, said, subject=subject, since=one["changed_at"], until=one["until"])
    if state == "braked":
        said = f"{name} is braked: {one['gate']['braked_reason'] or 'nothing of it is offered to this group'}"
        return _item(Whom.NOBODY, "brake", said, subject=subject, since=one["changed_at"])
    if one["waits_for"] and state in ("running", "held"):
        return _item(
            Whom.NOBODY, "wave", f"{name}: {more}", subject=subject, since=one["wave_since"], until=one["until"]
        )
    return None


def _item(
    whom: Whom,
    kind: str,
    what: str,
    *,
    subject: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    return {
        "whom": whom.value,
        "kind": kind,
        "what": what,
        "subject": subject,
        "since": since,
        "until": until,
        "command": command,
    }
