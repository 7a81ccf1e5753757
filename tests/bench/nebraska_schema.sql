-- The tables that one poll of Nebraska reads and writes, in the shape of its schema after migration 0023; the rest of it
-- plays no part in a poll. Written for this bench from the documented data model.
CREATE TABLE team (id uuid PRIMARY KEY, name varchar(100) UNIQUE, created_ts timestamptz DEFAULT now());
CREATE TABLE application (
    id uuid PRIMARY KEY, name varchar(50) NOT NULL, description text DEFAULT '', created_ts timestamptz DEFAULT now(),
    team_id uuid NOT NULL REFERENCES team, product_id varchar(155) UNIQUE, UNIQUE (team_id, name)
);
CREATE TABLE package (
    id uuid PRIMARY KEY, type integer NOT NULL, version varchar(255) NOT NULL, url varchar(256) NOT NULL,
    filename varchar(100), description text, size varchar(20), hash varchar(64), created_ts timestamptz DEFAULT now(),
    application_id uuid NOT NULL REFERENCES application, arch integer NOT NULL DEFAULT 0,
    UNIQUE (application_id, version, arch)
);
CREATE TABLE flatcar_action (
    id uuid PRIMARY KEY, event varchar(20) DEFAULT 'postinstall', chromeos_version varchar(20) DEFAULT '',
    sha256 varchar(64), needs_admin boolean DEFAULT false, is_delta boolean DEFAULT false,
    disable_payload_backoff boolean DEFAULT true, metadata_signature_rsa varchar(256) DEFAULT '',
    metadata_size varchar(100) DEFAULT '', deadline varchar(100) DEFAULT '', created_ts timestamptz DEFAULT now(),
    package_id uuid NOT NULL REFERENCES package ON DELETE CASCADE
);
CREATE TABLE package_file (
    id serial PRIMARY KEY, package_id uuid REFERENCES package ON DELETE CASCADE, name varchar(250), hash varchar(250),
    size varchar(100), created_ts timestamptz DEFAULT now(), hash256 varchar(64)
);
CREATE TABLE channel (
    id uuid PRIMARY KEY, name varchar(25) NOT NULL, color varchar(25), created_ts timestamptz DEFAULT now(),
    application_id uuid NOT NULL REFERENCES application, package_id uuid REFERENCES package, arch integer NOT NULL DEFAULT 0,
    UNIQUE (application_id, name, arch)
);
CREATE TABLE package_channel_blacklist (
    package_id uuid NOT NULL REFERENCES package, channel_id uuid NOT NULL REFERENCES channel,
    PRIMARY KEY (package_id, channel_id)
);
CREATE TABLE groups (
    id uuid PRIMARY KEY, name varchar(50) NOT NULL, description text DEFAULT '',
    policy_updates_enabled boolean DEFAULT true, policy_safe_mode boolean DEFAULT true,
    policy_office_hours boolean DEFAULT false, policy_timezone varchar(40), policy_period_interval varchar(20),
    policy_max_updates_per_period integer, policy_update_timeout varchar(20), created_ts timestamptz DEFAULT now(),
    application_id uuid NOT NULL REFERENCES application, channel_id uuid REFERENCES channel, track varchar(256),
    UNIQUE (application_id, name)
);
CREATE TABLE group_local (
    group_id uuid PRIMARY KEY REFERENCES groups, rollout_in_progress boolean DEFAULT false,
    policy_updates_enabled_override boolean, policy_safe_mode_override boolean, policy_office_hours_override boolean,
    policy_timezone_override varchar(40), policy_period_interval_override varchar(20),
    policy_max_updates_per_period_override integer, policy_update_timeout_override varchar(20),
    created_ts timestamptz DEFAULT now()
);
CREATE TABLE instance (
    id varchar(50) PRIMARY KEY, ip inet NOT NULL, created_ts timestamptz DEFAULT now(), alias varchar(256) DEFAULT '',
    oem varchar(256) DEFAULT '', aleph_version varchar(256) DEFAULT ''
);
CREATE TABLE instance_application (
    version varchar(255) NOT NULL, created_ts timestamptz DEFAULT now(), status integer,
    last_check_for_updates timestamptz DEFAULT now(), last_update_granted_ts timestamptz,
    last_update_version varchar(255), update_in_progress boolean NOT NULL DEFAULT false,
    instance_id varchar(50) NOT NULL REFERENCES instance, application_id uuid NOT NULL REFERENCES application,
    group_id uuid REFERENCES groups, PRIMARY KEY (instance_id, application_id)
);
CREATE INDEX instance_application_by_group ON instance_application (group_id);
CREATE INDEX instance_application_by_check ON instance_application (last_check_for_updates);

INSERT INTO team VALUES ('00000000-0000-0000-0000-0000000000a1', 'bench');
INSERT INTO application (id, name, team_id, product_id)
VALUES ('00000000-0000-0000-0000-0000000000a2', 'Flatcar', '00000000-0000-0000-0000-0000000000a1',
        'io.flatcar.bench');
INSERT INTO package (id, type, version, url, filename, size, hash, application_id, arch)
VALUES ('00000000-0000-0000-0000-0000000000a3', 1, '3033.2.1', 'https://update.example/amd64-usr/3033.2.1/',
        'flatcar_production_update.gz', '382137917', 'I6DGNAOrJRUxPbCuLw+AITfiVMo=',
        '00000000-0000-0000-0000-0000000000a2', 1);
INSERT INTO flatcar_action (id, sha256, package_id)
VALUES ('00000000-0000-0000-0000-0000000000a4', 'stLG3U/o4Ar8TMHFwT/RWB0iNkaWOO6QtLrq6+AHBbA=',
        '00000000-0000-0000-0000-0000000000a3');
INSERT INTO package_file (package_id, name, hash, size, hash256)
VALUES ('00000000-0000-0000-0000-0000000000a3', 'oem-azure.gz', 'wepxwEV9L2SS1l/ycEZSqWM3dDc=', '40897503',
        '3aed3129de50b959a97e4913ba485bd60e72d2bb6aa377d5ed404103f0680043');
INSERT INTO channel (id, name, color, application_id, package_id, arch)
VALUES ('00000000-0000-0000-0000-0000000000a5', 'stable', '#14b9d6', '00000000-0000-0000-0000-0000000000a2',
        '00000000-0000-0000-0000-0000000000a3', 1);
-- Safe mode off, and as many in progress as the policy allows: an outdated instance is on hold.
INSERT INTO groups (id, name, policy_safe_mode, policy_timezone, policy_period_interval, policy_max_updates_per_period,
                    policy_update_timeout, application_id, channel_id, track)
VALUES ('00000000-0000-0000-0000-0000000000a6', 'Stable', false, 'Europe/Berlin', '15 minutes', 10, '60 minutes',
        '00000000-0000-0000-0000-0000000000a2', '00000000-0000-0000-0000-0000000000a5', 'stable');
INSERT INTO group_local (group_id, rollout_in_progress) VALUES ('00000000-0000-0000-0000-0000000000a6', true);
