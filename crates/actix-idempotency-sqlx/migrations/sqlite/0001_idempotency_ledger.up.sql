CREATE TABLE IF NOT EXISTS idempotency_ledger (
    id BLOB PRIMARY KEY NOT NULL,
    fingerprint BLOB NOT NULL,
    token BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    principal_tag BLOB NOT NULL,
    born INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    expires INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS idempotency_ledger_expires ON idempotency_ledger (expires);
