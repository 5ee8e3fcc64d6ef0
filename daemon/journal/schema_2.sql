-- From version 1 of the journal to version 2.

-- What the REST API is asked by pre-create, until its answer is kept or nothing can come of it.
CREATE TABLE askings (
    id         TEXT PRIMARY KEY,         -- the Idempotency-Key, and the announcement's id
    announcing TEXT NOT NULL,            -- what was asked, so that it can be repeated as it was
    tus_id     TEXT,
    created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Some of version 1 have these already.
CREATE INDEX IF NOT EXISTS uploads_later ON uploads (next_at) WHERE next_at > 0;
CREATE INDEX IF NOT EXISTS deliveries_later ON deliveries (next_at) WHERE next_at > 0;
CREATE INDEX IF NOT EXISTS reports_next ON reports (next_at) WHERE status = 'pending';
