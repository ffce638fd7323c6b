//! Rows and answers that are committed together: wraps with a ledger.

mod acceptance;
mod answers;
mod bodies;
mod closures;
mod common;
mod entries;
mod extractors;
mod keeping;
mod keyless;
mod leaving;
mod logs;
mod looking;
mod lost_commits;
mod lost_owners;
mod misuse;
mod operators;
mod rates;
mod replies;
mod superseded;
mod time_outs;
mod unrecorded;
mod waiting;
