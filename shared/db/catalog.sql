-- name: schemas
-- Our schemas: everything that is not Postgres's own.
SELECT n.nspname AS schema
  FROM pg_namespace n
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
 ORDER BY 1

-- name: tables
-- Tables with their storage options and, where they are partitioned, the key.
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.reloptions,
       CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key, obj_description(c.oid) AS comment
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 ORDER BY n.nspname, c.relname

-- name: columns
-- The columns of one table, in order.
SELECT quote_ident(a.attname) AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       a.attidentity::text AS identity, a.attgenerated::text AS generated, pg_get_expr(d.adbin, d.adrelid) AS expression
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: constraints
-- The constraints of one table, the primary key first; NOT NULL stands with the columns.
SELECT quote_ident(conname) AS name, pg_get_constraintdef(oid) AS definition
  FROM pg_constraint
 WHERE conrelid = $1 AND contype IN ('p', 'u', 'f', 'c', 'x')
 ORDER BY array_position('{p,u,f,c,x}', contype::text), conname

-- name: partitions
SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE i.inhparent = $1 AND c.relispartition
 ORDER BY n.nspname, c.relname

-- name: indexes
-- Indexes that no constraint made.
SELECT pg_get_indexdef(i.indexrelid) AS definition
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = $1
                                          AND k.contype IN ('p', 'u', 'x'))
 ORDER BY c.relname

-- name: triggers
SELECT pg_get_triggerdef(oid) AS definition FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname

-- name: functions
SELECT pg_get_functiondef(p.oid) AS definition
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = ANY ($1) AND p.prokind IN ('f', 'p')
 ORDER BY n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)

-- name: views
SELECT format('CREATE VIEW %I.%I AS', n.nspname, c.relname) AS head, pg_get_viewdef(c.oid) AS definition
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1) AND c.relkind = 'v'
 ORDER BY n.nspname, c.relname

-- name: others
-- What this dump has no words for: sequences of their own, materialized views, types. A migration that adds one must extend it.
SELECT n.nspname || '.' || c.relname AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1)
   AND (c.relkind IN ('m', 'f')
        OR (c.relkind = 'S' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('i', 'a'))))
UNION ALL
SELECT n.nspname || '.' || t.typname
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = ANY ($1) AND t.typtype IN ('e', 'd', 'r')
 ORDER BY 1

-- name: create_database
-- A database beside the one that we are connected to; the name is made here, so nothing of it comes from outside.
SELECT format('CREATE DATABASE %I', $1::text) AS statement

-- name: drop_database
SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', $1::text) AS statement
