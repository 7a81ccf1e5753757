-- The event log: what services append (inbox), the one ordered record (ledger), and what follows it.
--
-- Writers insert into the inbox inside the transaction that makes the event true. One mover, elected by an advisory
-- lock, takes committed rows from the inbox, gives them a dense seq, chains their hashes and writes the ledger.
-- Nothing may follow inbox.position: identity values become visible out of order.

CREATE SCHEMA event_log;

CREATE TABLE event_log.inbox (
  position        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id        uuid NOT NULL,
  type            text NOT NULL,
  source          text NOT NULL,
  subject         text NOT NULL,
  partition_key   text NOT NULL,
  occurred_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  data            jsonb NOT NULL,
  correlation_id  text NULL,
  causation_id    text NULL,
  traceparent     text NULL,
  -- Start of the appending transaction: its age is the ingest lag that log.ticked reports.
  appended_at     timestamptz NOT NULL DEFAULT now()
);

-- The inbox is a queue: its dead rows must go at a steady rate, whatever its size.
ALTER TABLE event_log.inbox SET (
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 5000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 50000
);

COMMENT ON TABLE event_log.inbox IS 'Events appended and not yet in the ledger; rows leave when the mover takes them';

CREATE TABLE event_log.seen (
  event_id uuid PRIMARY KEY,
  seen_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX seen_by_time ON event_log.seen USING brin (seen_at);

COMMENT ON TABLE event_log.seen IS 'Ids of events ever appended; what is sent twice counts once';

-- Appends events in array order, leaving out those whose id was appended before (or comes twice in the arrays).
-- Returns how many were new. All arrays have one length.
CREATE FUNCTION event_log.append_v1(
  event_ids uuid[], types text[], sources text[], subjects text[], partition_keys text[], occurred_ats timestamptz[],
  datas jsonb[], correlation_ids text[], causation_ids text[], traceparents text[]
) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;

-- The end of the ledger. Every batch of the mover compares and sets this row, so that two movers can never both write.
CREATE TABLE event_log.head (
  singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  seq         bigint NOT NULL CHECK (seq >= 0),
  hash        bytea NOT NULL CHECK (octet_length(hash) = 32),
  recorded_at timestamptz NOT NULL
);

INSERT INTO event_log.head (seq, hash, recorded_at)
VALUES (0, decode(repeat('00', 32), 'hex'), '2000-01-01T00:00:00Z');

-- hash = sha256(previous hash || seq as 8 bytes big-endian || recorded_at as microseconds since 1970, 8 bytes
-- big-endian || event), where event is the canonical CloudEvent; the hash before the first is 32 zero bytes.
CREATE TABLE event_log.ledger (
  seq            bigint NOT NULL,
  event_id       uuid NOT NULL,
  type           text NOT NULL,
  subject        text NOT NULL,
  partition_key  text NOT NULL,
  correlation_id text NULL,
  recorded_at    timestamptz NOT NULL,
  occurred_at    timestamptz NOT NULL,
  hash           bytea NOT NULL,
  event          bytea NOT NULL,
  PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);

CREATE INDEX ledger_by_partition_key ON event_log.ledger (partition_key, seq);
CREATE INDEX ledger_by_correlation ON event_log.ledger (correlation_id, seq) WHERE correlation_id IS NOT NULL;
CREATE INDEX ledger_by_time ON event_log.ledger USING brin (recorded_at);

CREATE FUNCTION event_log.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'event_log.ledger is append-only: % is refused', TG_OP USING ERRCODE = 'object_not_in_prerequisite_state';
END;
$$;

CREATE TRIGGER ledger_is_append_only BEFORE UPDATE OR DELETE ON event_log.ledger
  FOR EACH ROW EXECUTE FUNCTION event_log.refuse_change();
CREATE TRIGGER ledger_is_not_truncated BEFORE TRUNCATE ON event_log.ledger
  FOR EACH STATEMENT EXECUTE FUNCTION event_log.refuse_change();

-- Makes the partitions of 1,000,000 seqs that hold the head and the `ahead` blocks after it. Returns how many it made.
-- Built beside and attached, which blocks neither the mover nor readers.
CREATE FUNCTION event_log.ensure_partitions_v1(ahead integer) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;

SELECT event_log.ensure_partitions_v1(2);

-- Where each follower of the ledger stands. A follower moves its row in the transaction that holds its effects.
CREATE TABLE event_log.followers (
  name     text PRIMARY KEY,
  seq      bigint NOT NULL CHECK (seq >= 0),
  moved_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- The last tick: when it was, and the contact counters at that time, whose differences the next tick carries.
CREATE TABLE event_log.last_tick (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  ticked_at timestamptz NULL,
  contacts  jsonb NOT NULL DEFAULT '{}'
);

INSERT INTO event_log.last_tick (ticked_at) VALUES (NULL);

-- Inbox rows that cannot become ledger entries, as they were, with the reason.
CREATE TABLE event_log.set_aside (
  position       bigint PRIMARY KEY,
  event_id       uuid NOT NULL,
  type           text NOT NULL,
  source         text NOT NULL,
  subject        text NOT NULL,
  partition_key  text NOT NULL,
  occurred_at    timestamptz NOT NULL,
  data           jsonb NOT NULL,
  correlation_id text NULL,
  causation_id   text NULL,
  traceparent    text NULL,
  error          text NOT NULL,
  set_aside_at   timestamptz NOT NULL DEFAULT now()
);

-- Messages that a work queue gave up on. Copied at least once, kept once per queue and event.
CREATE TABLE event_log.dead_letters (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  queue       text NOT NULL,
  event_id    text NOT NULL,
  type        text NOT NULL,
  reason      text NOT NULL,
  deliveries  integer NOT NULL,
  body        bytea NOT NULL,
  headers     jsonb NOT NULL DEFAULT '{}',
  dead_at     timestamptz NOT NULL DEFAULT now(),
  replayed_at timestamptz NULL,
  UNIQUE (queue, event_id)
);

CREATE INDEX dead_letters_waiting ON event_log.dead_letters (queue, id) WHERE replayed_at IS NULL;
