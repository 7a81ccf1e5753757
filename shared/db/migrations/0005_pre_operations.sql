-- What operators run a production fleet with: schemes, floors, manifests, attestations, pins, waves, gates, approvals, holds,
-- exclusions, roles, enrolment, facts that nodes do not tell themselves, and what is shown of single polls.

ALTER TABLE control.applications
    ADD COLUMN product text,
    ADD COLUMN version_scheme text NOT NULL DEFAULT 'flatcar' CHECK (version_scheme IN ('flatcar', 'semver', 'calendar')),
    -- Nodes are seen and nothing is offered: beside another update server.
    ADD COLUMN observe_only boolean NOT NULL DEFAULT false;

ALTER TABLE control.changesets
    ADD COLUMN components jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN packages jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN source text NOT NULL DEFAULT '',
    -- A floor is taken by every node that comes from below it, before anything newer.
    ADD COLUMN floor boolean NOT NULL DEFAULT false,
    ADD COLUMN floor_reason text,
    -- No update leads away from a dead end.
    ADD COLUMN dead_end boolean NOT NULL DEFAULT false,
    ADD COLUMN dead_end_reason text,
    ADD COLUMN minimum_version text,
    -- The canonical bytes that were signed at publishing, and [{"key_id": ..., "signature": base64}, ...].
    ADD COLUMN manifest bytea,
    ADD COLUMN signatures jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN withdrawn_at timestamptz,
    ADD COLUMN withdrawn_reason text;

-- Public halves of the keys that changesets are signed with; the private halves never come here.
CREATE TABLE control.signing_keys (
    key_id text PRIMARY KEY CHECK (length(key_id) BETWEEN 1 AND 64),
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    retired_at timestamptz
);

-- Lists of the keys in force, each signed by a key of the list before it: how nodes follow a rotation.
CREATE TABLE control.key_lists (
    version integer PRIMARY KEY CHECK (version >= 1),
    document bytea NOT NULL,
    signatures jsonb NOT NULL DEFAULT '[]',
    made_at timestamptz NOT NULL DEFAULT now(),
    made_by text NOT NULL
);

CREATE TABLE control.attestations (
    attestation_id uuid PRIMARY KEY,
    changeset_id uuid NOT NULL REFERENCES control.changesets,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    verdict text NOT NULL CHECK (verdict IN ('passed', 'failed', 'skipped')),
    summary text NOT NULL DEFAULT '',
    link text,
    artefact_sha256 text CHECK (artefact_sha256 ~ '^[0-9a-f]{64}$'),
    -- Single results: [{"name": ..., "verdict": ..., "seconds": ..., "message": ...}, ...].
    results jsonb NOT NULL DEFAULT '[]',
    signature jsonb,
    attested_by text NOT NULL,
    attested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX attestations_by_changeset ON control.attestations (changeset_id, name, attested_at DESC);

ALTER TABLE control.channels
    -- Stability: a lower position is less stable (alpha 0, beta 1, stable 2, lts 3).
    ADD COLUMN position integer NOT NULL DEFAULT 2 CHECK (position BETWEEN 0 AND 63),
    ADD COLUMN required_attestations text[] NOT NULL DEFAULT '{}';

ALTER TABLE control.channel_history
    ADD COLUMN kind text NOT NULL DEFAULT 'promote' CHECK (kind IN ('promote', 'rollback')),
    ADD COLUMN reason text,
    -- Set where demanded attestations were missing: why it was promoted all the same, and by whom that was approved.
    ADD COLUMN override_reason text,
    ADD COLUMN approved_by text;

ALTER TABLE control.groups
    ADD COLUMN owner text NOT NULL DEFAULT '',
    ADD COLUMN contact text NOT NULL DEFAULT '',
    ADD COLUMN pinned_version text CHECK (length(pinned_version) BETWEEN 1 AND 128),
    ALTER COLUMN channel_name DROP NOT NULL,
    ADD CONSTRAINT groups_follow_something CHECK (channel_name IS NOT NULL OR pinned_version IS NOT NULL);

-- Nodes that are named one by one: they belong to this group whatever their facts are.
CREATE TABLE control.group_nodes (
    application_id uuid NOT NULL REFERENCES control.applications,
    machine_id text NOT NULL CHECK (length(machine_id) BETWEEN 1 AND 128),
    group_id uuid NOT NULL REFERENCES control.groups ON DELETE CASCADE,
    PRIMARY KEY (application_id, machine_id)
);
CREATE INDEX group_nodes_by_group ON control.group_nodes (group_id);

ALTER TABLE control.rollouts
    -- update: the group's next changeset; floor: a floor on the way to one; downgrade: back from a withdrawn one;
    -- drill: single nodes there and back, on purpose.
    ADD COLUMN purpose text NOT NULL DEFAULT 'update' CHECK (purpose IN ('update', 'floor', 'downgrade', 'drill')),
    -- Of a downgrade or the way back of a drill: the version that nodes leave.
    ADD COLUMN leaves_version text,
    -- Only these machine ids (a drill); NULL: the whole group.
    ADD COLUMN only_machines text[],
    -- Waves: the one that runs, since when, and the share of the group that may be offered it now.
    ADD COLUMN wave integer NOT NULL DEFAULT 0 CHECK (wave >= 0),
    ADD COLUMN wave_since timestamptz,
    ADD COLUMN fraction double precision NOT NULL DEFAULT 1 CHECK (fraction BETWEEN 0 AND 1),
    -- Where the policy orders nodes by a fact: those of the stages up to this one may be offered it now.
    ADD COLUMN order_stage integer NOT NULL DEFAULT 0 CHECK (order_stage >= 0),
    -- A cap by hand or by a gate in mode `time` below the analysis' pace; NULL: none.
    ADD COLUMN pace_cap integer CHECK (pace_cap >= 0),
    ADD COLUMN starts_at timestamptz,
    -- What the gates said when they were last judged; see shared.domain.gate.
    ADD COLUMN gates jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN approved_by text,
    ADD COLUMN approved_at timestamptz,
    ADD COLUMN expedited_by text,
    ADD COLUMN expedited_at timestamptz,
    ADD COLUMN expedite_reason text,
    ADD COLUMN running_since timestamptz,
    DROP CONSTRAINT rollouts_state_check,
    ADD CONSTRAINT rollouts_state_check CHECK (state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled',
        'running', 'paused', 'halted', 'completed', 'aborted', 'superseded'));
DROP INDEX control.rollouts_one_active;
CREATE UNIQUE INDEX rollouts_one_active ON control.rollouts (group_id, arch)
    WHERE purpose = 'update' AND state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running', 'paused',
                                           'halted');
CREATE UNIQUE INDEX rollouts_one_active_beside ON control.rollouts (group_id, changeset_id)
    WHERE purpose IN ('floor', 'downgrade')
      AND state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running', 'paused', 'halted');

CREATE TABLE control.rollout_exclusions (
    rollout_id uuid NOT NULL REFERENCES control.rollouts ON DELETE CASCADE,
    node_id uuid NOT NULL,
    reason text NOT NULL,
    excluded_by text NOT NULL,
    excluded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (rollout_id, node_id)
);

-- No more of a changeset for the nodes of a segment: {"fact": "value", ...}; a node that does not tell the fact matches.
CREATE TABLE control.holds (
    hold_id uuid PRIMARY KEY,
    changeset_id uuid NOT NULL REFERENCES control.changesets,
    segment jsonb NOT NULL CHECK (jsonb_typeof(segment) = 'object' AND segment <> '{}'),
    reason text NOT NULL,
    held_by text NOT NULL,
    held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_at timestamptz,
    released_by text,
    release_reason text
);
CREATE INDEX holds_in_force ON control.holds (changeset_id) WHERE released_at IS NULL;

-- What one asked for and another one has to allow (four eyes).
CREATE TABLE control.approvals (
    approval_id uuid PRIMARY KEY,
    -- What it is about, as in events: rollouts/<id>, channels/<id>, ...
    subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),
    action text NOT NULL CHECK (length(action) BETWEEN 1 AND 64),
    request jsonb NOT NULL DEFAULT '{}',
    reason text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    verdict text CHECK (verdict IN ('approved', 'refused', 'used')),
    decided_by text,
    decided_at timestamptz,
    decision_reason text,
    CHECK (decided_by IS NULL OR decided_by <> asked_by)
);
CREATE INDEX approvals_open ON control.approvals (subject, action) WHERE verdict IS NULL OR verdict = 'approved';

ALTER TABLE control.tokens
    DROP CONSTRAINT tokens_role_check,
    ADD CONSTRAINT tokens_role_check CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
    -- Only these applications; NULL: all.
    ADD COLUMN applications text[],
    ADD COLUMN created_by text,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN last_used_at timestamptz;

-- The answers to requests that carried an idempotency key, so that a retry is answered and not done again.
CREATE TABLE control.idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    request_sha256 bytea NOT NULL,
    status integer,
    body bytea,
    etag text,
    used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (principal, key)
);
CREATE INDEX idempotency_keys_by_age ON control.idempotency_keys (used_at);

-- What nodes prove themselves with: native nodes by a bearer token, Omaha nodes by a secret in their path.
CREATE TABLE control.node_tokens (
    token_id uuid PRIMARY KEY,
    application_id uuid NOT NULL REFERENCES control.applications,
    -- enrolment: any node of the group may enrol with it; node: belongs to one machine; path: the last part of an Omaha URL.
    kind text NOT NULL CHECK (kind IN ('enrolment', 'node', 'path')),
    group_id uuid REFERENCES control.groups ON DELETE CASCADE,
    machine_id text CHECK (length(machine_id) BETWEEN 1 AND 128),
    token_sha256 bytea NOT NULL UNIQUE,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK (kind <> 'node' OR machine_id IS NOT NULL)
);
CREATE INDEX node_tokens_in_force ON control.node_tokens (application_id, kind) WHERE revoked_at IS NULL;

ALTER TABLE fleet.nodes
    -- Facts that operators imported; a fact that the node tells itself wins.
    ADD COLUMN imported_facts jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN alias text CHECK (length(alias) BETWEEN 1 AND 128),
    -- Why its last poll got the answer it got, and when.
    ADD COLUMN last_answer text,
    ADD COLUMN last_answer_at timestamptz,
    ADD COLUMN dialect text NOT NULL DEFAULT 'omaha' CHECK (dialect IN ('omaha', 'native', 'cincinnati'));
CREATE INDEX nodes_with_imported_facts ON fleet.nodes (application_id) WHERE imported_facts <> '{}';
CREATE INDEX nodes_by_contact ON fleet.nodes (last_contact_at);

-- Reports that were dropped since one machine id or address sent too many of them.
CREATE TABLE fleet.floods (
    application_id uuid NOT NULL,
    -- machine or address
    kind text NOT NULL CHECK (kind IN ('machine', 'address')),
    source text NOT NULL CHECK (length(source) BETWEEN 1 AND 128),
    dropped bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (application_id, kind, source)
);

-- While somebody watches, update_check writes what it is asked and what it answers here; nothing is written else.
CREATE TABLE fleet.poll_watch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO fleet.poll_watch DEFAULT VALUES;
CREATE UNLOGGED TABLE fleet.watched_polls (
    poll_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    dialect text NOT NULL,
    address text,
    application text,
    machine_id text,
    version text,
    group_name text,
    -- granted, or the reason for the answer; for what was not understood its error code.
    answer text NOT NULL,
    detail text
);

-- control.transition_rollout_v1 again, with the states of a rollout that waits, see shared.domain.rollout; the event of a halt
-- says whom to tell.
CREATE OR REPLACE FUNCTION control.transition_rollout_v1(
    p_rollout_id uuid, p_to text, p_reason text, p_by text, p_event_id uuid, p_source text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r control.rollouts;
    kind text;
BEGIN
    PERFORM 1 FROM control.changeset_gates g
      JOIN control.rollouts o ON o.changeset_id = g.changeset_id
     WHERE o.rollout_id = p_rollout_id FOR NO KEY UPDATE OF g;
    SELECT * INTO r FROM control.rollouts WHERE rollout_id = p_rollout_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF NOT (CASE p_to
        WHEN 'waiting_for_gate' THEN r.state IN ('created', 'paused', 'halted')
        WHEN 'waiting_for_approval' THEN r.state IN ('created', 'waiting_for_gate', 'paused', 'halted')
        WHEN 'scheduled' THEN r.state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'paused', 'halted')
        WHEN 'running' THEN r.state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'paused', 'halted')
        WHEN 'paused' THEN r.state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running')
        WHEN 'halted' THEN r.state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running', 'paused',
                                       'completed')
        WHEN 'completed' THEN r.state = 'running'
        WHEN 'aborted' THEN r.state NOT IN ('aborted', 'superseded')
        WHEN 'superseded' THEN r.state NOT IN ('aborted', 'superseded')
        ELSE false END)
    THEN
        RETURN NULL;
    END IF;
    kind := CASE
        WHEN p_to = 'running' AND r.running_since IS NULL THEN 'rollout.started.v1'
        WHEN p_to = 'running' THEN 'rollout.resumed.v1'
        WHEN p_to IN ('waiting_for_gate', 'waiting_for_approval', 'scheduled') THEN 'rollout.waited.v1'
        ELSE 'rollout.' || p_to || '.v1' END;
    UPDATE control.rollouts SET state = p_to, reason = p_reason, changed_at = now(),
           running_since = CASE WHEN p_to = 'running' THEN coalesce(running_since, clock_timestamp()) ELSE running_since END,
           wave_since = CASE WHEN p_to = 'running' THEN coalesce(wave_since, clock_timestamp()) ELSE wave_since END
     WHERE rollout_id = p_rollout_id;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, kind, p_source, 'rollouts/' || p_rollout_id, r.changeset_id::text, clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object(
                'rollout_id', r.rollout_id, 'changeset_id', r.changeset_id, 'group_id', r.group_id,
                'state_before', r.state, 'state_after', p_to, 'reason', p_reason, 'by', p_by))
            || CASE WHEN p_to = 'halted' THEN coalesce((
                   -- Whom to tell, and how loudly.
                   SELECT jsonb_strip_nulls(jsonb_build_object(
                              'severity', coalesce(r.policy ->> 'severity', 'page'), 'group_name', g.name,
                              'owner', nullif(g.owner, ''), 'contact', nullif(g.contact, '')))
                     FROM control.groups g WHERE g.group_id = r.group_id), '{}') ELSE '{}' END,
            p_rollout_id::text);
    IF p_to IN ('aborted', 'superseded') THEN
        PERFORM fleet.recall_v1(r.changeset_id, 'rollout ' || p_to, p_source, p_rollout_id);
    END IF;
    PERFORM pg_notify('uneventful_gates', p_rollout_id::text);
    RETURN r.state;
END
$$;

-- control.halt_changeset_v1 again: rollouts that wait or are completed are halted too, those of other archs paused too.
CREATE OR REPLACE FUNCTION control.halt_changeset_v1(
    p_changeset_id uuid, p_reason text, p_by text, p_evidence jsonb, p_event_id uuid, p_source text
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    gate control.changeset_gates;
    cs control.changesets;
    sibling record;
BEGIN
    SELECT * INTO cs FROM control.changesets WHERE changeset_id = p_changeset_id;
    -- Siblings too, in order: two archs that halt at once must not wait for each other.
    PERFORM 1 FROM control.changeset_gates g JOIN control.changesets c USING (changeset_id)
     WHERE c.application_id = cs.application_id AND c.version = cs.version
     ORDER BY g.changeset_id FOR NO KEY UPDATE OF g;
    SELECT * INTO gate FROM control.changeset_gates WHERE changeset_id = p_changeset_id;
    IF NOT FOUND OR gate.state <> 'open' THEN
        RETURN false;
    END IF;
    UPDATE control.changeset_gates SET state = 'halted', reason = p_reason, evidence = p_evidence, changed_at = clock_timestamp()
     WHERE changeset_id = p_changeset_id;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.halted.v1', p_source, 'changesets/' || p_changeset_id, p_changeset_id::text, clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object('changeset_id', p_changeset_id, 'version', cs.version, 'arch', cs.arch,
                'reason', p_reason, 'evidence', p_evidence, 'by', p_by)), p_changeset_id::text);
    PERFORM control.transition_rollout_v1(o.rollout_id, 'halted', p_reason, p_by, gen_random_uuid(), p_source)
       FROM control.rollouts o
      WHERE o.changeset_id = p_changeset_id AND o.state NOT IN ('halted', 'aborted', 'superseded')
      ORDER BY o.rollout_id;
    FOR sibling IN
        SELECT o.rollout_id FROM control.rollouts o JOIN control.changesets c USING (changeset_id)
         WHERE c.application_id = cs.application_id AND c.version = cs.version AND c.changeset_id <> p_changeset_id
           AND o.state IN ('created', 'waiting_for_gate', 'waiting_for_approval', 'scheduled', 'running') ORDER BY o.rollout_id
    LOOP
        PERFORM control.transition_rollout_v1(sibling.rollout_id, 'paused',
            'the same version was halted on ' || cs.arch || ': ' || p_reason, p_by, gen_random_uuid(), p_source);
    END LOOP;
    PERFORM fleet.recall_v1(p_changeset_id, 'changeset halted', p_source);
    PERFORM pg_notify('uneventful_gates', p_changeset_id::text);
    RETURN true;
END
$$;

-- control.release_hold_v1: the segment may be offered the changeset again. Returns false where the hold is not in force.
CREATE FUNCTION control.release_hold_v1(p_hold_id uuid, p_reason text, p_by text, p_event_id uuid, p_source text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    released control.holds;
BEGIN
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    UPDATE control.holds SET released_at = clock_timestamp(), released_by = p_by, release_reason = p_reason
     WHERE hold_id = p_hold_id AND released_at IS NULL RETURNING * INTO released;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.held.v1', p_source, 'changesets/' || released.changeset_id, released.changeset_id::text,
            clock_timestamp(), jsonb_build_object('changeset_id', released.changeset_id, 'hold_id', p_hold_id,
                'segment', released.segment, 'reason', p_reason, 'by', p_by, 'held', false), released.changeset_id::text);
    PERFORM control.raise_policy_version_v1();
    RETURN true;
END
$$;

-- control.withdraw_changeset_v1: taken back for good: never offered again, downloads refused, what is not staged recalled, its
-- rollouts aborted. Returns false where it was withdrawn already.
CREATE FUNCTION control.withdraw_changeset_v1(p_changeset_id uuid, p_reason text, p_by text, p_event_id uuid)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    INSERT INTO control.changeset_gates (changeset_id, pace) VALUES (p_changeset_id, 0) ON CONFLICT (changeset_id) DO NOTHING;
    PERFORM 1 FROM control.changeset_gates WHERE changeset_id = p_changeset_id FOR NO KEY UPDATE;
    UPDATE control.changesets SET state = 'withdrawn', withdrawn_at = clock_timestamp(), withdrawn_reason = p_reason
     WHERE changeset_id = p_changeset_id AND state <> 'withdrawn';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE control.changeset_gates SET state = 'withdrawn', reason = p_reason, changed_at = clock_timestamp()
     WHERE changeset_id = p_changeset_id;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.withdrawn.v1', 'control', 'changesets/' || p_changeset_id, p_changeset_id::text,
            clock_timestamp(), jsonb_build_object('changeset_id', p_changeset_id, 'reason', p_reason, 'by', p_by),
            p_changeset_id::text);
    PERFORM control.transition_rollout_v1(o.rollout_id, 'aborted', 'changeset withdrawn: ' || p_reason, p_by, gen_random_uuid(),
                                          'control')
       FROM control.rollouts o
      WHERE o.changeset_id = p_changeset_id AND o.state NOT IN ('aborted', 'superseded') ORDER BY o.rollout_id;
    PERFORM fleet.recall_v1(p_changeset_id, 'changeset withdrawn', 'control');
    PERFORM control.raise_policy_version_v1();
    RETURN true;
END
$$;
