//! HTTP as clients see it: keys, responses, replays, streams and connections, down to the bytes.

mod accepted;
mod answers;
mod bounds;
mod comparisons;
mod connections;
mod contract;
mod first_status;
mod keeping;
mod key_in_body;
mod key_sources;
mod keys;
mod payloads;
mod rates;
mod real_clients;
mod replays;
mod streamed_bodies;
mod streamed_handlers;
mod streams;
mod uploads;
mod wire;
