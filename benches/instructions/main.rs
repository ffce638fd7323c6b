//! Runs one scenario under valgrind's callgrind, which counts the instructions inside the functions `measured_*`.
//! `cargo xtask bench --instructions` starts it. Arguments: `bare` or `with`, then the name of the scenario.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/scenario.rs"]
mod scenario;

use std::hint::black_box;

use actix_http::Request;
use actix_idempotency::{
    record::Record,
    store::{BeginRequest, MemoryLimits, MemoryStore, Store as _},
};
use actix_web::rt::{self, SystemRunner};
use common::{Send, ask, complete, record};
use futures_util::FutureExt as _;
use scenario::{BATCH, Kind, Scenario};

/// The number of measured operations, in batches of [`BATCH`]. `xtask/src/instructions.rs` divides by the same number.
const OPERATIONS: usize = 2000;
const BATCHES: usize = OPERATIONS / BATCH;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [side, name] = &arguments[..] else { panic!("arguments: bare or with, and a scenario") };
    match name.as_str() {
        "store: begin of a completed record" => begins(),
        "store: begin + complete" => pairs(),
        _ => service(side == "bare", name),
    }
}

fn service(bare: bool, name: &str) {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).expect("the name of a scenario");
    let system = rt::System::new();
    let scenario = system.block_on(Scenario::new(kind, 1_000));
    let (send, expected) = if bare { (&scenario.bare, 201) } else { (&scenario.with, scenario.expected()) };
    // Warms up, so that work that is done only once is not measured.
    for request in (0..5).flat_map(|_| scenario.batch()) {
        system.block_on(send(request));
    }
    for _ in 0..BATCHES {
        measured_requests(&system, send, expected, scenario.batch());
    }
}

#[inline(never)]
fn measured_requests(system: &SystemRunner, send: &Send, expected: u16, requests: Vec<Request>) {
    system.block_on(async {
        for request in requests {
            assert_eq!(send(request).await, expected, "only the expected answer has the measured cost");
        }
    });
}

fn stored(records: u64) -> (MemoryStore, Record) {
    let store = MemoryStore::new(MemoryLimits::default());
    let record = record();
    (0..records).for_each(|n| complete(&store, n, &record));
    (store, record)
}

/// Measures `begin` for the keys of completed records.
fn begins() {
    let (store, _) = stored(1000);
    let requests: Vec<BeginRequest> = (0..OPERATIONS as u64).map(|n| ask(n * 7919 % 1000)).collect();
    measured_begins(&store, &requests);
}

#[inline(never)]
fn measured_begins(store: &MemoryStore, requests: &[BeginRequest]) {
    for request in requests {
        black_box(store.begin(request).now_or_never());
    }
}

/// Measures `begin` and `complete` for new keys.
fn pairs() {
    let (store, record) = stored(1000);
    measured_pairs(&store, &record);
}

#[inline(never)]
fn measured_pairs(store: &MemoryStore, record: &Record) {
    (0..OPERATIONS as u64).for_each(|n| complete(store, 1000 + n, record));
}
