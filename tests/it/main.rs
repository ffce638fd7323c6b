//! Integration tests. `tests/README.md` says which folder is about what, and which kind of test catches which mistake.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    clippy::unchecked_time_subtraction,
    reason = "tests may"
)]

mod browser;
mod claims;
mod common;
mod docs;
#[cfg(feature = "encryption")]
mod encryption;
mod examples;
mod http;
mod ledger;
mod operate;
mod policy;
mod settings;
mod steps;
mod store;
