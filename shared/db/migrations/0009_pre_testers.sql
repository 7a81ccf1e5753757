-- What releases need beside 0005: testers' keys, the stability of channels that are there already.

-- Keys of those who test releases: what they sign is shown as theirs. They sign no changesets.
CREATE TABLE control.attester_keys (
    key_id text PRIMARY KEY CHECK (length(key_id) BETWEEN 1 AND 64),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    trusted_at timestamptz NOT NULL DEFAULT now(),
    trusted_by text NOT NULL,
    distrusted_at timestamptz
);

-- New channels get their position by their name; so do old ones.
UPDATE control.channels SET position = CASE lower(name) WHEN 'alpha' THEN 0 WHEN 'beta' THEN 1 WHEN 'lts' THEN 3 ELSE 2 END;
CREATE INDEX channels_by_position ON control.channels (position, channel_id);
