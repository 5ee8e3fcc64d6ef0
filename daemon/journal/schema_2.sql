-- From version 1 of the journal to version 2.

-- What the REST API is asked by pre-create, until its answer is kept or nothing can come of it.
CREATE TABLE askings (
    id         TEXT PRIMARY KEY,         -- the Idempotency-Key, and the announcement's id
    announcing TEXT NOT NULL,            -- what was asked, so that it can be repeated as it was
    tus_id     TEXT,
    created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
