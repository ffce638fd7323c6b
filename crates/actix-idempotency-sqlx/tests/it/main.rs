//! Tests with real databases: PostgreSQL and PgBouncer, started on free ports and ended with the test, and SQLite.

#![allow(clippy::unwrap_used, clippy::unchecked_time_subtraction, reason = "tests may")]

#[allow(dead_code, reason = "the tests of the core crate use more of it")]
mod common;
mod databases;
mod postgres;
mod processes;
mod sqlite;
