//! Tests with real databases: PostgreSQL and PgBouncer, started on free ports and ended with the test, and SQLite.

#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction, reason = "tests may")]

mod common;
mod postgres;
