-- name: tables
-- All tables that keep rows, whole partitioned ones, with the columns that are stored and how to read them.
SELECT t.schema, t.name, t.columns,
       format('SELECT %s FROM %I.%I', (SELECT string_agg(format('%I', part), ', ') FROM unnest(t.columns) part), t.schema,
              t.name) AS select_text
  FROM (SELECT n.nspname::text AS schema, c.relname::text AS name,
               (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
           AND n.nspname NOT IN ('information_schema', 'migrations') AND n.nspname !~ '^pg_') t
 ORDER BY t.schema, t.name;

-- name: references
-- Which table refers to which.
SELECT cn.nspname || '.' || c.relname AS child, pn.nspname || '.' || p.relname AS parent
  FROM pg_constraint r
  JOIN pg_class c ON c.oid = r.conrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
  JOIN pg_class p ON p.oid = r.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
 WHERE r.contype = 'f' AND r.conparentid = 0;

-- name: sequences
-- Sequences that were used; they stand outside of snapshots, so that they are never behind the rows.
SELECT schemaname::text AS schema, sequencename::text AS name, last_value FROM pg_sequences
 WHERE last_value IS NOT NULL AND schemaname !~ '^pg_' ORDER BY 1, 2;

-- name: applied
SELECT number, to_char(number, 'FM0000') || '_' || phase || '_' || name || '.sql' AS filename, encode(sha256, 'hex') AS sha256
  FROM migrations.applied ORDER BY number;

-- name: has_migrations
SELECT to_regclass('migrations.applied') IS NOT NULL;

-- name: ledger_blocks
-- Numbers of the ledger's partitions.
SELECT substring(c.relname FROM '^ledger_([0-9]+)$')::bigint AS block
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'event_log.ledger'::regclass AND c.relname ~ '^ledger_[0-9]+$' ORDER BY 1;

-- name: head
SELECT seq, encode(hash, 'hex') AS hash FROM event_log.head;

-- name: payloads
-- Digests that changesets list.
SELECT DISTINCT sha256 FROM control.payloads ORDER BY 1;

-- name: anything_there
-- A table of somebody's, where there should be none.
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1 LIMIT 1;

-- name: delete_statement
-- How to take out the rows that migrations put into a table.
SELECT format('DELETE FROM %I.%I', $1::text, $2::text);

-- name: put_head
-- Where ensure_partitions_v1 begins; the backup's own row comes after.
UPDATE event_log.head SET seq = greatest(0, $1::bigint * 1000000 - 1);

-- name: ensure_partitions
SELECT event_log.ensure_partitions_v1($1::integer);

-- name: set_sequence
SELECT setval(format('%I.%I', $1::text, $2::text)::regclass, $3::bigint);

-- name: analyze
ANALYZE;
