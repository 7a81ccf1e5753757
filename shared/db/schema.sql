-- What all migrations make. Never edited: written by `python -m shared.db.schema --write`.

CREATE SCHEMA analysis;
CREATE SCHEMA control;
CREATE SCHEMA event_log;
CREATE SCHEMA fleet;
CREATE SCHEMA migrations;

CREATE TABLE analysis.attempts (
    attempt_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    state bytea NOT NULL,
    CONSTRAINT attempts_pkey PRIMARY KEY (attempt_id)
) WITH (fillfactor=70);
CREATE INDEX attempts_by_changeset ON analysis.attempts USING btree (changeset_id);

CREATE TABLE analysis.changesets (
    changeset_id uuid NOT NULL,
    state bytea NOT NULL,
    view jsonb NOT NULL,
    CONSTRAINT changesets_pkey PRIMARY KEY (changeset_id)
);

CREATE TABLE analysis.folds (
    name text NOT NULL,
    state bytea NOT NULL,
    CONSTRAINT folds_pkey PRIMARY KEY (name)
);

CREATE TABLE analysis.verdicts (
    seq bigint NOT NULL,
    ordinal integer NOT NULL,
    changeset_id uuid,
    kind text NOT NULL,
    verdict bytea NOT NULL,
    decided_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT verdicts_pkey PRIMARY KEY (seq, ordinal)
);
CREATE INDEX verdicts_by_changeset ON analysis.verdicts USING btree (changeset_id, seq);

CREATE TABLE control.applications (
    application_id uuid NOT NULL,
    name text NOT NULL,
    omaha_id text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    product text,
    version_scheme text NOT NULL DEFAULT 'flatcar'::text,
    observe_only boolean NOT NULL DEFAULT false,
    CONSTRAINT applications_pkey PRIMARY KEY (application_id),
    CONSTRAINT applications_name_key UNIQUE (name),
    CONSTRAINT applications_omaha_id_key UNIQUE (omaha_id),
    CONSTRAINT applications_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64))),
    CONSTRAINT applications_omaha_id_check CHECK (((omaha_id = lower(omaha_id)) AND ((length(omaha_id) >= 1) AND (length(omaha_id) <= 64)))),
    CONSTRAINT applications_version_scheme_check CHECK ((version_scheme = ANY (ARRAY['flatcar'::text, 'semver'::text, 'calendar'::text])))
);

CREATE TABLE control.approvals (
    approval_id uuid NOT NULL,
    subject text NOT NULL,
    action text NOT NULL,
    request jsonb NOT NULL DEFAULT '{}'::jsonb,
    reason text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamp with time zone NOT NULL,
    verdict text,
    decided_by text,
    decided_at timestamp with time zone,
    decision_reason text,
    CONSTRAINT approvals_pkey PRIMARY KEY (approval_id),
    CONSTRAINT approvals_action_check CHECK (((length(action) >= 1) AND (length(action) <= 64))),
    CONSTRAINT approvals_check CHECK (((decided_by IS NULL) OR (decided_by <> asked_by))),
    CONSTRAINT approvals_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 128))),
    CONSTRAINT approvals_verdict_check CHECK ((verdict = ANY (ARRAY['approved'::text, 'refused'::text, 'used'::text])))
);
CREATE INDEX approvals_open ON control.approvals USING btree (subject, action) WHERE ((verdict IS NULL) OR (verdict = 'approved'::text));

CREATE TABLE control.attestations (
    attestation_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    name text NOT NULL,
    verdict text NOT NULL,
    summary text NOT NULL DEFAULT ''::text,
    link text,
    artefact_sha256 text,
    results jsonb NOT NULL DEFAULT '[]'::jsonb,
    signature jsonb,
    attested_by text NOT NULL,
    attested_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT attestations_pkey PRIMARY KEY (attestation_id),
    CONSTRAINT attestations_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT attestations_artefact_sha256_check CHECK ((artefact_sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT attestations_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64))),
    CONSTRAINT attestations_verdict_check CHECK ((verdict = ANY (ARRAY['passed'::text, 'failed'::text, 'skipped'::text])))
);
CREATE INDEX attestations_by_changeset ON control.attestations USING btree (changeset_id, name, attested_at DESC);

CREATE TABLE control.attester_keys (
    key_id text NOT NULL,
    name text NOT NULL,
    public_key bytea NOT NULL,
    trusted_at timestamp with time zone NOT NULL DEFAULT now(),
    trusted_by text NOT NULL,
    distrusted_at timestamp with time zone,
    CONSTRAINT attester_keys_pkey PRIMARY KEY (key_id),
    CONSTRAINT attester_keys_key_id_check CHECK (((length(key_id) >= 1) AND (length(key_id) <= 64))),
    CONSTRAINT attester_keys_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64))),
    CONSTRAINT attester_keys_public_key_check CHECK ((octet_length(public_key) = 32))
);

CREATE TABLE control.changeset_gates (
    changeset_id uuid NOT NULL,
    state text NOT NULL DEFAULT 'open'::text,
    braked_reason text,
    pace integer NOT NULL,
    reason text,
    evidence jsonb,
    resumes integer NOT NULL DEFAULT 0,
    changed_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT changeset_gates_pkey PRIMARY KEY (changeset_id),
    CONSTRAINT changeset_gates_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT changeset_gates_pace_check CHECK ((pace >= 0)),
    CONSTRAINT changeset_gates_state_check CHECK ((state = ANY (ARRAY['open'::text, 'halted'::text, 'suspended'::text, 'withdrawn'::text])))
);

CREATE TABLE control.changesets (
    changeset_id uuid NOT NULL,
    application_id uuid NOT NULL,
    version text NOT NULL,
    arch text NOT NULL,
    kind text NOT NULL,
    state text NOT NULL DEFAULT 'draft'::text,
    notes text NOT NULL DEFAULT ''::text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    published_at timestamp with time zone,
    components jsonb NOT NULL DEFAULT '{}'::jsonb,
    packages jsonb NOT NULL DEFAULT '{}'::jsonb,
    source text NOT NULL DEFAULT ''::text,
    floor boolean NOT NULL DEFAULT false,
    floor_reason text,
    dead_end boolean NOT NULL DEFAULT false,
    dead_end_reason text,
    minimum_version text,
    manifest bytea,
    signatures jsonb NOT NULL DEFAULT '[]'::jsonb,
    withdrawn_at timestamp with time zone,
    withdrawn_reason text,
    CONSTRAINT changesets_pkey PRIMARY KEY (changeset_id),
    CONSTRAINT changesets_application_id_version_arch_key UNIQUE (application_id, version, arch),
    CONSTRAINT changesets_application_id_fkey FOREIGN KEY (application_id) REFERENCES control.applications(application_id),
    CONSTRAINT changesets_arch_check CHECK (((length(arch) >= 1) AND (length(arch) <= 32))),
    CONSTRAINT changesets_kind_check CHECK ((kind = ANY (ARRAY['image'::text, 'packages'::text]))),
    CONSTRAINT changesets_state_check CHECK ((state = ANY (ARRAY['draft'::text, 'published'::text, 'withdrawn'::text]))),
    CONSTRAINT changesets_version_check CHECK (((length(version) >= 1) AND (length(version) <= 128)))
);

CREATE TABLE control.channel_history (
    channel_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    promoted_at timestamp with time zone NOT NULL DEFAULT now(),
    promoted_by text NOT NULL,
    kind text NOT NULL DEFAULT 'promote'::text,
    reason text,
    override_reason text,
    approved_by text,
    CONSTRAINT channel_history_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT channel_history_channel_id_fkey FOREIGN KEY (channel_id) REFERENCES control.channels(channel_id) ON DELETE CASCADE,
    CONSTRAINT channel_history_kind_check CHECK ((kind = ANY (ARRAY['promote'::text, 'rollback'::text])))
);
CREATE INDEX channel_history_by_channel ON control.channel_history USING btree (channel_id, promoted_at);

CREATE TABLE control.channels (
    channel_id uuid NOT NULL,
    application_id uuid NOT NULL,
    name text NOT NULL,
    arch text NOT NULL,
    changeset_id uuid,
    changed_at timestamp with time zone NOT NULL DEFAULT now(),
    "position" integer NOT NULL DEFAULT 2,
    required_attestations text[] NOT NULL DEFAULT '{}'::text[],
    CONSTRAINT channels_pkey PRIMARY KEY (channel_id),
    CONSTRAINT channels_application_id_name_arch_key UNIQUE (application_id, name, arch),
    CONSTRAINT channels_application_id_fkey FOREIGN KEY (application_id) REFERENCES control.applications(application_id),
    CONSTRAINT channels_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT channels_arch_check CHECK (((length(arch) >= 1) AND (length(arch) <= 32))),
    CONSTRAINT channels_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64))),
    CONSTRAINT channels_position_check CHECK ((("position" >= 0) AND ("position" <= 63)))
);
CREATE INDEX channels_by_position ON control.channels USING btree ("position", channel_id);

CREATE TABLE control.global_gate (
    only_row boolean NOT NULL DEFAULT true,
    open boolean NOT NULL DEFAULT true,
    reason text,
    policy_version bigint NOT NULL DEFAULT 1,
    CONSTRAINT global_gate_pkey PRIMARY KEY (only_row),
    CONSTRAINT global_gate_only_row_check CHECK (only_row)
);

CREATE TABLE control.group_nodes (
    application_id uuid NOT NULL,
    machine_id text NOT NULL,
    group_id uuid NOT NULL,
    CONSTRAINT group_nodes_pkey PRIMARY KEY (application_id, machine_id),
    CONSTRAINT group_nodes_application_id_fkey FOREIGN KEY (application_id) REFERENCES control.applications(application_id),
    CONSTRAINT group_nodes_group_id_fkey FOREIGN KEY (group_id) REFERENCES control.groups(group_id) ON DELETE CASCADE,
    CONSTRAINT group_nodes_machine_id_check CHECK (((length(machine_id) >= 1) AND (length(machine_id) <= 128)))
);
CREATE INDEX group_nodes_by_group ON control.group_nodes USING btree (group_id);

CREATE TABLE control.groups (
    group_id uuid NOT NULL,
    application_id uuid NOT NULL,
    name text NOT NULL,
    "position" integer NOT NULL,
    channel_name text,
    selector jsonb NOT NULL DEFAULT '{}'::jsonb,
    policy jsonb NOT NULL DEFAULT '{}'::jsonb,
    updates_enabled boolean NOT NULL DEFAULT true,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    owner text NOT NULL DEFAULT ''::text,
    contact text NOT NULL DEFAULT ''::text,
    pinned_version text,
    CONSTRAINT groups_pkey PRIMARY KEY (group_id),
    CONSTRAINT groups_application_id_name_key UNIQUE (application_id, name),
    CONSTRAINT groups_application_id_position_key UNIQUE (application_id, "position") DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT groups_application_id_fkey FOREIGN KEY (application_id) REFERENCES control.applications(application_id),
    CONSTRAINT groups_follow_something CHECK (((channel_name IS NOT NULL) OR (pinned_version IS NOT NULL))),
    CONSTRAINT groups_name_check CHECK (((length(name) >= 1) AND (length(name) <= 64))),
    CONSTRAINT groups_pinned_version_check CHECK (((length(pinned_version) >= 1) AND (length(pinned_version) <= 128)))
);

CREATE TABLE control.holds (
    hold_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    segment jsonb NOT NULL,
    reason text NOT NULL,
    held_by text NOT NULL,
    held_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    released_at timestamp with time zone,
    released_by text,
    release_reason text,
    CONSTRAINT holds_pkey PRIMARY KEY (hold_id),
    CONSTRAINT holds_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT holds_segment_check CHECK (((jsonb_typeof(segment) = 'object'::text) AND (segment <> '{}'::jsonb)))
);
CREATE INDEX holds_in_force ON control.holds USING btree (changeset_id) WHERE (released_at IS NULL);

CREATE TABLE control.idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL,
    request_sha256 bytea NOT NULL,
    status integer,
    body bytea,
    etag text,
    used_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, key),
    CONSTRAINT idempotency_keys_key_check CHECK (((length(key) >= 1) AND (length(key) <= 128)))
);
CREATE INDEX idempotency_keys_by_age ON control.idempotency_keys USING btree (used_at);

CREATE TABLE control.key_lists (
    version integer NOT NULL,
    document bytea NOT NULL,
    signatures jsonb NOT NULL DEFAULT '[]'::jsonb,
    made_at timestamp with time zone NOT NULL DEFAULT now(),
    made_by text NOT NULL,
    CONSTRAINT key_lists_pkey PRIMARY KEY (version),
    CONSTRAINT key_lists_version_check CHECK ((version >= 1))
);

CREATE TABLE control.node_tokens (
    token_id uuid NOT NULL,
    application_id uuid NOT NULL,
    kind text NOT NULL,
    group_id uuid,
    machine_id text,
    token_sha256 bytea NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    CONSTRAINT node_tokens_pkey PRIMARY KEY (token_id),
    CONSTRAINT node_tokens_token_sha256_key UNIQUE (token_sha256),
    CONSTRAINT node_tokens_application_id_fkey FOREIGN KEY (application_id) REFERENCES control.applications(application_id),
    CONSTRAINT node_tokens_group_id_fkey FOREIGN KEY (group_id) REFERENCES control.groups(group_id) ON DELETE CASCADE,
    CONSTRAINT node_tokens_check CHECK (((kind <> 'node'::text) OR (machine_id IS NOT NULL))),
    CONSTRAINT node_tokens_kind_check CHECK ((kind = ANY (ARRAY['enrolment'::text, 'node'::text, 'path'::text]))),
    CONSTRAINT node_tokens_machine_id_check CHECK (((length(machine_id) >= 1) AND (length(machine_id) <= 128)))
);
CREATE INDEX node_tokens_by_machine ON control.node_tokens USING btree (application_id, machine_id) WHERE (kind = 'node'::text);
CREATE INDEX node_tokens_in_force ON control.node_tokens USING btree (application_id, kind) WHERE (revoked_at IS NULL);

CREATE TABLE control.payloads (
    changeset_id uuid NOT NULL,
    "position" integer NOT NULL,
    role text NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    sha1_base64 text NOT NULL,
    size bigint NOT NULL,
    required boolean NOT NULL DEFAULT true,
    CONSTRAINT payloads_pkey PRIMARY KEY (changeset_id, "position"),
    CONSTRAINT payloads_changeset_id_name_key UNIQUE (changeset_id, name),
    CONSTRAINT payloads_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id) ON DELETE CASCADE,
    CONSTRAINT payloads_name_check CHECK (((length(name) >= 1) AND (length(name) <= 200))),
    CONSTRAINT payloads_position_check CHECK (("position" >= 0)),
    CONSTRAINT payloads_role_check CHECK ((role = ANY (ARRAY['main'::text, 'extra'::text]))),
    CONSTRAINT payloads_sha256_check CHECK ((sha256 ~ '^[0-9a-f]{64}$'::text)),
    CONSTRAINT payloads_size_check CHECK ((size > 0))
);
CREATE INDEX payloads_by_digest ON control.payloads USING btree (sha256);

CREATE TABLE control.rollout_exclusions (
    rollout_id uuid NOT NULL,
    node_id uuid NOT NULL,
    reason text NOT NULL,
    excluded_by text NOT NULL,
    excluded_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT rollout_exclusions_pkey PRIMARY KEY (rollout_id, node_id),
    CONSTRAINT rollout_exclusions_rollout_id_fkey FOREIGN KEY (rollout_id) REFERENCES control.rollouts(rollout_id) ON DELETE CASCADE
);

CREATE TABLE control.rollouts (
    rollout_id uuid NOT NULL,
    group_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    channel_id uuid,
    application_id uuid NOT NULL,
    arch text NOT NULL,
    state text NOT NULL,
    pace integer NOT NULL,
    policy jsonb NOT NULL,
    parameters jsonb NOT NULL,
    reason text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    changed_at timestamp with time zone NOT NULL DEFAULT now(),
    purpose text NOT NULL DEFAULT 'update'::text,
    leaves_version text,
    only_machines text[],
    wave integer NOT NULL DEFAULT 0,
    wave_since timestamp with time zone,
    fraction double precision NOT NULL DEFAULT 1,
    order_stage integer NOT NULL DEFAULT 0,
    pace_cap integer,
    starts_at timestamp with time zone,
    gates jsonb NOT NULL DEFAULT '[]'::jsonb,
    approved_by text,
    approved_at timestamp with time zone,
    expedited_by text,
    expedited_at timestamp with time zone,
    expedite_reason text,
    running_since timestamp with time zone,
    then_changeset_id uuid,
    CONSTRAINT rollouts_pkey PRIMARY KEY (rollout_id),
    CONSTRAINT rollouts_application_id_fkey FOREIGN KEY (application_id) REFERENCES control.applications(application_id),
    CONSTRAINT rollouts_changeset_id_fkey FOREIGN KEY (changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT rollouts_channel_id_fkey FOREIGN KEY (channel_id) REFERENCES control.channels(channel_id),
    CONSTRAINT rollouts_group_id_fkey FOREIGN KEY (group_id) REFERENCES control.groups(group_id),
    CONSTRAINT rollouts_then_changeset_id_fkey FOREIGN KEY (then_changeset_id) REFERENCES control.changesets(changeset_id),
    CONSTRAINT rollouts_fraction_check CHECK (((fraction >= (0)::double precision) AND (fraction <= (1)::double precision))),
    CONSTRAINT rollouts_order_stage_check CHECK ((order_stage >= 0)),
    CONSTRAINT rollouts_pace_cap_check CHECK ((pace_cap >= 0)),
    CONSTRAINT rollouts_pace_check CHECK ((pace >= 0)),
    CONSTRAINT rollouts_purpose_check CHECK ((purpose = ANY (ARRAY['update'::text, 'floor'::text, 'downgrade'::text, 'drill'::text]))),
    CONSTRAINT rollouts_state_check CHECK ((state = ANY (ARRAY['created'::text, 'waiting_for_gate'::text, 'waiting_for_approval'::text, 'scheduled'::text, 'running'::text, 'paused'::text, 'halted'::text, 'completed'::text, 'aborted'::text, 'superseded'::text]))),
    CONSTRAINT rollouts_wave_check CHECK ((wave >= 0))
);
CREATE INDEX rollouts_by_changeset ON control.rollouts USING btree (changeset_id);
CREATE INDEX rollouts_completed ON control.rollouts USING btree (group_id, arch, created_at DESC) WHERE (state = 'completed'::text);
CREATE UNIQUE INDEX rollouts_one_active ON control.rollouts USING btree (group_id, arch) WHERE ((purpose = 'update'::text) AND (state = ANY (ARRAY['created'::text, 'waiting_for_gate'::text, 'waiting_for_approval'::text, 'scheduled'::text, 'running'::text, 'paused'::text, 'halted'::text])));
CREATE UNIQUE INDEX rollouts_one_active_beside ON control.rollouts USING btree (group_id, changeset_id) WHERE ((purpose = ANY (ARRAY['floor'::text, 'downgrade'::text])) AND (state = ANY (ARRAY['created'::text, 'waiting_for_gate'::text, 'waiting_for_approval'::text, 'scheduled'::text, 'running'::text, 'paused'::text, 'halted'::text])));
CREATE INDEX rollouts_to_conduct ON control.rollouts USING btree (rollout_id) WHERE (state = ANY (ARRAY['created'::text, 'waiting_for_gate'::text, 'waiting_for_approval'::text, 'scheduled'::text, 'running'::text]));

CREATE TABLE control.signing_keys (
    key_id text NOT NULL,
    public_key bytea NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT signing_keys_pkey PRIMARY KEY (key_id),
    CONSTRAINT signing_keys_key_id_check CHECK (((length(key_id) >= 1) AND (length(key_id) <= 64))),
    CONSTRAINT signing_keys_public_key_check CHECK ((octet_length(public_key) = 32))
);

CREATE TABLE control.suspended_payloads (
    sha256 text NOT NULL,
    reason text NOT NULL,
    suspended_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT suspended_payloads_pkey PRIMARY KEY (sha256)
);

CREATE TABLE control.tokens (
    name text NOT NULL,
    token_sha256 bytea NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    applications text[],
    created_by text,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT tokens_pkey PRIMARY KEY (name),
    CONSTRAINT tokens_token_sha256_key UNIQUE (token_sha256),
    CONSTRAINT tokens_role_check CHECK ((role = ANY (ARRAY['viewer'::text, 'operator'::text, 'approver'::text, 'admin'::text])))
);

CREATE TABLE event_log.dead_letters (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    queue text NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    reason text NOT NULL,
    deliveries integer NOT NULL,
    body bytea NOT NULL,
    headers jsonb NOT NULL DEFAULT '{}'::jsonb,
    dead_at timestamp with time zone NOT NULL DEFAULT now(),
    replayed_at timestamp with time zone,
    CONSTRAINT dead_letters_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letters_queue_event_id_key UNIQUE (queue, event_id)
);
CREATE INDEX dead_letters_waiting ON event_log.dead_letters USING btree (queue, id) WHERE (replayed_at IS NULL);

CREATE TABLE event_log.followers (
    name text NOT NULL,
    seq bigint NOT NULL,
    moved_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT followers_pkey PRIMARY KEY (name),
    CONSTRAINT followers_seq_check CHECK ((seq >= 0))
) WITH (fillfactor=50);

CREATE TABLE event_log.head (
    singleton boolean NOT NULL DEFAULT true,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    CONSTRAINT head_pkey PRIMARY KEY (singleton),
    CONSTRAINT head_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT head_seq_check CHECK ((seq >= 0)),
    CONSTRAINT head_singleton_check CHECK (singleton)
);

CREATE TABLE event_log.inbox (
    "position" bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    subject text NOT NULL,
    partition_key text NOT NULL,
    occurred_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    data jsonb NOT NULL,
    correlation_id text,
    causation_id text,
    traceparent text,
    appended_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT inbox_pkey PRIMARY KEY ("position")
) WITH (autovacuum_analyze_scale_factor=0, autovacuum_analyze_threshold=50000, autovacuum_vacuum_insert_scale_factor=0, autovacuum_vacuum_insert_threshold=5000, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=5000);
COMMENT ON TABLE event_log.inbox IS 'Events appended and not yet in the ledger; rows leave when the mover takes them';

CREATE TABLE event_log.last_tick (
    singleton boolean NOT NULL DEFAULT true,
    ticked_at timestamp with time zone,
    contacts jsonb NOT NULL DEFAULT '{}'::jsonb,
    CONSTRAINT last_tick_pkey PRIMARY KEY (singleton),
    CONSTRAINT last_tick_singleton_check CHECK (singleton)
);

CREATE TABLE event_log.ledger (
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    partition_key text NOT NULL,
    correlation_id text,
    recorded_at timestamp with time zone NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    hash bytea NOT NULL,
    event bytea NOT NULL,
    CONSTRAINT ledger_pkey PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);
CREATE TABLE event_log.ledger_000000 PARTITION OF event_log.ledger FOR VALUES FROM ('0') TO ('1000000');
CREATE TABLE event_log.ledger_000001 PARTITION OF event_log.ledger FOR VALUES FROM ('1000000') TO ('2000000');
CREATE TABLE event_log.ledger_000002 PARTITION OF event_log.ledger FOR VALUES FROM ('2000000') TO ('3000000');
CREATE INDEX ledger_by_correlation ON ONLY event_log.ledger USING btree (correlation_id, seq) WHERE (correlation_id IS NOT NULL);
CREATE INDEX ledger_by_partition_key ON ONLY event_log.ledger USING btree (partition_key, seq);
CREATE INDEX ledger_by_time ON ONLY event_log.ledger USING brin (recorded_at);
CREATE TRIGGER ledger_is_append_only BEFORE DELETE OR UPDATE ON event_log.ledger FOR EACH ROW EXECUTE FUNCTION event_log.refuse_change();
CREATE TRIGGER ledger_is_not_truncated BEFORE TRUNCATE ON event_log.ledger FOR EACH STATEMENT EXECUTE FUNCTION event_log.refuse_change();

CREATE TABLE event_log.seen (
    event_id uuid NOT NULL,
    seen_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT seen_pkey PRIMARY KEY (event_id)
);
CREATE INDEX seen_by_time ON event_log.seen USING brin (seen_at);
COMMENT ON TABLE event_log.seen IS 'Ids of events ever appended; what is sent twice counts once';

CREATE TABLE event_log.set_aside (
    "position" bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    subject text NOT NULL,
    partition_key text NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    data jsonb NOT NULL,
    correlation_id text,
    causation_id text,
    traceparent text,
    error text NOT NULL,
    set_aside_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT set_aside_pkey PRIMARY KEY ("position")
);

CREATE TABLE fleet.attempts (
    attempt_id uuid NOT NULL,
    token text NOT NULL,
    node_id uuid NOT NULL,
    application_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    rollout_id uuid NOT NULL,
    group_id uuid NOT NULL,
    arch text NOT NULL,
    from_version text NOT NULL,
    to_version text NOT NULL,
    state text NOT NULL,
    parked boolean NOT NULL DEFAULT false,
    boot_id text NOT NULL,
    reason text,
    error_code bigint,
    granted_at timestamp with time zone NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    awaited_at timestamp with time zone,
    closed_at timestamp with time zone,
    CONSTRAINT attempts_pkey PRIMARY KEY (attempt_id),
    CONSTRAINT attempts_token_key UNIQUE (token),
    CONSTRAINT attempts_check CHECK (((closed_at IS NOT NULL) = (state = ANY (ARRAY['committed'::text, 'rolled_back'::text, 'failed'::text, 'presumed_lost'::text, 'recalled'::text])))),
    CONSTRAINT attempts_state_check CHECK ((state = ANY (ARRAY['offered'::text, 'downloading'::text, 'staged'::text, 'awaiting_reboot'::text, 'rebooting'::text, 'probation'::text, 'committed'::text, 'rolled_back'::text, 'failed'::text, 'presumed_lost'::text, 'recalled'::text])))
) WITH (autovacuum_vacuum_scale_factor=0.05, fillfactor=70);
CREATE INDEX attempts_by_node ON fleet.attempts USING btree (node_id, changeset_id);
CREATE INDEX attempts_by_rollout ON fleet.attempts USING btree (rollout_id);
CREATE INDEX attempts_in_flight_by_changeset ON fleet.attempts USING btree (changeset_id) WHERE ((closed_at IS NULL) AND (NOT parked));
CREATE INDEX attempts_in_flight_by_group ON fleet.attempts USING btree (group_id) WHERE ((closed_at IS NULL) AND (NOT parked));
CREATE UNIQUE INDEX attempts_one_open ON fleet.attempts USING btree (node_id) WHERE (closed_at IS NULL);

CREATE TABLE fleet.contact_counts (
    site text NOT NULL,
    writer text NOT NULL,
    contacts bigint NOT NULL,
    CONSTRAINT contact_counts_pkey PRIMARY KEY (site, writer)
) WITH (fillfactor=50);

CREATE TABLE fleet.floods (
    application_id uuid NOT NULL,
    kind text NOT NULL,
    source text NOT NULL,
    dropped bigint NOT NULL,
    first_at timestamp with time zone NOT NULL,
    last_at timestamp with time zone NOT NULL,
    told_at timestamp with time zone,
    untold bigint NOT NULL DEFAULT 0,
    CONSTRAINT floods_pkey PRIMARY KEY (application_id, kind, source),
    CONSTRAINT floods_kind_check CHECK ((kind = ANY (ARRAY['machine'::text, 'address'::text]))),
    CONSTRAINT floods_source_check CHECK (((length(source) >= 1) AND (length(source) <= 128)))
);

CREATE TABLE fleet.idle_estimates (
    site text NOT NULL,
    contacts_per_second double precision NOT NULL,
    estimated_at timestamp with time zone NOT NULL,
    CONSTRAINT idle_estimates_pkey PRIMARY KEY (site)
);

CREATE TABLE fleet.nodes (
    node_id uuid NOT NULL,
    application_id uuid NOT NULL,
    machine_id text NOT NULL,
    group_id uuid,
    version text NOT NULL,
    arch text,
    boot_id text NOT NULL,
    boot_seen_at timestamp with time zone NOT NULL,
    former_boot_ids text[] NOT NULL DEFAULT '{}'::text[],
    facts jsonb NOT NULL DEFAULT '{}'::jsonb,
    address text,
    cloned boolean NOT NULL DEFAULT false,
    last_attempt_id uuid,
    first_seen_at timestamp with time zone NOT NULL,
    last_contact_at timestamp with time zone NOT NULL,
    gone_at timestamp with time zone,
    imported_facts jsonb NOT NULL DEFAULT '{}'::jsonb,
    alias text,
    last_answer text,
    last_answer_at timestamp with time zone,
    dialect text NOT NULL DEFAULT 'omaha'::text,
    CONSTRAINT nodes_pkey PRIMARY KEY (node_id),
    CONSTRAINT nodes_alias_check CHECK (((length(alias) >= 1) AND (length(alias) <= 128))),
    CONSTRAINT nodes_dialect_check CHECK ((dialect = ANY (ARRAY['omaha'::text, 'native'::text, 'cincinnati'::text]))),
    CONSTRAINT nodes_machine_id_check CHECK (((length(machine_id) >= 1) AND (length(machine_id) <= 128)))
) WITH (autovacuum_vacuum_scale_factor=0.05, fillfactor=70);
CREATE INDEX nodes_by_alias ON fleet.nodes USING btree (application_id, alias) WHERE (alias IS NOT NULL);
CREATE INDEX nodes_by_group ON fleet.nodes USING btree (group_id, node_id);
CREATE INDEX nodes_by_machine ON fleet.nodes USING btree (application_id, machine_id text_pattern_ops);
CREATE INDEX nodes_cloned ON fleet.nodes USING btree (application_id) WHERE cloned;
CREATE INDEX nodes_gone ON fleet.nodes USING btree (node_id) WHERE (gone_at IS NOT NULL);
CREATE INDEX nodes_with_imported_facts ON fleet.nodes USING btree (application_id) WHERE (imported_facts <> '{}'::jsonb);

CREATE TABLE fleet.poll_watch (
    only_row boolean NOT NULL DEFAULT true,
    until timestamp with time zone NOT NULL DEFAULT '-infinity'::timestamp with time zone,
    CONSTRAINT poll_watch_pkey PRIMARY KEY (only_row),
    CONSTRAINT poll_watch_only_row_check CHECK (only_row)
);

CREATE TABLE fleet.quarantine (
    node_id uuid NOT NULL,
    changeset_id uuid NOT NULL,
    attempt_id uuid,
    reason text NOT NULL,
    since timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT quarantine_pkey PRIMARY KEY (node_id, changeset_id)
);
CREATE INDEX quarantine_by_changeset ON fleet.quarantine USING btree (changeset_id);

CREATE TABLE fleet.watched_polls (
    poll_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    dialect text NOT NULL,
    address text,
    application text,
    machine_id text,
    version text,
    group_name text,
    answer text NOT NULL,
    detail text,
    CONSTRAINT watched_polls_pkey PRIMARY KEY (poll_id)
);

CREATE TABLE migrations.applied (
    number integer NOT NULL,
    phase text NOT NULL,
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamp with time zone NOT NULL DEFAULT now(),
    CONSTRAINT applied_pkey PRIMARY KEY (number),
    CONSTRAINT applied_phase_check CHECK ((phase = ANY (ARRAY['pre'::text, 'post'::text])))
);

CREATE TABLE migrations.schema_version (
    only_row boolean NOT NULL DEFAULT true,
    version integer NOT NULL,
    compat_version integer NOT NULL,
    CONSTRAINT schema_version_pkey PRIMARY KEY (only_row),
    CONSTRAINT schema_version_only_row_check CHECK (only_row)
);

CREATE OR REPLACE FUNCTION control.enrol_node_v1(p_application_id uuid, p_enrolment_sha256 bytea, p_machine_id text, p_token_id uuid, p_token_sha256 bytea, p_address text, p_event_id uuid)
 RETURNS TABLE(status text, group_id uuid)
 LANGUAGE plpgsql
AS $function$
DECLARE
    enrolment control.node_tokens;
    known control.node_tokens;
BEGIN
    SELECT * INTO enrolment FROM control.node_tokens t
     WHERE t.token_sha256 = p_enrolment_sha256 AND t.kind = 'enrolment' AND t.application_id = p_application_id FOR UPDATE;
    IF NOT FOUND OR enrolment.revoked_at IS NOT NULL OR enrolment.expires_at <= clock_timestamp() THEN
        RETURN QUERY SELECT 'refused', NULL::uuid;
        RETURN;
    END IF;
    -- Two enrolments of one machine id, by different enrolment tokens, at once.
    PERFORM pg_advisory_xact_lock(hashtextextended(p_application_id || p_machine_id, 0));
    SELECT * INTO known FROM control.node_tokens t
     WHERE t.application_id = p_application_id AND t.kind = 'node' AND t.machine_id = p_machine_id AND t.revoked_at IS NULL
       AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp()) LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT CASE WHEN known.token_sha256 = p_token_sha256 THEN 'again' ELSE 'taken' END, known.group_id;
        RETURN;
    END IF;
    INSERT INTO control.node_tokens (token_id, application_id, kind, group_id, machine_id, token_sha256, created_by)
    VALUES (p_token_id, p_application_id, 'node', enrolment.group_id, p_machine_id, p_token_sha256,
            'enrolment/' || enrolment.token_id)
    ON CONFLICT (token_sha256) DO NOTHING;
    IF NOT FOUND THEN
        -- The same nonce as of a token that was revoked.
        RETURN QUERY SELECT 'refused', NULL::uuid;
        RETURN;
    END IF;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
    VALUES (p_event_id, 'node.token_issued.v1', 'update_check', 'applications/' || p_application_id, p_application_id::text,
            clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object(
                'application_id', p_application_id, 'machine_id', p_machine_id, 'group_id', enrolment.group_id,
                'token_id', p_token_id, 'enrolment_id', enrolment.token_id, 'address', p_address)));
    RETURN QUERY SELECT 'enrolled', enrolment.group_id;
END
$function$;

CREATE OR REPLACE FUNCTION control.halt_changeset_v1(p_changeset_id uuid, p_reason text, p_by text, p_evidence jsonb, p_event_id uuid, p_source text)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION control.hold_segment_v1(p_hold_id uuid, p_changeset_id uuid, p_segment jsonb, p_reason text, p_by text, p_evidence jsonb, p_event_id uuid, p_source text)
 RETURNS uuid
 LANGUAGE plpgsql
AS $function$
DECLARE
    known uuid;
BEGIN
    -- The global gate first, as grants lock it: the policy version is raised below.
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    PERFORM 1 FROM control.changeset_gates WHERE changeset_id = p_changeset_id FOR NO KEY UPDATE;
    SELECT hold_id INTO known FROM control.holds
     WHERE changeset_id = p_changeset_id AND segment = p_segment AND released_at IS NULL;
    IF FOUND THEN
        RETURN known;
    END IF;
    INSERT INTO control.holds (hold_id, changeset_id, segment, reason, held_by)
    VALUES (p_hold_id, p_changeset_id, p_segment, p_reason, p_by);
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.held.v1', p_source, 'changesets/' || p_changeset_id, p_changeset_id::text, clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object('changeset_id', p_changeset_id, 'hold_id', p_hold_id, 'segment', p_segment,
                'reason', p_reason, 'by', p_by, 'held', true, 'evidence', p_evidence)), p_changeset_id::text);
    PERFORM fleet.recall_held_v1(p_changeset_id, p_segment, 'segment held', p_source);
    PERFORM control.raise_policy_version_v1();
    RETURN p_hold_id;
END
$function$;

CREATE OR REPLACE FUNCTION control.is_held_v1(p_changeset_id uuid, p_facts jsonb)
 RETURNS boolean
 LANGUAGE sql
 STABLE
AS $function$
    SELECT EXISTS (SELECT 1 FROM control.holds h
                    WHERE h.changeset_id = p_changeset_id AND h.released_at IS NULL AND fleet.in_segment_v1(h.segment, p_facts))
$function$;

CREATE OR REPLACE FUNCTION control.raise_policy_version_v1()
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
DECLARE
    raised bigint;
BEGIN
    UPDATE control.global_gate SET policy_version = policy_version + 1 RETURNING policy_version INTO raised;
    PERFORM pg_notify('uneventful_gates', 'policy');
    RETURN raised;
END
$function$;

CREATE OR REPLACE FUNCTION control.release_hold_v1(p_hold_id uuid, p_reason text, p_by text, p_event_id uuid, p_source text)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION control.resume_changeset_v1(p_changeset_id uuid, p_reason text, p_by text, p_event_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
DECLARE
    resumed control.changeset_gates;
    initial integer;
BEGIN
    -- The global gate first, as grants lock it: the policy version is raised below.
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    PERFORM 1 FROM control.changeset_gates WHERE changeset_id = p_changeset_id FOR NO KEY UPDATE;
    SELECT max((parameters ->> 'hold_budget')::integer) INTO initial FROM control.rollouts
     WHERE changeset_id = p_changeset_id AND state = 'halted';
    UPDATE control.changeset_gates SET state = 'open', reason = p_reason, evidence = NULL, resumes = resumes + 1,
           pace = least(coalesce(initial, pace), pace), changed_at = clock_timestamp()
     WHERE changeset_id = p_changeset_id AND state = 'halted' RETURNING * INTO resumed;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'changeset.resumed.v1', 'control', 'changesets/' || p_changeset_id, p_changeset_id::text, clock_timestamp(),
            jsonb_build_object('changeset_id', p_changeset_id, 'by', p_by, 'reason', p_reason, 'resumes', resumed.resumes),
            p_changeset_id::text);
    PERFORM control.transition_rollout_v1(o.rollout_id,
                CASE WHEN o.running_since IS NULL THEN 'waiting_for_gate' ELSE 'running' END,
                p_reason, p_by, gen_random_uuid(), 'control')
       FROM control.rollouts o WHERE o.changeset_id = p_changeset_id AND o.state = 'halted' ORDER BY o.rollout_id;
    PERFORM control.raise_policy_version_v1();
    RETURN true;
END
$function$;

CREATE OR REPLACE FUNCTION control.set_pace_v1(p_changeset_id uuid, p_pace integer, p_rollout_ids uuid[], p_paces integer[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    PERFORM 1 FROM control.changeset_gates WHERE changeset_id = p_changeset_id FOR NO KEY UPDATE;
    PERFORM 1 FROM control.rollouts WHERE rollout_id = ANY (p_rollout_ids) ORDER BY rollout_id FOR NO KEY UPDATE;
    UPDATE control.changeset_gates SET pace = p_pace, changed_at = clock_timestamp()
     WHERE changeset_id = p_changeset_id;
    UPDATE control.rollouts o SET pace = u.pace
      FROM unnest(p_rollout_ids, p_paces) AS u(rollout_id, pace) WHERE o.rollout_id = u.rollout_id AND o.pace <> u.pace;
    PERFORM pg_notify('uneventful_gates', p_changeset_id::text);
END
$function$;

CREATE OR REPLACE FUNCTION control.transition_rollout_v1(p_rollout_id uuid, p_to text, p_reason text, p_by text, p_event_id uuid, p_source text)
 RETURNS text
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION control.withdraw_changeset_v1(p_changeset_id uuid, p_reason text, p_by text, p_event_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
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
$function$;

CREATE OR REPLACE FUNCTION event_log.append_v1(event_ids uuid[], types text[], sources text[], subjects text[], partition_keys text[], occurred_ats timestamp with time zone[], datas jsonb[], correlation_ids text[], causation_ids text[], traceparents text[])
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  fresh    uuid[];
  appended integer;
BEGIN
  IF cardinality(event_ids) = 0 THEN
    RETURN 0;
  END IF;
  IF NOT (cardinality(event_ids) = cardinality(types)
      AND cardinality(event_ids) = cardinality(sources)
      AND cardinality(event_ids) = cardinality(subjects)
      AND cardinality(event_ids) = cardinality(partition_keys)
      AND cardinality(event_ids) = cardinality(occurred_ats)
      AND cardinality(event_ids) = cardinality(datas)
      AND cardinality(event_ids) = cardinality(correlation_ids)
      AND cardinality(event_ids) = cardinality(causation_ids)
      AND cardinality(event_ids) = cardinality(traceparents)) THEN
    RAISE EXCEPTION 'append_v1: all arrays must have one length' USING ERRCODE = 'invalid_parameter_value';
  END IF;

  -- In id order, so that two callers with overlapping ids wait for each other and never deadlock.
  WITH written AS (
    INSERT INTO event_log.seen (event_id)
    SELECT DISTINCT given.event_id FROM unnest(event_ids) AS given (event_id) ORDER BY given.event_id
    ON CONFLICT DO NOTHING
    RETURNING seen.event_id
  )
  SELECT array_agg(written.event_id) INTO fresh FROM written;

  IF cardinality(fresh) = cardinality(event_ids) THEN
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id,
                                 causation_id, traceparent)
    SELECT e.event_id, e.type, e.source, e.subject, e.partition_key, e.occurred_at, e.data, e.correlation_id,
           e.causation_id, e.traceparent
    FROM unnest(event_ids, types, sources, subjects, partition_keys, occurred_ats, datas, correlation_ids,
                causation_ids, traceparents)
         WITH ORDINALITY AS e (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id,
                               causation_id, traceparent, place)
    ORDER BY e.place;
  ELSIF fresh IS NOT NULL THEN
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id,
                                 causation_id, traceparent)
    SELECT once.event_id, once.type, once.source, once.subject, once.partition_key, once.occurred_at, once.data,
           once.correlation_id, once.causation_id, once.traceparent
    FROM (
      SELECT DISTINCT ON (e.event_id) e.*
      FROM unnest(event_ids, types, sources, subjects, partition_keys, occurred_ats, datas, correlation_ids,
                  causation_ids, traceparents)
           WITH ORDINALITY AS e (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id,
                                 causation_id, traceparent, place)
      JOIN unnest(fresh) AS f (event_id) ON f.event_id = e.event_id
      ORDER BY e.event_id, e.place
    ) AS once
    ORDER BY once.place;
  END IF;
  GET DIAGNOSTICS appended = ROW_COUNT;
  RETURN CASE WHEN fresh IS NULL THEN 0 ELSE appended END;
END;
$function$;

CREATE OR REPLACE FUNCTION event_log.ensure_partitions_v1(ahead integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  block_size CONSTANT bigint := 1000000;
  first_block bigint;
  block       bigint;
  name        text;
  made        integer := 0;
BEGIN
  IF ahead NOT BETWEEN 1 AND 1000 THEN
    RAISE EXCEPTION 'ensure_partitions_v1: ahead must be between 1 and 1000' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('event_log.ensure_partitions', 0));
  SELECT (head.seq + 1) / block_size INTO STRICT first_block FROM event_log.head;
  FOR block IN first_block .. first_block + ahead LOOP
    name := 'ledger_' || lpad(block::text, 6, '0');
    CONTINUE WHEN to_regclass('event_log.' || name) IS NOT NULL;
    EXECUTE format('CREATE TABLE event_log.%I (LIKE event_log.ledger INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format('CREATE TRIGGER ledger_is_not_truncated BEFORE TRUNCATE ON event_log.%I '
                   'FOR EACH STATEMENT EXECUTE FUNCTION event_log.refuse_change()', name);
    EXECUTE format('ALTER TABLE event_log.ledger ATTACH PARTITION event_log.%I FOR VALUES FROM (%L) TO (%L)',
                   name, block * block_size, (block + 1) * block_size);
    made := made + 1;
  END LOOP;
  RETURN made;
END;
$function$;

CREATE OR REPLACE FUNCTION event_log.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
  RAISE EXCEPTION 'event_log.ledger is append-only: % is refused', TG_OP USING ERRCODE = 'object_not_in_prerequisite_state';
END;
$function$;

CREATE OR REPLACE FUNCTION fleet.assign_groups_v1(p_application_id uuid, p_facts text[], p_keys text[], p_group_ids uuid[], p_node_ids uuid[] DEFAULT NULL::uuid[])
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    moved bigint;
BEGIN
    WITH here AS MATERIALIZED (
        SELECT n.node_id, n.machine_id, n.group_id, to_jsonb(ARRAY(
                   SELECT fleet.fact_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version, u.fact)
                     FROM unnest(p_facts) AS u(fact)))::text AS key
          FROM fleet.nodes n
         WHERE n.application_id = p_application_id AND (p_node_ids IS NULL OR n.node_id = ANY (p_node_ids))
    ), wanted AS MATERIALIZED (
        SELECT here.node_id, coalesce(named.group_id, keyed.group_id) AS group_id
          FROM here
          LEFT JOIN control.group_nodes named
                 ON named.application_id = p_application_id AND named.machine_id = here.machine_id
          LEFT JOIN unnest(p_keys, p_group_ids) AS keyed(key, group_id) ON keyed.key = here.key
         WHERE here.group_id IS DISTINCT FROM coalesce(named.group_id, keyed.group_id)
    ), locked AS MATERIALIZED (
        SELECT n.node_id FROM fleet.nodes n JOIN wanted USING (node_id) ORDER BY n.node_id FOR NO KEY UPDATE OF n
    )
    UPDATE fleet.nodes n SET group_id = wanted.group_id
      FROM wanted JOIN locked USING (node_id) WHERE n.node_id = wanted.node_id;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.close_v1(p_attempt_ids uuid[], p_kinds text[], p_reasons text[], p_event_ids uuid[], p_source text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    closed integer;
BEGIN
    PERFORM 1 FROM fleet.attempts t WHERE t.attempt_id = ANY (p_attempt_ids) ORDER BY t.attempt_id FOR NO KEY UPDATE;
    WITH wanted AS (
        SELECT u.*, t.state AS state_before FROM unnest(p_attempt_ids, p_kinds, p_reasons, p_event_ids)
               AS u(attempt_id, kind, why, event_id)
          JOIN fleet.attempts t ON t.attempt_id = u.attempt_id AND t.closed_at IS NULL
         WHERE u.kind <> 'parked' OR NOT t.parked
    ), moved AS (
        UPDATE fleet.attempts t
           SET state = CASE WHEN w.kind = 'parked' THEN t.state ELSE w.kind END,
               parked = w.kind = 'parked',
               reason = w.why, changed_at = clock_timestamp(),
               closed_at = CASE WHEN w.kind = 'parked' THEN NULL ELSE clock_timestamp() END
          FROM wanted w WHERE t.attempt_id = w.attempt_id
        RETURNING t.*, w.kind, w.why, w.event_id, w.state_before
    )
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    SELECT m.event_id, 'update.' || m.kind || '.v1', p_source, 'nodes/' || m.node_id, m.node_id::text, clock_timestamp(),
           jsonb_strip_nulls(jsonb_build_object(
               'node_id', m.node_id, 'machine_id', n.machine_id, 'application_id', m.application_id,
               'attempt_id', m.attempt_id, 'rollout_id', m.rollout_id, 'changeset_id', m.changeset_id, 'group_id', m.group_id,
               'arch', m.arch, 'from_version', m.from_version, 'to_version', m.to_version, 'version', n.version,
               'state_before', m.state_before, 'state_after', m.state, 'applied', true, 'reason', m.why, 'source', p_source)),
           m.attempt_id::text
      FROM moved m LEFT JOIN fleet.nodes n ON n.node_id = m.node_id
     ORDER BY m.attempt_id;
    GET DIAGNOSTICS closed = ROW_COUNT;
    RETURN closed;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.contact_v2(p_node_ids uuid[], p_group_ids uuid[], p_versions text[], p_boot_ids text[], p_times timestamp with time zone[], p_answers text[], p_awaited_every interval DEFAULT '00:15:00'::interval)
 RETURNS TABLE(node_id uuid, known boolean)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) ORDER BY n.node_id FOR NO KEY UPDATE;
    RETURN QUERY
    WITH polls AS (
        SELECT u.*, EXISTS (
                   SELECT 1 FROM fleet.attempts a
                    WHERE a.node_id = u.node_id AND a.closed_at IS NULL
                      AND (a.boot_id <> u.boot_id
                           OR (a.state IN ('staged', 'awaiting_reboot')
                               AND (a.awaited_at IS NULL OR u.at >= a.awaited_at + p_awaited_every)))) AS moves
          FROM unnest(p_node_ids, p_group_ids, p_versions, p_boot_ids, p_times, p_answers)
               AS u(node_id, group_id, version, boot_id, at, answer)
    ), told AS (
        UPDATE fleet.nodes n
           SET last_contact_at = greatest(n.last_contact_at, p.at), group_id = coalesce(p.group_id, n.group_id),
               last_answer = CASE WHEN p.answer IS NULL OR p.at < n.last_answer_at THEN n.last_answer ELSE p.answer END,
               last_answer_at = CASE WHEN p.answer IS NULL OR p.at < n.last_answer_at THEN n.last_answer_at ELSE p.at END
          FROM polls p
         WHERE n.node_id = p.node_id
        RETURNING n.node_id, n.version = p.version AND n.boot_id = p.boot_id AND NOT p.moves AS agrees
    )
    SELECT p.node_id, told.node_id IS NOT NULL
      FROM polls p LEFT JOIN told ON told.node_id = p.node_id
     WHERE told.agrees IS NOT TRUE;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.describe_nodes_v1(p_node_ids uuid[], p_aliases text[], p_facts jsonb[], p_event_ids uuid[], p_reason text, p_by text, p_source text, p_dry_run boolean DEFAULT false)
 RETURNS SETOF uuid
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    changing uuid[];
BEGIN
    PERFORM 1 FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) ORDER BY n.node_id FOR NO KEY UPDATE;
    WITH said AS (
        SELECT n.node_id, u.event_id, u.alias AS said_alias, u.facts AS said_facts,
               CASE WHEN u.alias IS NULL THEN n.alias ELSE nullif(u.alias, '') END AS alias,
               jsonb_strip_nulls(n.imported_facts || coalesce(u.facts, '{}')) AS facts
          FROM unnest(p_node_ids, p_aliases, p_facts, p_event_ids) AS u(node_id, alias, facts, event_id)
          JOIN fleet.nodes n ON n.node_id = u.node_id
         WHERE n.imported_facts <> jsonb_strip_nulls(n.imported_facts || coalesce(u.facts, '{}'))
            OR n.alias IS DISTINCT FROM CASE WHEN u.alias IS NULL THEN n.alias ELSE nullif(u.alias, '') END
    ), written AS (
        UPDATE fleet.nodes n SET alias = said.alias, imported_facts = said.facts
          FROM said WHERE n.node_id = said.node_id AND NOT p_dry_run
        RETURNING n.node_id, n.machine_id, n.application_id, n.alias, said.event_id, said.said_alias, said.said_facts
    ), told AS (
        INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
        SELECT w.event_id, 'node.changed.v1', p_source, 'nodes/' || w.node_id, w.node_id::text, clock_timestamp(),
               jsonb_strip_nulls(jsonb_build_object(
                   'node_id', w.node_id, 'machine_id', w.machine_id, 'application_id', w.application_id,
                   'alias', CASE WHEN w.said_alias IS NOT NULL THEN w.alias END,
                   'facts', nullif(jsonb_strip_nulls(coalesce(w.said_facts, '{}')), '{}'), 'reason', p_reason, 'by', p_by))
          FROM written w ORDER BY w.node_id
    )
    SELECT coalesce(array_agg(said.node_id), '{}') INTO changing FROM said;
    RETURN QUERY SELECT unnest(changing);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.expected_contacts_v1(p_interval_s double precision)
 RETURNS TABLE(site text, expected double precision)
 LANGUAGE plpgsql
 SET enable_nestloop TO 'off'
AS $function$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM fleet.idle_estimates e WHERE e.estimated_at > clock_timestamp() - interval '30 s') THEN
        DELETE FROM fleet.idle_estimates;
        INSERT INTO fleet.idle_estimates (site, contacts_per_second, estimated_at)
        SELECT per_group.site, sum(per_group.nodes / per_group.poll_interval_s), clock_timestamp()
          FROM (SELECT coalesce(n.facts ->> 'site', '') AS site, count(*)::double precision AS nodes,
                       coalesce((g.policy ->> 'poll_interval_s')::double precision, 2700.0) AS poll_interval_s
                  FROM fleet.nodes n
                  LEFT JOIN control.groups g ON g.group_id = n.group_id
                 WHERE n.last_contact_at > clock_timestamp() - interval '1 day' AND n.gone_at IS NULL
                   AND NOT EXISTS (SELECT 1 FROM fleet.attempts a WHERE a.node_id = n.node_id AND a.closed_at IS NULL)
                 GROUP BY 1, g.policy ->> 'poll_interval_s') AS per_group
         GROUP BY per_group.site;
    END IF;
    RETURN QUERY SELECT e.site, e.contacts_per_second * p_interval_s FROM fleet.idle_estimates e;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.fact_v1(p_told jsonb, p_imported jsonb, p_alias text, p_arch text, p_version text, p_fact text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE p_fact
        WHEN 'version' THEN p_version
        WHEN 'arch' THEN coalesce(p_arch, p_told ->> 'arch', p_imported ->> 'arch')
        WHEN 'alias' THEN coalesce(p_told ->> 'alias', p_alias, p_imported ->> 'alias')
        ELSE coalesce(p_told ->> p_fact, p_imported ->> p_fact) END
$function$;

CREATE OR REPLACE FUNCTION fleet.facts_v1(p_told jsonb, p_imported jsonb, p_alias text, p_arch text, p_version text)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT p_imported || jsonb_strip_nulls(jsonb_build_object('alias', p_alias)) || p_told
           || jsonb_strip_nulls(jsonb_build_object('arch', p_arch, 'version', p_version))
$function$;

CREATE OR REPLACE FUNCTION fleet.flooded_v1(p_application_ids uuid[], p_kinds text[], p_sources text[], p_dropped bigint[], p_at timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    INSERT INTO fleet.floods AS f (application_id, kind, source, dropped, untold, first_at, last_at)
    SELECT u.application_id, u.kind, u.source, u.dropped, u.dropped, p_at, p_at
      FROM unnest(p_application_ids, p_kinds, p_sources, p_dropped) AS u(application_id, kind, source, dropped)
     ORDER BY u.application_id, u.kind, u.source
    ON CONFLICT (application_id, kind, source) DO UPDATE
       SET dropped = f.dropped + excluded.dropped, untold = f.untold + excluded.untold,
           last_at = greatest(f.last_at, excluded.last_at);
    WITH due AS (
        SELECT f.application_id, f.kind, f.source, f.untold
          FROM fleet.floods f
          JOIN unnest(p_application_ids, p_kinds, p_sources) AS u(application_id, kind, source) USING (application_id, kind, source)
         WHERE f.told_at IS NULL OR f.told_at <= clock_timestamp() - interval '1 min'
    ), told AS (
        UPDATE fleet.floods f SET told_at = clock_timestamp(), untold = 0
          FROM due WHERE (f.application_id, f.kind, f.source) = (due.application_id, due.kind, due.source)
    )
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
    SELECT gen_random_uuid(), 'fleet.flooded.v1', 'update_check', 'applications/' || due.application_id,
           due.application_id::text, p_at,
           jsonb_build_object('application_id', due.application_id, 'kind', due.kind, 'source', due.source,
                              'dropped', due.untold)
      FROM due ORDER BY due.kind, due.source;
    DELETE FROM fleet.floods f WHERE f.last_at < p_at - interval '30 days';
END
$function$;

CREATE OR REPLACE FUNCTION fleet.forget_v1(p_node_id uuid, p_event_id uuid, p_reason text, p_by text, p_source text)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
DECLARE
    n fleet.nodes;
BEGIN
    SELECT * INTO n FROM fleet.nodes WHERE node_id = p_node_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM fleet.recall_nodes_v1(ARRAY[p_node_id], 'node forgotten', p_source);
    DELETE FROM fleet.nodes WHERE node_id = p_node_id;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data)
    VALUES (p_event_id, 'node.changed.v1', p_source, 'nodes/' || p_node_id, p_node_id::text, clock_timestamp(),
            jsonb_build_object('node_id', p_node_id, 'machine_id', n.machine_id, 'application_id', n.application_id,
                               'forgotten', true, 'reason', p_reason, 'by', p_by));
    RETURN true;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.gone_v1(p_node_ids uuid[], p_event_ids uuid[], p_reason text, p_by text, p_source text)
 RETURNS SETOF uuid
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    going uuid[];
BEGIN
    SELECT coalesce(array_agg(here.node_id), '{}') INTO going FROM (
        SELECT n.node_id FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) AND n.gone_at IS NULL
         ORDER BY n.node_id FOR NO KEY UPDATE) AS here;
    UPDATE fleet.nodes n SET gone_at = clock_timestamp() WHERE n.node_id = ANY (going);
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    SELECT u.event_id, 'node.gone.v1', p_source, 'nodes/' || n.node_id, n.node_id::text, clock_timestamp(),
           jsonb_strip_nulls(jsonb_build_object(
               'node_id', n.node_id, 'machine_id', n.machine_id, 'application_id', n.application_id,
               'attempt_id', a.attempt_id, 'changeset_id', a.changeset_id, 'rollout_id', a.rollout_id,
               'reason', p_reason, 'by', p_by)),
           a.attempt_id::text
      FROM unnest(p_node_ids, p_event_ids) AS u(node_id, event_id)
      JOIN fleet.nodes n ON n.node_id = u.node_id AND n.node_id = ANY (going)
      LEFT JOIN fleet.attempts a ON a.node_id = n.node_id AND a.closed_at IS NULL
     ORDER BY n.node_id;
    PERFORM fleet.recall_nodes_v1(going, 'node gone', p_source);
    RETURN QUERY SELECT unnest(going);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.grant_v2(p_rollout_id uuid, p_policy_version bigint, p_node_ids uuid[], p_attempt_ids uuid[], p_tokens text[], p_event_ids uuid[], p_versions text[], p_boot_ids text[], p_times timestamp with time zone[], p_traceparents text[])
 RETURNS TABLE(ordinal bigint, status text, attempt_id uuid, token text)
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    gate_open boolean;
    version_now bigint;
    gate control.changeset_gates;
    ro control.rollouts;
    target text;
    g control.groups;
    observed boolean;
    room integer;
    in_group integer;
    refusal text;
    max_attempts integer;
    retry_after interval;
    has_holds boolean;
    domain text;
    busy_domains text[] := '{}';
BEGIN
    SELECT open, policy_version INTO gate_open, version_now FROM control.global_gate FOR SHARE;
    SELECT cg.* INTO gate FROM control.changeset_gates cg
      JOIN control.rollouts o ON o.changeset_id = cg.changeset_id
     WHERE o.rollout_id = p_rollout_id FOR NO KEY UPDATE OF cg;
    IF NOT FOUND THEN
        RETURN QUERY SELECT u.ord, 'rollout_unknown', NULL::uuid, NULL::text FROM unnest(p_node_ids) WITH ORDINALITY AS u(id, ord);
        RETURN;
    END IF;
    SELECT gr.* INTO g FROM control.groups gr JOIN control.rollouts o ON o.group_id = gr.group_id
     WHERE o.rollout_id = p_rollout_id FOR NO KEY UPDATE OF gr;
    SELECT * INTO ro FROM control.rollouts WHERE rollout_id = p_rollout_id FOR SHARE;
    -- The row as it is now that it is locked: the join above may have seen an older version of it.
    SELECT * INTO gate FROM control.changeset_gates WHERE changeset_id = ro.changeset_id;
    SELECT a.observe_only INTO observed FROM control.applications a WHERE a.application_id = ro.application_id;

    refusal := CASE
        WHEN observed THEN 'observe_only'
        WHEN NOT gate_open THEN 'halted_everywhere'
        WHEN gate.state <> 'open' THEN gate.state
        WHEN gate.braked_reason IS NOT NULL THEN 'braked'
        WHEN ro.state = 'completed' AND ro.purpose <> 'drill' THEN (
            -- It goes on serving, until a newer one of its kind does.
            SELECT 'rollout_superseded' FROM control.rollouts newer
             WHERE newer.group_id = ro.group_id AND newer.arch = ro.arch AND newer.purpose = ro.purpose
               AND newer.state IN ('running', 'completed')
               AND (newer.purpose <> 'floor' OR newer.changeset_id = ro.changeset_id)
               AND newer.leaves_version IS NOT DISTINCT FROM ro.leaves_version
               AND (newer.created_at, newer.rollout_id) > (ro.created_at, ro.rollout_id) LIMIT 1)
        WHEN ro.state = 'completed' THEN 'rollout_superseded'
        WHEN ro.state <> 'running' THEN 'rollout_' || ro.state
    END;
    refusal := coalesce(refusal, CASE
        WHEN NOT g.updates_enabled THEN 'updates_disabled'
        WHEN version_now <> p_policy_version THEN 'policy_changed'
    END);
    IF refusal IS NOT NULL THEN
        RETURN QUERY SELECT u.ord, refusal, NULL::uuid, NULL::text FROM unnest(p_node_ids) WITH ORDINALITY AS u(id, ord);
        RETURN;
    END IF;

    PERFORM 1 FROM fleet.nodes n WHERE n.node_id = ANY (p_node_ids) ORDER BY n.node_id FOR NO KEY UPDATE;
    SELECT count(*) INTO room FROM fleet.attempts t WHERE t.changeset_id = ro.changeset_id AND t.closed_at IS NULL AND NOT t.parked;
    SELECT count(*) INTO in_group FROM fleet.attempts t WHERE t.group_id = ro.group_id AND t.closed_at IS NULL AND NOT t.parked;
    -- least() passes over a cap that is not set.
    room := greatest(0, least(gate.pace - room, least(ro.pace, ro.pace_cap) - in_group));
    max_attempts := coalesce((ro.policy ->> 'max_attempts')::integer, 5);
    retry_after := make_interval(secs => coalesce((ro.policy ->> 'retry_after_s')::double precision, 3600));
    domain := ro.policy ->> 'failure_domain';
    has_holds := EXISTS (SELECT 1 FROM control.holds h WHERE h.changeset_id = ro.changeset_id AND h.released_at IS NULL);
    SELECT version INTO target FROM control.changesets WHERE changeset_id = ro.changeset_id;
    IF domain IS NOT NULL THEN
        -- Nodes that do not tell the fact share one domain.
        SELECT coalesce(array_agg(DISTINCT coalesce(
                   fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, n.version) ->> domain, '')), '{}')
          INTO busy_domains
          FROM fleet.attempts t JOIN fleet.nodes n USING (node_id)
         WHERE t.group_id = ro.group_id AND t.closed_at IS NULL AND NOT t.parked;
    END IF;

    RETURN QUERY
    WITH asked AS (
        SELECT u.*, n.node_id IS NOT NULL AS known, n.cloned, n.application_id, n.machine_id, n.facts, n.dialect,
               fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, u.version) AS all_facts,
               open_one.attempt_id AS open_attempt_id, open_one.token AS open_token, open_one.changeset_id AS open_changeset_id,
               open_one.state AS open_state,
               q.node_id IS NOT NULL AS is_quarantined,
               x.node_id IS NOT NULL AS is_excluded,
               (SELECT count(*) FROM fleet.attempts t WHERE t.node_id = u.node_id AND t.changeset_id = ro.changeset_id
                   AND t.state = 'failed') AS failures,
               (SELECT max(t.closed_at) FROM fleet.attempts t WHERE t.node_id = u.node_id AND t.changeset_id = ro.changeset_id
                   AND t.state = 'failed') AS failed_at,
               row_number() OVER (PARTITION BY u.node_id ORDER BY u.ord) AS occurrence
          FROM unnest(p_node_ids, p_attempt_ids, p_tokens, p_event_ids, p_versions, p_boot_ids, p_times, p_traceparents)
               WITH ORDINALITY AS u(node_id, attempt_id, token, event_id, version, boot_id, at, traceparent, ord)
          LEFT JOIN fleet.nodes n ON n.node_id = u.node_id
          LEFT JOIN fleet.attempts open_one ON open_one.node_id = u.node_id AND open_one.closed_at IS NULL
          LEFT JOIN fleet.quarantine q ON q.node_id = u.node_id AND q.changeset_id = ro.changeset_id
          LEFT JOIN control.rollout_exclusions x ON x.rollout_id = ro.rollout_id AND x.node_id = u.node_id
    ), judged AS (
        SELECT asked.*, CASE
            WHEN NOT known THEN 'node_unknown'
            WHEN (ro.purpose = 'drill' OR ro.only_machines IS NOT NULL)
                 AND NOT coalesce(machine_id = ANY (ro.only_machines), false) THEN 'no_rollout'
            WHEN has_holds AND control.is_held_v1(ro.changeset_id, all_facts) THEN 'held'
            WHEN is_excluded THEN 'excluded'
            WHEN cloned THEN 'cloned'
            WHEN is_quarantined THEN 'quarantined'
            WHEN open_attempt_id IS NOT NULL AND open_changeset_id = ro.changeset_id
                 -- A node that is shown edges is taken to stage what it sees; where it asks again it has not.
                 AND (open_state IN ('offered', 'downloading') OR (dialect = 'cincinnati' AND open_state IN ('staged', 'awaiting_reboot')))
                THEN 'repeated'
            WHEN open_attempt_id IS NOT NULL THEN 'attempt_open'
            WHEN failures >= max_attempts THEN 'attempts_spent'
            WHEN failed_at > clock_timestamp() - retry_after * power(2, least(failures - 1, 10)) THEN 'retry_later'
            WHEN occurrence > 1 THEN 'attempt_open'
            WHEN domain IS NOT NULL AND coalesce(all_facts ->> domain, '') = ANY (busy_domains) THEN 'failure_domain'
        END AS verdict
          FROM asked
    ), spread AS (
        -- One node of a failure domain, also within this batch: the first that may.
        SELECT judged.*, CASE WHEN verdict IS NULL AND domain IS NOT NULL AND row_number() OVER (
                   PARTITION BY verdict IS NULL, coalesce(all_facts ->> domain, '') ORDER BY ord) > 1
               THEN 'failure_domain' ELSE verdict END AS final_verdict
          FROM judged
    ), placed AS (
        SELECT spread.*, CASE WHEN final_verdict IS NULL
                              THEN row_number() OVER (PARTITION BY final_verdict IS NULL ORDER BY ord) END AS place
          FROM spread
    ), granted AS (
        INSERT INTO fleet.attempts (attempt_id, token, node_id, application_id, changeset_id, rollout_id, group_id, arch,
                                    from_version, to_version, state, boot_id, granted_at, changed_at)
        SELECT attempt_id, token, node_id, application_id, ro.changeset_id, ro.rollout_id, ro.group_id, ro.arch,
               version, target, 'offered', boot_id, at, at
          FROM placed WHERE place <= room ORDER BY node_id
        ON CONFLICT (node_id) WHERE closed_at IS NULL DO NOTHING
        RETURNING attempt_id, node_id, granted_at
    ), remembered AS (
        UPDATE fleet.nodes n SET last_attempt_id = granted.attempt_id, last_answer = 'granted', last_answer_at = granted.granted_at
          FROM granted WHERE n.node_id = granted.node_id
    ), told AS (
        INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id, traceparent)
        SELECT p.event_id, 'update.offered.v1', 'grant', 'nodes/' || p.node_id, p.node_id::text, p.at,
               jsonb_strip_nulls(jsonb_build_object(
                   'node_id', p.node_id, 'machine_id', p.machine_id, 'application_id', p.application_id,
                   'attempt_id', p.attempt_id, 'rollout_id', ro.rollout_id, 'changeset_id', ro.changeset_id,
                   'group_id', ro.group_id, 'arch', ro.arch, 'from_version', p.version, 'to_version', target,
                   'version', p.version, 'boot_id', p.boot_id, 'state_after', 'offered', 'applied', true, 'source', 'grant',
                   'facts', p.facts, 'site', p.all_facts ->> 'site')),
               p.attempt_id::text, p.traceparent
          FROM placed p JOIN granted USING (attempt_id)
    )
    SELECT p.ord,
           CASE WHEN granted.attempt_id IS NOT NULL THEN 'granted'
                WHEN p.final_verdict IS NOT NULL THEN p.final_verdict
                WHEN p.place > room THEN 'pace'
                ELSE 'attempt_open' END,
           CASE WHEN p.final_verdict = 'repeated' THEN p.open_attempt_id ELSE granted.attempt_id END,
           CASE WHEN p.final_verdict = 'repeated' THEN p.open_token WHEN granted.attempt_id IS NOT NULL THEN p.token END
      FROM placed p LEFT JOIN granted ON granted.attempt_id = p.attempt_id
     ORDER BY p.ord;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.in_segment_v1(p_segment jsonb, p_facts jsonb)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT NOT EXISTS (SELECT 1 FROM jsonb_each_text(p_segment) AS s(name, value) WHERE p_facts ->> s.name <> s.value)
$function$;

CREATE OR REPLACE FUNCTION fleet.lift_quarantine_v1(p_node_id uuid, p_changeset_id uuid, p_reason text, p_by text, p_event_id uuid, p_source text)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
DECLARE
    n fleet.nodes;
    lifted uuid;
BEGIN
    SELECT * INTO n FROM fleet.nodes WHERE node_id = p_node_id FOR NO KEY UPDATE;
    DELETE FROM fleet.quarantine WHERE node_id = p_node_id AND changeset_id = p_changeset_id RETURNING attempt_id INTO lifted;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    VALUES (p_event_id, 'node.quarantined.v1', p_source, 'nodes/' || p_node_id, p_node_id::text, clock_timestamp(),
            jsonb_strip_nulls(jsonb_build_object(
                'node_id', p_node_id, 'machine_id', n.machine_id, 'application_id', n.application_id,
                'changeset_id', p_changeset_id, 'attempt_id', lifted, 'reason', p_reason, 'lifted', true, 'by', p_by)),
            lifted::text);
    RETURN true;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.position_v1(p_machine_id text, p_changeset_id uuid)
 RETURNS double precision
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT (('x' || encode(substr(sha256(convert_to(p_changeset_id::text || '/' || p_machine_id, 'UTF8')), 1, 7), 'hex'))::bit(56)::bigint
            >> 3)::double precision / 9007199254740992
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_attempts_v1(p_attempt_ids uuid[], p_reason text, p_source text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
#variable_conflict use_column
DECLARE
    recalled integer;
BEGIN
    WITH moved AS (
        UPDATE fleet.attempts t SET state = 'recalled', reason = p_reason, changed_at = clock_timestamp(),
               closed_at = clock_timestamp(), parked = false
         WHERE t.attempt_id = ANY (p_attempt_ids) AND t.closed_at IS NULL
        RETURNING t.*
    )
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id)
    SELECT gen_random_uuid(), 'update.recalled.v1', p_source, 'nodes/' || m.node_id, m.node_id::text, clock_timestamp(),
           jsonb_strip_nulls(jsonb_build_object(
               'node_id', m.node_id, 'machine_id', n.machine_id, 'application_id', m.application_id,
               'attempt_id', m.attempt_id, 'rollout_id', m.rollout_id, 'changeset_id', m.changeset_id, 'group_id', m.group_id,
               'arch', m.arch, 'from_version', m.from_version, 'to_version', m.to_version, 'version', n.version,
               'state_after', 'recalled', 'applied', true, 'reason', p_reason,
               'source', CASE p_source WHEN 'analysis' THEN 'analysis' ELSE 'control' END)),
           m.attempt_id::text
      FROM moved m LEFT JOIN fleet.nodes n ON n.node_id = m.node_id
     ORDER BY m.attempt_id;
    GET DIAGNOSTICS recalled = ROW_COUNT;
    RETURN recalled;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_everything_v1(p_reason text, p_source text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    stopping uuid[];
BEGIN
    PERFORM 1 FROM control.global_gate FOR NO KEY UPDATE;
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t WHERE t.closed_at IS NULL AND t.state IN ('offered', 'downloading')
         ORDER BY t.attempt_id FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_held_v1(p_changeset_id uuid, p_segment jsonb, p_reason text, p_source text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t JOIN fleet.nodes n USING (node_id)
         WHERE t.changeset_id = p_changeset_id AND t.closed_at IS NULL AND t.state IN ('offered', 'downloading')
           AND fleet.in_segment_v1(p_segment, fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, t.from_version))
         ORDER BY t.attempt_id FOR NO KEY UPDATE OF t) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_nodes_v1(p_node_ids uuid[], p_reason text, p_source text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t WHERE t.node_id = ANY (p_node_ids) AND t.closed_at IS NULL
         ORDER BY t.attempt_id FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_offer_v1(p_rollout_id uuid, p_node_id uuid, p_reason text, p_source text)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t
         WHERE t.rollout_id = p_rollout_id AND t.node_id = p_node_id AND t.closed_at IS NULL
           AND t.state IN ('offered', 'downloading') FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source) > 0;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_told_v1(p_token text, p_node_id uuid, p_reason text, p_source text)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t
         WHERE t.token = p_token AND t.node_id = p_node_id AND t.closed_at IS NULL FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.recall_v1(p_changeset_id uuid, p_reason text, p_source text, p_rollout_id uuid DEFAULT NULL::uuid)
 RETURNS integer
 LANGUAGE plpgsql
AS $function$
DECLARE
    stopping uuid[];
BEGIN
    SELECT array_agg(open_one.attempt_id) INTO stopping FROM (
        SELECT t.attempt_id FROM fleet.attempts t
         WHERE t.changeset_id = p_changeset_id AND t.closed_at IS NULL AND t.state IN ('offered', 'downloading')
           AND (p_rollout_id IS NULL OR t.rollout_id = p_rollout_id)
         ORDER BY t.attempt_id FOR NO KEY UPDATE) AS open_one;
    RETURN fleet.recall_attempts_v1(stopping, p_reason, p_source);
END
$function$;

CREATE OR REPLACE FUNCTION fleet.report_v1(p_event_ids uuid[], p_kinds text[], p_sources text[], p_node_ids uuid[], p_application_ids uuid[], p_machine_ids text[], p_group_ids uuid[], p_versions text[], p_arches text[], p_boot_ids text[], p_times timestamp with time zone[], p_facts jsonb[], p_addresses text[], p_error_codes bigint[], p_error_bases integer[], p_error_classes text[], p_previous_versions text[], p_reasons text[], p_traceparents text[], p_awaited_every interval DEFAULT '00:15:00'::interval)
 RETURNS TABLE(ordinal bigint, status text, attempt_id uuid, changeset_id uuid, state text, quarantined boolean, cloned boolean)
 LANGUAGE plpgsql
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
AS $function$
#variable_conflict use_column
DECLARE
    is_fresh_at boolean[];   -- by ordinal
    enrolled_ids uuid[];
    r record;
    n fleet.nodes;           -- the reporting node and its attempt, as the reports so far have left them
    a fleet.attempts;
    nodes_after fleet.nodes[] := '{}';
    attempts_after fleet.attempts[] := '{}';
    node_moved boolean := false;
    attempt_moved boolean := false;
    wire_key uuid;
    enrolled boolean;
    rebooted boolean;
    boot_is_new boolean;
    in_order boolean;
    moves text[];          -- event types, in order
    states text[];         -- the state after each
    move_reason text;
    applied boolean;
    is_closed boolean;
    quarantine boolean;
    event_ords bigint[] := '{}';
    event_ids uuid[] := '{}';
    event_types text[] := '{}';
    event_datas jsonb[] := '{}';
    event_sources text[] := '{}';
    event_traceparents text[] := '{}';
    quarantine_ords bigint[] := '{}';
    quarantine_attempt_ids uuid[] := '{}';
    quarantine_reasons text[] := '{}';
    now_at timestamptz := clock_timestamp();
BEGIN
    WITH fresh AS (
        INSERT INTO event_log.seen (event_id)
        SELECT DISTINCT u.event_id FROM unnest(p_event_ids) AS u(event_id) ORDER BY 1
        ON CONFLICT DO NOTHING RETURNING event_id
    ) SELECT array_agg(told.is_fresh ORDER BY told.ord) INTO is_fresh_at
        FROM (SELECT u.ord, u.event_id IN (SELECT fresh.event_id FROM fresh)
                            AND row_number() OVER (PARTITION BY u.event_id ORDER BY u.ord) = 1 AS is_fresh
                FROM unnest(p_event_ids) WITH ORDINALITY AS u(event_id, ord)) AS told;

    WITH registered AS (
        INSERT INTO fleet.nodes AS old (node_id, application_id, machine_id, group_id, version, arch, boot_id, boot_seen_at,
                                        facts, address, dialect, first_seen_at, last_contact_at)
        SELECT DISTINCT ON (u.node_id) u.node_id, u.application_id, u.machine_id, u.group_id, u.version, u.arch, u.boot_id,
               u.at, coalesce(u.facts, '{}'), u.address, u.source, u.at, max(u.at) OVER (PARTITION BY u.node_id)
          FROM unnest(p_node_ids, p_application_ids, p_machine_ids, p_group_ids, p_versions, p_arches, p_boot_ids, p_times,
                      p_facts, p_addresses, p_sources) WITH ORDINALITY
               AS u(node_id, application_id, machine_id, group_id, version, arch, boot_id, at, facts, address, source, ord)
         ORDER BY u.node_id, u.ord
        ON CONFLICT (node_id) DO UPDATE SET last_contact_at = greatest(old.last_contact_at, excluded.last_contact_at),
                                            group_id = coalesce(excluded.group_id, old.group_id),
                                            dialect = excluded.dialect
        RETURNING node_id, (xmax = 0) AS inserted
    ) SELECT coalesce(array_agg(node_id) FILTER (WHERE inserted), '{}') INTO enrolled_ids FROM registered;

    PERFORM 1 FROM fleet.attempts t WHERE t.node_id = ANY (p_node_ids) AND t.closed_at IS NULL
      ORDER BY t.attempt_id FOR NO KEY UPDATE;

    -- Node by node, so that each is read and written once; within a node in the order of the arrays.
    FOR r IN
        SELECT u.*, u.node_id IN (SELECT e.node_id FROM unnest(enrolled_ids) AS e(node_id)) AS is_enrolled, node, attempt
          FROM unnest(p_event_ids, p_kinds, p_sources, p_node_ids, p_application_ids, p_machine_ids, p_group_ids, p_versions,
                      p_arches, p_boot_ids, p_times, p_facts, p_addresses, p_error_codes, p_error_bases, p_error_classes,
                      p_previous_versions, p_reasons, p_traceparents) WITH ORDINALITY
               AS u(event_id, kind, source, node_id, application_id, machine_id, group_id, version, arch, boot_id, at, facts,
                    address, error_code, error_base, error_class, previous_version, reason, traceparent, ord)
          JOIN fleet.nodes node ON node.node_id = u.node_id
          -- The open attempt, else the last one: late reports belong to it.
          LEFT JOIN fleet.attempts attempt ON attempt.attempt_id = coalesce(
               (SELECT o.attempt_id FROM fleet.attempts o WHERE o.node_id = u.node_id AND o.closed_at IS NULL),
               node.last_attempt_id)
         ORDER BY u.node_id, u.ord
    LOOP
        ordinal := r.ord;
        quarantined := false;
        enrolled := false;
        IF n.node_id IS DISTINCT FROM r.node_id THEN
            IF node_moved THEN
                nodes_after := array_append(nodes_after, n);
                node_moved := false;
            END IF;
            IF attempt_moved THEN
                attempts_after := array_append(attempts_after, a);
                attempt_moved := false;
            END IF;
            n := r.node;
            a := r.attempt;
            enrolled := r.is_enrolled;
        END IF;
        attempt_id := a.attempt_id;
        changeset_id := a.changeset_id;
        state := a.state;
        cloned := n.cloned;

        IF enrolled THEN
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, gen_random_uuid());
            event_types := array_append(event_types, 'node.enrolled.v1');
            event_datas := array_append(event_datas, jsonb_strip_nulls(jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'group_id', r.group_id, 'version', r.version, 'boot_id', r.boot_id, 'arch', r.arch,
                'facts', r.facts, 'address', r.address)));
        END IF;

        IF NOT is_fresh_at[r.ord] THEN
            status := 'duplicate';
            RETURN NEXT;
            CONTINUE;
        END IF;

        boot_is_new := r.boot_id <> n.boot_id;
        -- A boot that was never seen is news, whatever a native node's own clock says; only a former one may be an old
        -- report. Omaha reports have our clock, and those that were spooled are old even where their boot is unknown.
        in_order := r.at >= n.boot_seen_at OR (r.source = 'native' AND NOT (r.boot_id = ANY (n.former_boot_ids)));
        IF boot_is_new AND in_order AND NOT n.cloned AND r.boot_id = ANY (n.former_boot_ids)
           AND r.boot_id NOT LIKE 'unknown-%' THEN
            n.cloned := true;
            node_moved := true;
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, gen_random_uuid());
            event_types := array_append(event_types, 'node.cloned.v1');
            event_datas := array_append(event_datas, jsonb_strip_nulls(jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'boot_ids', jsonb_build_array(n.boot_id, r.boot_id),
                'addresses', jsonb_build_array(n.address, r.address))));
        END IF;
        IF n.cloned THEN
            -- Two machines under one id: what either says proves nothing about the attempt.
            status := 'cloned';
            cloned := true;
            RETURN NEXT;
            CONTINUE;
        END IF;

        IF r.source = 'omaha' AND r.kind NOT IN ('poll', 'ping') THEN
            -- A wire event has no id of its own: the same words within the same attempt and boot are the same event.
            wire_key := md5(concat_ws('|', r.node_id, a.attempt_id, r.boot_id, r.kind, r.error_code, r.previous_version))::uuid;
            INSERT INTO event_log.seen (event_id) VALUES (wire_key) ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                status := 'duplicate';
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;

        is_closed := a.attempt_id IS NULL OR a.closed_at IS NOT NULL;
        -- A node that tells no boot id and is back on its old version seems to be in the boot of the offer.
        rebooted := a.attempt_id IS NOT NULL
                    AND ((r.boot_id <> a.boot_id AND (in_order OR NOT boot_is_new))
                         OR (boot_is_new AND in_order AND r.boot_id LIKE 'unknown-%'));
        moves := '{}';
        states := '{}';
        move_reason := r.reason;
        applied := true;
        quarantine := false;

        IF a.attempt_id IS NULL THEN
            IF r.kind NOT IN ('poll', 'ping', 'updated', 'deferred') THEN
                moves := ARRAY[r.kind];
                applied := false;
                move_reason := coalesce(r.reason, 'no_attempt');
            END IF;
        ELSIF is_closed THEN
            IF a.state IN ('presumed_lost', 'committed') AND rebooted
               AND r.version <> a.to_version
               AND (r.kind = 'rolled_back' OR (r.version = a.from_version
                                               AND (a.state = 'presumed_lost' OR n.version = a.to_version)
                                               AND boot_is_new AND in_order)) THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := coalesce(r.reason, CASE WHEN a.state = 'committed' THEN 'version_regressed' ELSE 'late' END);
                quarantine := true;
            ELSIF a.state = 'presumed_lost' AND rebooted AND r.version = a.to_version
                  AND (r.kind = 'committed' OR r.source <> 'native') THEN
                moves := ARRAY['committed'];
                states := ARRAY['committed'];
                move_reason := 'late';
            ELSIF r.kind = 'rolled_back' AND rebooted AND a.state IN ('recalled', 'failed') THEN
                moves := ARRAY['rolled_back'];
                applied := false;
                -- A native node goes back since it was told to let go.
                quarantine := a.state = 'failed' OR r.source <> 'native';
                move_reason := 'after_' || a.state;
            ELSIF r.kind = 'updated' AND rebooted AND r.version = a.to_version
                  AND a.state IN ('recalled', 'failed', 'rolled_back') THEN
                -- It took what it was to take no more: no evidence, but to be seen.
                moves := ARRAY['committed'];
                applied := false;
                move_reason := 'after_' || a.state;
            ELSIF r.kind NOT IN ('poll', 'ping', 'updated', 'deferred') THEN
                moves := ARRAY[r.kind];
                applied := false;
                move_reason := 'after_' || a.state;
            END IF;
        ELSIF r.version = a.to_version AND rebooted AND r.source <> 'native' THEN
            -- Good: the target version in another boot, whatever rides on the poll.
            IF a.state NOT IN ('probation') THEN
                moves := ARRAY['booted', 'committed'];
                states := ARRAY['probation', 'committed'];
            ELSE
                moves := ARRAY['committed'];
                states := ARRAY['committed'];
            END IF;
        ELSIF r.kind = 'rolled_back' THEN
            IF rebooted THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := coalesce(r.reason, 'reported');
                quarantine := true;
            ELSE
                -- The marker was reset before any reboot: the update is off, but nothing was booted.
                moves := ARRAY['failed'];
                states := ARRAY['failed'];
                move_reason := 'marker_reset';
            END IF;
        ELSIF rebooted AND r.version <> a.to_version AND r.kind <> 'committed' THEN
            IF a.state IN ('staged', 'awaiting_reboot', 'rebooting', 'probation') THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := 'came_back_on_old_version';
                quarantine := true;
            ELSE
                moves := ARRAY['failed'];
                states := ARRAY['failed'];
                move_reason := 'rebooted_before_staged';
            END IF;
        ELSIF r.kind = 'failed' THEN
            moves := ARRAY['failed'];
            states := ARRAY['failed'];
            IF rebooted OR a.state IN ('rebooting', 'probation') THEN
                moves := ARRAY['rolled_back'];
                states := ARRAY['rolled_back'];
                move_reason := coalesce(r.reason, 'unhealthy');
                quarantine := true;
            END IF;
        ELSIF r.kind = 'committed' THEN
            IF rebooted AND r.version = a.to_version THEN
                IF a.state = 'probation' THEN
                    moves := ARRAY['committed'];
                    states := ARRAY['committed'];
                ELSE
                    moves := ARRAY['booted', 'committed'];
                    states := ARRAY['probation', 'committed'];
                END IF;
            ELSE
                moves := ARRAY['committed'];
                applied := false;
                move_reason := 'not_rebooted_into_target';
            END IF;
        ELSIF r.kind = 'booted' THEN
            IF rebooted AND a.state <> 'probation' THEN
                moves := ARRAY['booted'];
                states := ARRAY['probation'];
            ELSE
                moves := ARRAY['booted'];
                applied := false;
                move_reason := 'not_rebooted';
            END IF;
        ELSIF r.kind = 'staged' THEN
            moves := ARRAY['staged'];
            IF a.state IN ('offered', 'downloading') THEN
                states := ARRAY['staged'];
            ELSE
                applied := false;
            END IF;
        ELSIF r.kind = 'download_started' THEN
            moves := ARRAY['download_started'];
            IF a.state = 'offered' THEN
                states := ARRAY['downloading'];
            ELSE
                applied := false;
            END IF;
        ELSIF r.kind = 'downloaded' THEN
            moves := ARRAY['downloaded'];
            IF a.state IN ('offered', 'downloading') THEN
                states := ARRAY['downloading'];
            ELSE
                applied := false;
            END IF;
        ELSIF r.kind IN ('poll', 'ping', 'reboot_awaited') THEN
            IF a.state IN ('staged', 'awaiting_reboot') AND NOT rebooted THEN
                IF a.awaited_at IS NULL OR r.at >= a.awaited_at + p_awaited_every THEN
                    moves := ARRAY['reboot_awaited'];
                    states := ARRAY['awaiting_reboot'];
                END IF;
            END IF;
        END IF;

        FOR i IN 1 .. cardinality(moves) LOOP
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, CASE WHEN i = cardinality(moves) THEN r.event_id
                                                      ELSE md5(r.event_id || '|' || i)::uuid END);
            event_types := array_append(event_types, 'update.' || moves[i] || '.v1');
            event_datas := array_append(event_datas, jsonb_strip_nulls(jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'attempt_id', a.attempt_id, 'rollout_id', a.rollout_id, 'changeset_id', a.changeset_id,
                'group_id', coalesce(a.group_id, r.group_id), 'arch', coalesce(a.arch, r.arch),
                'from_version', a.from_version, 'to_version', a.to_version, 'version', r.version, 'boot_id', r.boot_id,
                'state_before', CASE WHEN i = 1 THEN a.state ELSE states[i - 1] END,
                'state_after', CASE WHEN cardinality(states) > 0 THEN states[i] ELSE a.state END,
                'applied', applied, 'reason', move_reason, 'error_code', r.error_code, 'error_base', r.error_base,
                'error_class', r.error_class, 'source', r.source, 'facts', r.facts,
                'site', coalesce(r.facts ->> 'site', n.facts ->> 'site'))));
        END LOOP;
        IF quarantine THEN
            quarantined := true;
            quarantine_ords := array_append(quarantine_ords, r.ord);
            quarantine_attempt_ids := array_append(quarantine_attempt_ids, a.attempt_id);
            quarantine_reasons := array_append(quarantine_reasons, move_reason);
            event_ords := array_append(event_ords, r.ord);
            event_sources := array_append(event_sources, r.source);
            event_traceparents := array_append(event_traceparents, r.traceparent);
            event_ids := array_append(event_ids, md5(r.event_id || '|quarantine')::uuid);
            event_types := array_append(event_types, 'node.quarantined.v1');
            event_datas := array_append(event_datas, jsonb_build_object(
                'node_id', r.node_id, 'machine_id', r.machine_id, 'application_id', r.application_id,
                'changeset_id', a.changeset_id, 'attempt_id', a.attempt_id, 'reason', move_reason, 'lifted', false));
        END IF;
        IF cardinality(states) > 0 THEN
            state := states[cardinality(states)];
            a.awaited_at := CASE WHEN moves[1] = 'reboot_awaited' THEN r.at ELSE a.awaited_at END;
            a.parked := a.parked AND states[cardinality(states)] = 'awaiting_reboot';
            a.reason := coalesce(move_reason, a.reason);
            a.error_code := coalesce(r.error_code, a.error_code);
            a.changed_at := r.at;
            a.closed_at := CASE WHEN states[cardinality(states)] IN ('committed', 'rolled_back', 'failed')
                                THEN now_at ELSE a.closed_at END;
            a.state := states[cardinality(states)];
            attempt_moved := true;
        END IF;
        IF in_order AND (boot_is_new OR r.version <> n.version OR coalesce(r.facts, n.facts) <> n.facts
                         OR coalesce(r.address, n.address) IS DISTINCT FROM n.address) THEN
            IF boot_is_new THEN
                n.boot_seen_at := r.at;
                n.former_boot_ids := (n.boot_id || n.former_boot_ids)[1:4];
                n.boot_id := r.boot_id;
            END IF;
            n.version := r.version;
            n.facts := coalesce(r.facts, n.facts);
            n.arch := coalesce(r.arch, n.arch);
            n.address := coalesce(r.address, n.address);
            node_moved := true;
        END IF;
        status := CASE WHEN applied THEN 'recorded' ELSE 'ignored' END;
        RETURN NEXT;
    END LOOP;
    IF node_moved THEN
        nodes_after := array_append(nodes_after, n);
    END IF;
    IF attempt_moved THEN
        attempts_after := array_append(attempts_after, a);
    END IF;

    UPDATE fleet.attempts t
       SET state = x.state, changed_at = x.changed_at, awaited_at = x.awaited_at, parked = x.parked, reason = x.reason,
           error_code = x.error_code, closed_at = x.closed_at
      FROM unnest(attempts_after) AS x
     WHERE t.attempt_id = x.attempt_id;
    UPDATE fleet.nodes t
       SET boot_id = x.boot_id, boot_seen_at = x.boot_seen_at, former_boot_ids = x.former_boot_ids, version = x.version,
           facts = x.facts, arch = x.arch, address = x.address, cloned = x.cloned
      FROM unnest(nodes_after) AS x
     WHERE t.node_id = x.node_id;
    INSERT INTO fleet.quarantine (node_id, changeset_id, attempt_id, reason)
    SELECT t.node_id, t.changeset_id, t.attempt_id, q.reason
      FROM unnest(quarantine_ords, quarantine_attempt_ids, quarantine_reasons) AS q(ord, attempt_id, reason)
      JOIN fleet.attempts t ON t.attempt_id = q.attempt_id
     ORDER BY t.node_id, q.ord
    ON CONFLICT DO NOTHING;
    INSERT INTO event_log.inbox (event_id, type, source, subject, partition_key, occurred_at, data, correlation_id, traceparent)
    SELECT e.event_id, e.type, e.source, 'nodes/' || p_node_ids[e.ord], p_node_ids[e.ord]::text, p_times[e.ord], e.data,
           e.data ->> 'attempt_id', e.traceparent
      FROM unnest(event_ords, event_ids, event_types, event_sources, event_datas, event_traceparents) WITH ORDINALITY
           AS e(ord, event_id, type, source, data, traceparent, place)
     ORDER BY e.ord, e.place;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.returned_v1()
 RETURNS bigint
 LANGUAGE plpgsql
AS $function$
DECLARE
    back bigint;
BEGIN
    WITH locked AS MATERIALIZED (
        SELECT n.node_id FROM fleet.nodes n WHERE n.gone_at < n.last_contact_at ORDER BY n.node_id FOR NO KEY UPDATE
    )
    UPDATE fleet.nodes n SET gone_at = NULL FROM locked WHERE n.node_id = locked.node_id;
    GET DIAGNOSTICS back = ROW_COUNT;
    RETURN back;
END
$function$;

CREATE OR REPLACE FUNCTION fleet.stuck_v1(n fleet.nodes, t fleet.attempts, p_silent_since timestamp with time zone, p_granted_before timestamp with time zone, p_stranded text[])
 RETURNS text[]
 LANGUAGE sql
 STABLE
AS $function$
    SELECT array_remove(ARRAY[
        CASE WHEN t.closed_at IS NULL AND t.state IN ('staged', 'awaiting_reboot') AND t.granted_at < p_granted_before
             THEN 'staged' END,
        CASE WHEN n.last_contact_at < p_silent_since AND n.gone_at IS NULL THEN 'silent' END,
        CASE WHEN n.last_answer = ANY (p_stranded)
               OR EXISTS (SELECT 1 FROM fleet.quarantine q
                            JOIN control.rollouts o ON o.changeset_id = q.changeset_id AND o.group_id = n.group_id
                           WHERE q.node_id = n.node_id AND o.purpose IN ('update', 'floor') AND o.arch = n.arch
                             AND o.state NOT IN ('completed', 'aborted', 'superseded'))
             THEN 'stranded' END,
        CASE WHEN t.closed_at IS NULL AND t.parked THEN 'parked' END], NULL)
$function$;

CREATE OR REPLACE FUNCTION fleet.version_key_v1(p_version text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
AS $function$
    SELECT coalesce(string_agg(lpad(part.number, 10, '0'), '.' ORDER BY part.place), '') || ' ' || p_version
      FROM regexp_split_to_table(p_version, '[^0-9]+') WITH ORDINALITY AS part(number, place)
$function$;

CREATE OR REPLACE FUNCTION fleet.watch_polls_v1(p_seconds double precision)
 RETURNS void
 LANGUAGE sql
AS $function$
    UPDATE fleet.poll_watch SET until = greatest(until, clock_timestamp() + make_interval(secs => p_seconds))
$function$;

CREATE VIEW fleet.staged_but_halted AS
 SELECT t.attempt_id,
    t.node_id,
    n.machine_id,
    n.dialect,
    t.application_id,
    t.group_id,
    t.rollout_id,
    t.changeset_id,
    t.to_version AS version,
    t.parked,
    t.changed_at,
        CASE
            WHEN (g.state <> 'open'::text) THEN g.state
            WHEN (NOT everything.open) THEN 'halted_everywhere'::text
            WHEN (x.node_id IS NOT NULL) THEN 'excluded'::text
            ELSE 'held'::text
        END AS stopped_by
   FROM ((((fleet.attempts t
     JOIN control.changeset_gates g USING (changeset_id))
     JOIN fleet.nodes n USING (node_id))
     CROSS JOIN control.global_gate everything)
     LEFT JOIN control.rollout_exclusions x ON (((x.rollout_id = t.rollout_id) AND (x.node_id = t.node_id))))
  WHERE ((t.closed_at IS NULL) AND (t.state = ANY (ARRAY['staged'::text, 'awaiting_reboot'::text])) AND ((g.state <> 'open'::text) OR (NOT everything.open) OR (x.node_id IS NOT NULL) OR control.is_held_v1(t.changeset_id, fleet.facts_v1(n.facts, n.imported_facts, n.alias, n.arch, t.from_version))));
