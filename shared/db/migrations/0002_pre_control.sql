-- What operators say: applications, changesets, channels, groups, rollouts, and the gates that every grant passes.

CREATE SCHEMA control;

CREATE TABLE control.tokens (
    name text PRIMARY KEY,
    token_sha256 bytea NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('admin', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row. Every grant takes it FOR SHARE, `halt --all` takes it for update.
CREATE TABLE control.global_gate (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    open boolean NOT NULL DEFAULT true,
    reason text,
    -- Raised by every change of what `decide` reads, except paces and automatic halts (the gates hold those).
    policy_version bigint NOT NULL DEFAULT 1
);
INSERT INTO control.global_gate DEFAULT VALUES;

CREATE TABLE control.applications (
    application_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    omaha_id text UNIQUE CHECK (omaha_id = lower(omaha_id) AND length(omaha_id) BETWEEN 1 AND 64),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE control.changesets (
    changeset_id uuid PRIMARY KEY,
    application_id uuid NOT NULL REFERENCES control.applications,
    version text NOT NULL CHECK (length(version) BETWEEN 1 AND 128),
    arch text NOT NULL CHECK (length(arch) BETWEEN 1 AND 32),
    kind text NOT NULL CHECK (kind IN ('image', 'packages')),
    state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'published', 'withdrawn')),
    notes text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    UNIQUE (application_id, version, arch)
);

CREATE TABLE control.payloads (
    changeset_id uuid NOT NULL REFERENCES control.changesets ON DELETE CASCADE,
    position integer NOT NULL CHECK (position >= 0),
    role text NOT NULL CHECK (role IN ('main', 'extra')),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    sha1_base64 text NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    required boolean NOT NULL DEFAULT true,
    PRIMARY KEY (changeset_id, position),
    UNIQUE (changeset_id, name)
);
CREATE INDEX payloads_by_digest ON control.payloads (sha256);

CREATE TABLE control.suspended_payloads (
    sha256 text PRIMARY KEY,
    reason text NOT NULL,
    suspended_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE control.channels (
    channel_id uuid PRIMARY KEY,
    application_id uuid NOT NULL REFERENCES control.applications,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    arch text NOT NULL CHECK (length(arch) BETWEEN 1 AND 32),
    changeset_id uuid REFERENCES control.changesets,
    changed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (application_id, name, arch)
);

CREATE TABLE control.channel_history (
    channel_id uuid NOT NULL REFERENCES control.channels ON DELETE CASCADE,
    changeset_id uuid NOT NULL REFERENCES control.changesets,
    promoted_at timestamptz NOT NULL DEFAULT now(),
    promoted_by text NOT NULL
);
CREATE INDEX channel_history_by_channel ON control.channel_history (channel_id, promoted_at);

CREATE TABLE control.groups (
    group_id uuid PRIMARY KEY,
    application_id uuid NOT NULL REFERENCES control.applications,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    -- Groups are tried in this order; the first whose selector matches has the node.
    position integer NOT NULL,
    channel_name text NOT NULL,
    -- {"fact": ["value", ...], ...}: every named fact must be known and one of its values; {} matches every node.
    selector jsonb NOT NULL DEFAULT '{}',
    policy jsonb NOT NULL DEFAULT '{}',
    updates_enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (application_id, name),
    UNIQUE (application_id, position) DEFERRABLE INITIALLY DEFERRED
);

-- The row that every grant of a changeset locks: check and act are one.
CREATE TABLE control.changeset_gates (
    changeset_id uuid PRIMARY KEY REFERENCES control.changesets,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'halted', 'suspended', 'withdrawn')),
    braked_reason text,
    pace integer NOT NULL CHECK (pace >= 0),
    reason text,
    evidence jsonb,
    resumes integer NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE control.rollouts (
    rollout_id uuid PRIMARY KEY,
    group_id uuid NOT NULL REFERENCES control.groups,
    changeset_id uuid NOT NULL REFERENCES control.changesets,
    channel_id uuid REFERENCES control.channels,
    application_id uuid NOT NULL REFERENCES control.applications,
    arch text NOT NULL,
    state text NOT NULL CHECK (state IN ('created', 'running', 'paused', 'halted', 'completed', 'aborted', 'superseded')),
    -- How many nodes of the group may be in flight; the changeset's pace is in its gate.
    pace integer NOT NULL CHECK (pace >= 0),
    policy jsonb NOT NULL,
    parameters jsonb NOT NULL,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX rollouts_one_active ON control.rollouts (group_id, arch)
    WHERE state IN ('created', 'running', 'paused', 'halted');
CREATE INDEX rollouts_by_changeset ON control.rollouts (changeset_id);

-- control.raise_policy_version_v1: to be called by every change of what `decide` reads; wakes the followers at commit.
CREATE FUNCTION control.raise_policy_version_v1() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    raised bigint;
BEGIN
    UPDATE control.global_gate SET policy_version = policy_version + 1 RETURNING policy_version INTO raised;
    PERFORM pg_notify('uneventful_gates', 'policy');
    RETURN raised;
END
$$;

-- control.transition_rollout_v1: moves one rollout if its state allows it, with the event. Lock order: gate, rollout.
-- Returns the state before, or NULL where the move is not allowed (nothing is changed then).
CREATE FUNCTION control.transition_rollout_v1(
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
        WHEN 'running' THEN r.state IN ('created', 'paused', 'halted')
        WHEN 'paused' THEN r.state IN ('created', 'running')
        WHEN 'halted' THEN r.state IN ('created', 'running', 'paused')
        WHEN 'completed' THEN r.state = 'running'
        WHEN 'aborted' THEN r.state IN ('created', 'running', 'paused', 'halted')
        WHEN 'superseded' THEN r.state IN ('created', 'running', 'paused', 'halted')
        ELSE false END)
    THEN
        RETURN NULL;
    END IF;
    kind := CASE
        WHEN p_to = 'running' AND r.state = 'created' THEN 'rollout.started.v1'
        WHEN p_to = 'running' THEN 'rollout.resumed.v1'
        ELSE 'rollout.' || p_to || '.v1' END;
    UPDATE control.rollouts SET state = p_to, reason = p_reason, changed_at = now() WHERE rollout_id = p_rollout_id;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, kind, p_source, 'rollouts/' || p_rollout_id, r.changeset_id::text, clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object(
                'rollout_id', r.rollout_id, 'changeset_id', r.changeset_id, 'group_id', r.group_id,
                'state_before', r.state, 'state_after', p_to, 'reason', p_reason, 'by', p_by)),
            p_rollout_id::text);
    IF p_to IN ('aborted', 'superseded') THEN
        PERFORM fleet.recall_v1(r.changeset_id, 'rollout ' || p_to, p_source, p_rollout_id);
    END IF;
    PERFORM pg_notify('uneventful_gates', p_rollout_id::text);
    RETURN r.state;
END
$$;
