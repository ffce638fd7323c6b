//! HTTP as clients see it: keys, responses, replays, streams and connections, down to the bytes.

mod answers;
mod connections;
mod contract;
mod keys;
mod replays;
mod streams;
mod wire;
