//! What the crate promises, seen from outside. Each module is about one promise; most drive the conformance server over
//! real sockets.

mod common;

mod concurrency;
mod examples;
mod keys;
mod memory;
mod ordering;
mod own_parts;
mod policies;
mod replays;
mod settings;
mod shutdown;
mod streams;
mod wire;
