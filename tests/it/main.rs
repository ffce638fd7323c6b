//! What the crate promises, seen from outside. Each module is about one promise; most drive the conformance server over
//! real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    clippy::unchecked_time_subtraction,
    reason = "tests may"
)]

#[cfg(feature = "testing")]
mod acceptance;
mod common;

mod concurrency;
mod connections;
mod contract;
mod examples;
#[cfg(feature = "testing")]
mod faults;
mod in_process;
mod keys;
mod memory;
mod misuse;
mod model;
mod observing;
mod operators;
mod own_parts;
mod pages;
mod policies;
mod protocol;
#[cfg(feature = "redis")]
mod redis;
mod replays;
mod settings;
mod shutdown;
mod streams;
mod wire;
