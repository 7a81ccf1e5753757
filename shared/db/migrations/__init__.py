"""The migrations: plain SQL, ``NNNN_{pre|post}_name.sql``, run in the order of their numbers."""
