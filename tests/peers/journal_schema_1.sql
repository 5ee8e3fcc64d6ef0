-- The journal of version 1, as releases before the askings made it.

CREATE TABLE announcements (
    number     INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    api_id     TEXT,
    study      TEXT NOT NULL,
    filename   TEXT NOT NULL,
    size       INTEGER,
    metadata   TEXT NOT NULL,    -- sorted JSON, without dropoff_id: what matching compares
    tus_id     TEXT,
    created_at REAL NOT NULL
) STRICT;

CREATE INDEX announcements_match ON announcements (study, filename, size);
CREATE INDEX announcements_tus_id ON announcements (tus_id) WHERE tus_id IS NOT NULL;
CREATE INDEX announcements_age ON announcements (created_at);

CREATE TABLE uploads (
    number       INTEGER PRIMARY KEY,    -- order of arrival
    id           TEXT NOT NULL UNIQUE,
    api_id       TEXT,
    announced    INTEGER NOT NULL,
    directory    TEXT NOT NULL,
    tus_id       TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    server       TEXT NOT NULL,
    path         TEXT NOT NULL,
    info_path    TEXT NOT NULL,
    study        TEXT,
    filename     TEXT NOT NULL,
    size         INTEGER,
    received     INTEGER NOT NULL,
    metadata     TEXT NOT NULL,
    partials     TEXT NOT NULL,
    identity     TEXT NOT NULL,
    state        TEXT NOT NULL,
    digest       TEXT,
    restarts     INTEGER NOT NULL DEFAULT 0,
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_at      REAL NOT NULL DEFAULT 0,
    error        TEXT,
    created_at   REAL NOT NULL,
    received_at  REAL,
    stored_at    REAL,
    done_at      REAL,
    format       TEXT,                   -- of the envelope; NULL: none is fixed
    header       BLOB,
    fingerprints TEXT,
    secret       BLOB,                   -- the session key, wrapped by journal.key
    receipt      TEXT,
    trail        TEXT,                   -- what parts that went out early were read from
    receiving_at REAL,                   -- when a receiving report was last queued
    report_at    REAL,                   -- when the first pending report is due; NULL: none can go
    UNIQUE (directory, tus_id, generation)
) STRICT;

CREATE INDEX uploads_state ON uploads (state, number);
CREATE INDEX uploads_study ON uploads (study, number);
CREATE INDEX uploads_tus_id ON uploads (tus_id);
CREATE INDEX uploads_api_id ON uploads (api_id) WHERE api_id IS NOT NULL;
CREATE INDEX uploads_report_at ON uploads (report_at) WHERE report_at IS NOT NULL;
CREATE INDEX uploads_partials ON uploads (directory, state) WHERE partials <> '[]';

CREATE INDEX uploads_secret ON uploads (number) WHERE secret IS NOT NULL;

CREATE TABLE deliveries (
    upload      TEXT NOT NULL REFERENCES uploads (id),
    position    INTEGER NOT NULL,
    destination TEXT NOT NULL,           -- without what is secret in it
    secret      BLOB,                    -- that, wrapped by journal.key
    name        TEXT NOT NULL,
    size        INTEGER NOT NULL,
    part_size   INTEGER NOT NULL,
    reference   TEXT NOT NULL DEFAULT '',
    state       TEXT NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    started_at  REAL,
    next_at     REAL NOT NULL DEFAULT 0,
    error       TEXT,
    stored      TEXT,
    stored_at   REAL,
    PRIMARY KEY (upload, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_unfinished ON deliveries (upload, position) WHERE reference <> '';

CREATE INDEX deliveries_secret ON deliveries (upload, position) WHERE secret IS NOT NULL;

CREATE TABLE parts (
    upload    TEXT NOT NULL,
    position  INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    etag      TEXT NOT NULL,
    crc64nvme BLOB NOT NULL,             -- 8 bytes, big-endian: SQL knows no unsigned 64 bits
    plaintext TEXT NOT NULL,             -- BLAKE3, hex, of one that went out early; else empty
    PRIMARY KEY (upload, position, number),
    FOREIGN KEY (upload, position) REFERENCES deliveries (upload, position) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    number     INTEGER PRIMARY KEY,
    upload     TEXT NOT NULL REFERENCES uploads (id),
    position   INTEGER NOT NULL,
    started_at REAL NOT NULL,
    seconds    REAL NOT NULL,
    sent       INTEGER NOT NULL,
    error      TEXT
) STRICT;

CREATE INDEX attempts_upload ON attempts (upload, position, number);

CREATE TABLE reports (
    number          INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    upload          TEXT NOT NULL REFERENCES uploads (id),
    sequence        INTEGER NOT NULL,
    state           TEXT NOT NULL,
    body            TEXT NOT NULL,
    status          TEXT NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_at         REAL NOT NULL,
    error           TEXT,
    created_at      REAL NOT NULL,
    acknowledged_at REAL,
    UNIQUE (upload, sequence)
) STRICT;

CREATE INDEX reports_pending ON reports (upload, sequence) WHERE status = 'pending';
CREATE INDEX reports_parked ON reports (upload, sequence) WHERE status = 'parked';
