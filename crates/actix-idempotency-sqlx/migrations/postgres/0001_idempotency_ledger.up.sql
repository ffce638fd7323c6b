CREATE TABLE IF NOT EXISTS idempotency_ledger (
    id bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    token bytea NOT NULL,
    attempt int NOT NULL,
    principal_tag bytea NOT NULL,
    born timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires timestamptz NOT NULL,
    record bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS idempotency_ledger_expires ON idempotency_ledger (expires);
