-- +goose Up
-- Times are Unix microseconds. Ids are 32 hex digits. Rows that decide carry mac,
-- a MAC under a keyring-derived key over every deciding column (package guard).

CREATE TABLE store (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    store_id      TEXT    NOT NULL,
    epoch         BIGINT  NOT NULL,          -- a restored store gets the next epoch before it may serve
    mode          TEXT    NOT NULL CHECK (mode IN ('dev', 'production')),
    domain        TEXT    NOT NULL,          -- trust domains are <environment>.<domain>
    online_root   INTEGER NOT NULL,
    created_at    BIGINT  NOT NULL,
    mac           BYTEA   NOT NULL
);

-- The log. log_head has one row; a batch locks it last.
CREATE TABLE log_head (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    size        BIGINT  NOT NULL,            -- entries so far
    edge        BYTEA   NOT NULL,            -- right-edge hashes of the RFC 6962 tree of that size
    authz_epoch BIGINT  NOT NULL,            -- grows whenever access narrows
    batch       TEXT    NOT NULL             -- the batch that wrote this head
);
CREATE TABLE log_batch (
    id TEXT   PRIMARY KEY,                   -- resolves a COMMIT whose answer was lost
    at BIGINT NOT NULL
);
CREATE TABLE log_entry (
    idx  BIGINT PRIMARY KEY,
    data BYTEA  NOT NULL
);
CREATE TABLE log_tile (
    level INTEGER NOT NULL,
    idx   BIGINT  NOT NULL,
    data  BYTEA   NOT NULL,                  -- a full tile: 256 hashes of 32 bytes
    PRIMARY KEY (level, idx)
);
CREATE TABLE log_checkpoint (
    size BIGINT PRIMARY KEY,
    note BYTEA  NOT NULL,
    at   BIGINT NOT NULL
);
CREATE TABLE log_signer (
    name     TEXT   PRIMARY KEY,             -- signed-note key name
    vkey     TEXT   NOT NULL,
    ref      BYTEA  NOT NULL,                -- the device key
    added_at BIGINT NOT NULL
);

-- principal -> object: last retrieved, who reads this, blast radius.
CREATE TABLE access (
    principal TEXT   NOT NULL,
    object    TEXT   NOT NULL,
    version   BIGINT NOT NULL,
    host      TEXT   NOT NULL,
    first_at  BIGINT NOT NULL,
    last_at   BIGINT NOT NULL,
    count     BIGINT NOT NULL,
    PRIMARY KEY (principal, object, version, host)
);
CREATE INDEX access_by_object ON access (object, last_at);

-- Who acts, and what decides.
CREATE TABLE principal (
    id          TEXT   PRIMARY KEY,
    spiffe_id   TEXT   NOT NULL UNIQUE,
    person_id   TEXT   NOT NULL,             -- two certificates of one person are one person
    roles       TEXT   NOT NULL,             -- sorted, comma-separated
    created_by  TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,             -- 0: never
    disabled_at BIGINT NOT NULL,             -- 0: enabled
    mac         BYTEA  NOT NULL
);
CREATE TABLE policy (
    version    BIGINT PRIMARY KEY,           -- the highest is active
    text       TEXT   NOT NULL,
    digest     TEXT   NOT NULL,              -- SHA-256, equal to the one in its log entry
    created_by TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    entry      BIGINT NOT NULL,              -- its index in the log; -1 until known. Not in mac
    mac        BYTEA  NOT NULL
);
CREATE TABLE intent (
    id          TEXT   PRIMARY KEY,
    kind        TEXT   NOT NULL,
    object      TEXT   NOT NULL,
    data        BYTEA  NOT NULL,
    principal   TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    resolved_at BIGINT NOT NULL,             -- 0: outcome unknown, reconcile at start
    outcome     TEXT   NOT NULL
);
CREATE TABLE idempotency (
    principal  TEXT    NOT NULL,
    idem_key   TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    status     INTEGER NOT NULL,
    response   BYTEA   NOT NULL,
    expires_at BIGINT  NOT NULL,
    PRIMARY KEY (principal, idem_key)
);
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);
CREATE TABLE nonce (
    nonce      TEXT   PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

-- Keys.
CREATE TABLE device_key (
    purpose    TEXT   PRIMARY KEY,           -- 'root', 'checkpoint', 'ca-root', ...
    ref        BYTEA  NOT NULL,
    device     TEXT   NOT NULL,              -- which device, for keys that are node-local
    created_at BIGINT NOT NULL
);
CREATE TABLE keyring (
    environment TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    state       TEXT   NOT NULL CHECK (state IN ('active', 'retired')),
    created_at  BIGINT NOT NULL,
    mac         BYTEA  NOT NULL,
    PRIMARY KEY (environment, version)
);
CREATE TABLE keyring_slot (
    environment TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    slot        TEXT   NOT NULL,
    kind        TEXT   NOT NULL CHECK (kind IN ('device', 'recovery')),
    recipient   TEXT   NOT NULL,             -- root key id, or the HPKE recipient
    wrapped     BYTEA  NOT NULL,
    verified_at BIGINT NOT NULL,
    PRIMARY KEY (environment, version, slot)
);
CREATE TABLE kms_key (
    id              TEXT   PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE,
    environment     TEXT   NOT NULL,
    algorithm       TEXT   NOT NULL,
    tier            TEXT   NOT NULL,
    state           TEXT   NOT NULL,         -- 'enabled', 'disabled', 'pending-destruction', 'destroyed'
    current_version BIGINT NOT NULL,
    owner           TEXT   NOT NULL,
    classification  TEXT   NOT NULL,
    consumers       TEXT   NOT NULL,
    created_by      TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    disabled_at     BIGINT NOT NULL,
    mac             BYTEA  NOT NULL
);
CREATE INDEX kms_key_by_environment ON kms_key (environment, name);
CREATE TABLE kms_key_version (
    key_id          TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    state           TEXT   NOT NULL,         -- 'enabled', 'retired', 'destroyed'
    keyring_version BIGINT NOT NULL,         -- 0 for tier device
    sealed          BYTEA  NOT NULL,         -- material sealed by the keyring; empty for tier device
    ref             BYTEA  NOT NULL,         -- device reference; empty for tier wrapped
    public          BYTEA  NOT NULL,
    uses            BIGINT NOT NULL,         -- for suites whose nonces are counted
    created_at      BIGINT NOT NULL,
    mac             BYTEA  NOT NULL,
    PRIMARY KEY (key_id, version)
);

-- PKI.
CREATE TABLE issuer (
    id             TEXT    PRIMARY KEY,
    environment    TEXT    NOT NULL,         -- '' for a root
    parent         TEXT    NOT NULL,         -- '' for a root
    certificate    BYTEA   NOT NULL,         -- DER
    chain          BYTEA   NOT NULL,         -- PEM, leaf-first, without the root
    ref            BYTEA   NOT NULL,
    state          TEXT    NOT NULL,         -- 'active', 'prepared', 'tainted', 'revoked'
    mode           TEXT    NOT NULL,         -- 'direct', 'delegated'
    authenticates  INTEGER NOT NULL,         -- its certificates may identify principals
    owner          TEXT    NOT NULL,
    created_by     TEXT    NOT NULL,
    created_at     BIGINT  NOT NULL,
    expires_at     BIGINT  NOT NULL,
    disabled_at    BIGINT  NOT NULL,
    mac            BYTEA   NOT NULL
);
CREATE TABLE certificate (
    serial     TEXT   NOT NULL,              -- hex, no leading zeros
    issuer     TEXT   NOT NULL,
    profile    TEXT   NOT NULL,
    identity   TEXT   NOT NULL,              -- SPIFFE ID, '' if none
    names      TEXT   NOT NULL,              -- DNS and IP names, comma-separated
    spki       TEXT   NOT NULL,              -- SHA-256 of the public key, hex
    shard      INTEGER NOT NULL,             -- CRL shard, fixed at issuance
    issued_by  TEXT   NOT NULL,
    not_before BIGINT NOT NULL,
    not_after  BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);
CREATE INDEX certificate_by_expiry ON certificate (not_after);
CREATE INDEX certificate_by_serial ON certificate (serial);
CREATE INDEX certificate_by_identity ON certificate (identity, not_after);
CREATE TABLE revocation (
    issuer     TEXT    NOT NULL,
    serial     TEXT    NOT NULL,
    reason     INTEGER NOT NULL,             -- RFC 5280 5.3.1
    not_after  BIGINT  NOT NULL,
    revoked_at BIGINT  NOT NULL,
    revoked_by TEXT    NOT NULL,
    mac        BYTEA   NOT NULL,
    PRIMARY KEY (issuer, serial)
);
CREATE TABLE crl (
    issuer      TEXT   PRIMARY KEY,
    number      BIGINT NOT NULL,
    der         BYTEA  NOT NULL,
    this_update BIGINT NOT NULL,
    next_update BIGINT NOT NULL
);

INSERT INTO log_head (id, size, edge, authz_epoch, batch) VALUES (1, 0, '', 1, '');
