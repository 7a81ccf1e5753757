"""The data of every event, one Struct per shape.

Within a major version fields are only added, and every added field has a default; readers ignore fields that they do
not know. Absent fields are left out of the JSON. Times are RFC 3339 strings in UTC, durations are seconds. Ids are
text: a node id is a UUID, an attempt id is the UUID of the attempt's row.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Version = Annotated[str, msgspec.Meta(max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class EventData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all event data: immutable, named fields, defaults left out of the JSON."""


class ReportSource(enum.Enum):
    """Who said that an attempt moved."""

    OMAHA = "omaha"
    NATIVE = "native"
    CINCINNATI = "cincinnati"
    GRANT = "grant"
    ANALYSIS = "analysis"
    CONTROL = "control"


class UpdateEvent(EventData, frozen=True, kw_only=True):
    """One step of one node's attempt, or a report that moved nothing (``applied`` false).

    Attributes:
        version: What the node says it runs now.
        from_version: What it ran when the attempt was granted.
        to_version: What the attempt's changeset brings.
        boot_id: Changes with every boot of the node.
        applied: Whether the event moved the attempt; reports that go back are recorded and change nothing.
        error_code: As reported, flag bits included. ``error_base`` is the code without them.
        error_class: Our class of the base code: what kind of failure it is.
        facts: What the node says of itself: platform, arch, track, oem, ...
    """

    node_id: Id
    machine_id: Name
    application_id: Id
    applied: bool
    version: Version
    source: ReportSource
    attempt_id: Id | None = None
    rollout_id: Id | None = None
    changeset_id: Id | None = None
    group_id: Id | None = None
    arch: Name | None = None
    from_version: Version | None = None
    to_version: Version | None = None
    boot_id: Text | None = None
    state_before: Name | None = None
    state_after: Name | None = None
    reason: Text | None = None
    error_code: int | None = None
    error_base: int | None = None
    error_class: Name | None = None
    facts: dict[str, Any] | None = None
    site: Name | None = None


class PayloadRef(EventData, frozen=True, kw_only=True):
    """A file of a changeset, named by its digest; ``size`` in bytes."""

    sha256: Sha256
    name: Name
    size: Count
    role: Name


class ChangesetPublished(EventData, frozen=True, kw_only=True):
    """A changeset became immutable and may be offered."""

    changeset_id: Id
    application_id: Id
    version: Version
    arch: Name
    kind: Name
    payloads: tuple[PayloadRef, ...] = ()
    by: Name | None = None


class HaltEvidence(EventData, frozen=True, kw_only=True):
    """Why a changeset was halted, enough to judge again from the ledger.

    Attributes:
        ln_e: Natural logarithm of the e-value; ``ln_e_hex`` is the same float by ``float.hex()``.
        threshold: What ``ln_e`` had to reach: ln(1 / alpha).
        started: Attempts that started, the denominator.
        prefix: The number of started attempts at which the maximum was reached.
        deciding_seq: The ledger seq of the event that decided.
    """

    rule_version: Name | None = None
    p0: Probability | None = None
    alpha: Probability | None = None
    ln_e: float | None = None
    ln_e_hex: Text | None = None
    threshold: float | None = None
    started: Count | None = None
    good: Count | None = None
    bad: Count | None = None
    pending: Count | None = None
    prefix: Count | None = None
    pace_before: Count | None = None
    deciding_seq: Count | None = None
    deciding_event_id: Id | None = None


class ChangesetHalted(EventData, frozen=True, kw_only=True):
    """No more of this changeset for anyone; latched until an operator resumes it."""

    changeset_id: Id
    version: Version
    arch: Name
    reason: Text
    by: Name
    application_id: Id | None = None
    evidence: HaltEvidence | None = None


class ChangesetResumed(EventData, frozen=True, kw_only=True):
    """An operator let a halted changeset go on; ``resumes`` counts how often that happened."""

    changeset_id: Id
    by: Name
    reason: Text
    resumes: Count


class ChangesetSuspended(EventData, frozen=True, kw_only=True):
    """A payload of the changeset is in doubt; it is not served for now."""

    changeset_id: Id
    reason: Text
    by: Name
    sha256: Sha256 | None = None


class ChangesetWithdrawn(EventData, frozen=True, kw_only=True):
    """The changeset is taken back for good."""

    changeset_id: Id
    reason: Text
    by: Name


class ChangesetMarked(EventData, frozen=True, kw_only=True):
    """A published changeset was declared a floor or a dead end, or no longer; what is absent did not change.

    Attributes:
        floor: Every node that comes from below takes it before anything newer.
        dead_end: No update leads away from it.
    """

    changeset_id: Id
    version: Version
    arch: Name
    reason: Text
    by: Name
    floor: bool | None = None
    dead_end: bool | None = None


class ChangesetAttested(EventData, frozen=True, kw_only=True):
    """The result of a release test was attached to a changeset.

    Attributes:
        name: Which test, as channels demand it (``kubernetes``, ``networking``, ...).
        verdict: ``passed``, ``failed`` or ``skipped``.
        artefact_sha256: Digest of the full report.
        signed_by: The id of the key that signed it.
    """

    changeset_id: Id
    attestation_id: Id
    name: Name
    verdict: Name
    by: Name
    summary: Text = ""
    link: Text | None = None
    artefact_sha256: Sha256 | None = None
    signed_by: Name | None = None


class ChangesetHeld(EventData, frozen=True, kw_only=True):
    """No more of a changeset for a segment; ``held`` false lets it go again.

    Attributes:
        segment: Fact names and values; a node that does not tell one of the facts matches.
    """

    changeset_id: Id
    hold_id: Id
    segment: dict[str, str]
    reason: Text
    by: Name
    held: bool = True
    evidence: dict[str, Any] | None = None


class ChangesetBraked(EventData, frozen=True, kw_only=True):
    """No more grants until it is known whether this is a halt; ``braked`` false releases the brake."""

    changeset_id: Id
    reason: Text
    by: Name
    braked: bool = True
    rollout_id: Id | None = None
    deciding_seq: Count | None = None


class ChannelPromoted(EventData, frozen=True, kw_only=True):
    """A channel points to a changeset now."""

    channel_id: Id
    name: Name
    application_id: Id
    arch: Name
    changeset_id: Id
    version: Version
    by: Name
    previous_changeset_id: Id | None = None
    kind: Name = "promote"
    reason: Text | None = None
    override_reason: Text | None = None
    approved_by: Name | None = None


class RolloutParameters(EventData, frozen=True, kw_only=True):
    """The numbers a rollout is judged by, frozen when it is created.

    Attributes:
        p0: The rate of bad outcomes that is still healthy.
        alpha: The most that a healthy changeset may be halted by chance.
        block_size: Started attempts per block of the restarting e-process.
        hold_budget: H, how many nodes may be lost before it is seen.
        concurrency: F, the most nodes in flight for the changeset.
        overdue_s: Contact of a staged node is overdue after this, and the attempt counts as started.
        silence_s: D, after this much observed time without a word the outcome is bad.
        offer_deadline_s: An offer that nothing follows is presumed lost after this.
        park_after_s: A staged node that has not rebooted by then leaves the pace.
    """

    p0: Probability
    alpha: Probability
    block_size: Count
    planned_blocks: Count
    fleet_size: Count
    group_size: Count
    hold_budget: Count
    concurrency: Count
    group_hold_budget: Count
    group_concurrency: Count
    overdue_s: Seconds
    silence_s: Seconds
    offer_deadline_s: Seconds
    park_after_s: Seconds


class RolloutCreated(EventData, frozen=True, kw_only=True):
    """One changeset to one group, with the policy and the numbers that hold for it."""

    rollout_id: Id
    group_id: Id
    group_name: Name
    changeset_id: Id
    version: Version
    arch: Name
    application_id: Id
    parameters: RolloutParameters
    channel_id: Id | None = None
    policy: dict[str, Any] = {}
    purpose: Name = "update"
    leaves_version: Version | None = None


class RolloutMoved(EventData, frozen=True, kw_only=True):
    """A rollout went from one state to another.

    Attributes:
        severity: Of a halt: how loudly to tell it, by the policy of the rollout: ``page``, ``ticket`` or ``notice``.
        group_name: Of a halt: the group as people call it.
        owner: Of a halt: whose group it is; absent where nobody is named.
        contact: Of a halt: where to tell it; absent where nothing is named.
    """

    rollout_id: Id
    changeset_id: Id
    group_id: Id
    state_before: Name
    state_after: Name
    by: Name
    reason: Text | None = None
    severity: Name | None = None
    group_name: Name | None = None
    owner: Name | None = None
    contact: Name | None = None


class RolloutWidened(EventData, frozen=True, kw_only=True):
    """The pace changed, in either direction.

    Attributes:
        rollout_id: Absent when the pace of the whole changeset is meant.
        group_paces: The pace of each rollout, by rollout id.
        p_upper: The upper confidence bound on the rate of bad outcomes that the pace follows from.
        seq: The ledger seq up to which the counts hold.
    """

    changeset_id: Id
    pace_before: Count
    pace_after: Count
    p_upper: Probability
    started: Count
    good: Count
    bad: Count
    pending: Count
    seq: Count
    group_paces: dict[str, int] = {}
    rollout_id: Id | None = None


class RolloutWaveBegun(EventData, frozen=True, kw_only=True):
    """A wider share of the group may be offered the changeset.

    Attributes:
        wave: Its number from 0.
        fraction: The share of the group.
    """

    rollout_id: Id
    changeset_id: Id
    group_id: Id
    wave: Count
    fraction: Probability
    by: Name
    reason: Text | None = None


class RolloutGateJudged(EventData, frozen=True, kw_only=True):
    """What a rollout's gates say changed.

    Attributes:
        passed: Whether all of them are open.
        gates: Per gate what it has seen, what it waits for, and until when at the earliest.
    """

    rollout_id: Id
    changeset_id: Id
    group_id: Id
    passed: bool
    gates: tuple[dict[str, Any], ...] = ()


class RolloutChanged(EventData, frozen=True, kw_only=True):
    """An operator approved or expedited a rollout, capped its pace, or excluded a node from it.

    Attributes:
        pace_cap: The most nodes of the group in flight; absent where the cap was taken away.
        lifted: Whether the node may be offered the changeset again.
    """

    rollout_id: Id
    changeset_id: Id
    group_id: Id
    by: Name
    reason: Text | None = None
    node_id: Id | None = None
    pace_cap: Count | None = None
    approved_by: Name | None = None
    lifted: bool = False


class ApprovalMoved(EventData, frozen=True, kw_only=True):
    """Somebody asked for what needs four eyes, or another one decided it; ``verdict`` is absent while it is open."""

    approval_id: Id
    subject: Text
    action: Name
    by: Name
    reason: Text
    verdict: Name | None = None


class OperatorActed(EventData, frozen=True, kw_only=True):
    """Somebody changed something through the API: who, what, why, and from where.

    Attributes:
        action: Method and path of the operation, as openapi.yaml names it.
        subject: What it was about, as other events name it.
        address: Where the request came from.
    """

    by: Name
    role: Name
    action: Name
    subject: Text
    reason: Text | None = None
    address: Name | None = None
    request_id: Name | None = None


class KeysChanged(EventData, frozen=True, kw_only=True):
    """The list of signing keys changed; ``version`` is the list's."""

    version: Count
    key_ids: tuple[Name, ...]
    by: Name
    added: Name | None = None
    retired: Name | None = None
    reason: Text | None = None


class AttesterChanged(EventData, frozen=True, kw_only=True):
    """A tester's key is trusted to sign attestations, or (``trusted`` false) no longer."""

    name: Name
    key_id: Id
    by: Name
    trusted: bool = True
    reason: Text | None = None


class NodeChanged(EventData, frozen=True, kw_only=True):
    """An operator named a node, imported facts of it, or forgot it."""

    node_id: Id
    by: Name
    machine_id: Name | None = None
    application_id: Id | None = None
    alias: Name | None = None
    facts: dict[str, str] | None = None
    forgotten: bool = False
    reason: Text | None = None


class FleetFlooded(EventData, frozen=True, kw_only=True):
    """One machine id or address sent more reports than are taken; the rest was dropped.

    Attributes:
        kind: ``machine`` or ``address``.
        source: The machine id or the address.
        dropped: Reports dropped since the last such event.
    """

    application_id: Id
    kind: Name
    source: Name
    dropped: Count


class PolicyChanged(EventData, frozen=True, kw_only=True):
    """Something that decisions depend on changed; snapshots older than ``policy_version`` are stale."""

    policy_version: Count
    subject: Text
    what: Text
    by: Name


class NodeEnrolled(EventData, frozen=True, kw_only=True):
    """A node was seen for the first time."""

    node_id: Id
    machine_id: Name
    application_id: Id
    version: Version
    group_id: Id | None = None
    boot_id: Text | None = None
    arch: Name | None = None
    facts: dict[str, Any] = {}
    address: Name | None = None


class NodeTokenIssued(EventData, frozen=True, kw_only=True):
    """A machine enrolled and got a token of its own.

    Attributes:
        token_id: The token's, by which it is revoked.
        enrolment_id: The enrolment token that it showed.
    """

    application_id: Id
    machine_id: Name
    token_id: Id
    enrolment_id: Id
    group_id: Id | None = None
    address: Text | None = None


class NodeCloned(EventData, frozen=True, kw_only=True):
    """Two machines use one machine id: neither gets grants, neither is evidence."""

    node_id: Id
    machine_id: Name
    application_id: Id
    addresses: tuple[Text, ...] = ()
    boot_ids: tuple[Text, ...] = ()


class NodeQuarantined(EventData, frozen=True, kw_only=True):
    """A changeset is not offered to this node again, or (``lifted``) may be again."""

    node_id: Id
    changeset_id: Id
    reason: Text
    lifted: bool = False
    machine_id: Name | None = None
    application_id: Id | None = None
    attempt_id: Id | None = None
    by: Name | None = None


class NodeGone(EventData, frozen=True, kw_only=True):
    """A node left the fleet for good; an attempt of it stays in the denominator and is not bad."""

    node_id: Id
    machine_id: Name | None = None
    application_id: Id | None = None
    attempt_id: Id | None = None
    changeset_id: Id | None = None
    rollout_id: Id | None = None
    reason: Text | None = None
    by: Name | None = None


class LogTicked(EventData, frozen=True, kw_only=True):
    """The log is alive. Deadlines are judged by the time between ticks.

    Attributes:
        contacts: Contacts of idle nodes since the last tick, per site.
        expected: How many contacts there should have been, per site.
        ingest_lag_s: Age of the oldest event that was not in the ledger yet.
        interval_s: Time since the last tick.
        inbox_depth: Events that were not in the ledger yet.
    """

    contacts: dict[str, int]
    expected: dict[str, float]
    ingest_lag_s: Seconds
    interval_s: Seconds
    inbox_depth: Count
