-- What the analysis believes, as it stood at its checkpoint: enough to go on after a restart without reading from the start.

CREATE SCHEMA analysis;

CREATE TABLE analysis.folds (
    name text PRIMARY KEY,
    state bytea NOT NULL
);

CREATE TABLE analysis.changesets (
    changeset_id uuid PRIMARY KEY,
    state bytea NOT NULL,
    -- Counts, evidence and paces as readers want them: what control shows. The rest of this schema is nobody else's.
    view jsonb NOT NULL
);

CREATE TABLE analysis.attempts (
    attempt_id uuid PRIMARY KEY,
    changeset_id uuid NOT NULL,
    state bytea NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX attempts_by_changeset ON analysis.attempts (changeset_id);

CREATE TABLE analysis.verdicts (
    -- The ledger's seq of the event that decided, and which of its verdicts this is.
    seq bigint NOT NULL,
    ordinal integer NOT NULL,
    changeset_id uuid,
    kind text NOT NULL,
    verdict bytea NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (seq, ordinal)
);
CREATE INDEX verdicts_by_changeset ON analysis.verdicts (changeset_id, seq);
