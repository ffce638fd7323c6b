//! Tests with real databases: PostgreSQL and PgBouncer, started on free ports and ended with the test, and SQLite.

#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "tests may"
)]

#[allow(dead_code, reason = "the tests of the core crate use more of it")]
mod common;
#[allow(dead_code, reason = "benchmarks and chaos use more of it")]
mod databases;
mod keeping;
mod postgres;
mod processes;
mod sealed;
mod sqlite;
