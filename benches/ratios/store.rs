//! The memory store without HTTP.

use std::{cell::Cell, hint::black_box, ops::Range, sync::Arc, time::Instant};

use actix_idempotency::{
    record::Record,
    store::{MemoryLimits, MemoryStore, Store as _},
};
use futures_util::FutureExt as _;

use crate::{
    common::{ask, complete, record},
    table::{
        ROUNDS, Table,
        Target::{self, AtLeast, AtMost},
        median,
    },
};

/// The number of calls that are timed together. The median leaves out chunks that the system interrupted.
const CHUNK: u64 = 100;

pub(crate) fn store(table: &Table) {
    let (large, bytes) = filled(1_000_000);
    let [mut begins, mut pairs] = [[vec![], vec![]], [vec![], vec![]]];
    let mut recent = vec![];
    for round in 0..ROUNDS as u64 {
        // A round doubles the number of records in this store, so each round makes a new one.
        let (small, _) = filled(1000);
        recent.push(recent_begin_time(&large, 1_000_000) / recent_begin_time(&small, 1000));
        for (which, (store, size)) in [(&small, 1000), (&large, 1_000_000)].into_iter().enumerate() {
            begins[which].push(begin_time(store, size));
            pairs[which].push(pair_time(store, size, round));
        }
    }
    for (name, times, most) in [("begin of a completed record", begins, 150.0), ("begin + complete", pairs, 600.0)] {
        let growth = median(times[0].iter().zip(&times[1]).map(|(small, large)| large / small).collect());
        let [small, large] = times.map(median);
        table.row(&format!("memory store: {name}"), ["", ""], small, "ns", &AtMost(most));
        let sides = [format!("{small:.0} ns"), format!("{large:.0} ns")];
        table.row("  at 1 M records / at 1 k", [&sides[0], &sides[1]], growth, "x", &AtMost(1.5));
    }
    // A look-up waits for several such reads when its record is in no processor cache.
    table.row("  one random read of as much memory", ["", ""], read_time(), "ns", &Target::None);
    // Retries come soon, so their records are still in a processor cache.
    table.row("begin of the last 1 k records: at 1 M / at 1 k", ["", ""], median(recent), "x", &Target::None);
    table.row("memory of a record of a 200 B response", ["", ""], bytes, "B", &AtMost(500.0));
    drop(large);
    let store = Arc::new(MemoryStore::new(unbounded()));
    let rates: Vec<[f64; 2]> = (0..ROUNDS as u64).map(|n| [pairs_of(&store, n, 1), pairs_of(&store, n, 2)]).collect();
    let ratio = median(rates.iter().map(|[one, two]| two / one).collect());
    let sides = [0, 1].map(|which| format!("{:.2} M/s", median(rates.iter().map(|rate| rate[which] / 1e6).collect())));
    table.row("distinct keys: two threads / one", [&sides[0], &sides[1]], ratio, "x", &AtLeast(1.7));
}

pub(crate) fn unbounded() -> MemoryLimits {
    MemoryLimits { max_entries: 40_000_000, max_bytes: 64 << 30, ..MemoryLimits::default() }
}

/// A store of `size` completed records, and the bytes of memory per record.
fn filled(size: u64) -> (MemoryStore, f64) {
    let store = MemoryStore::new(unbounded());
    let before = resident();
    fill(&store, 0..size);
    let bytes = (resident() - before) / size as f64;
    (store, bytes)
}

/// Completes a record for each key. Every record has its own copy of the bytes.
pub(crate) fn fill(store: &MemoryStore, keys: Range<u64>) {
    let record = record();
    for n in keys {
        complete(store, n, &Record::from_bytes(record.to_bytes()).expect("a record"));
    }
}

/// The nanoseconds of a random read in as much memory as a million records take. Each address depends on the value read
/// before, so the processor can't read ahead.
fn read_time() -> f64 {
    const PLACES: usize = 60_000_000;
    let memory: Vec<usize> = (0..PLACES).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)).collect();
    // The count is part of the address. Without it, the walk would soon repeat a small circle.
    let [place, count] = [0, 0].map(Cell::new);
    time(1_000_000, |_| {
        count.set(count.get() + 1);
        place.set((memory[place.get()] ^ count.get()) % PLACES);
    })
}

/// The nanoseconds of a `begin` in a store of `size` completed records.
pub(crate) fn begin_time(store: &MemoryStore, size: u64) -> f64 {
    time(50_000, |n| {
        black_box(store.begin(&ask(n.wrapping_mul(7919) % size)).now_or_never());
    })
}

/// As [`begin_time`], for the thousand records that were completed last.
fn recent_begin_time(store: &MemoryStore, size: u64) -> f64 {
    time(50_000, |n| {
        black_box(store.begin(&ask(size - 1 - n.wrapping_mul(7919) % 1000)).now_or_never());
    })
}

/// The nanoseconds of `begin` and `complete` for a new key in a store of `size` records.
pub(crate) fn pair_time(store: &MemoryStore, size: u64, round: u64) -> f64 {
    let record = record();
    // At most `size` calls, so that the store keeps about its size.
    time(size.min(50_000), |n| complete(store, (round + 1) << 40 | n, &record))
}

/// Nanoseconds per call.
fn time(calls: u64, call: impl Fn(u64)) -> f64 {
    let chunk = |n| {
        let start = Instant::now();
        (n * CHUNK..(n + 1) * CHUNK).for_each(&call);
        start.elapsed().as_nanos() as f64 / CHUNK as f64
    };
    median((0..calls / CHUNK).map(chunk).collect())
}

/// Pairs of `begin` and `complete` per second on `threads` threads.
fn pairs_of(store: &MemoryStore, round: u64, threads: u64) -> f64 {
    const PAIRS: u64 = 200_000;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            // Each thread has its own record: threads that share a reference count wait for each other.
            let record = record();
            let keys = round << 40 | threads << 36 | thread << 32;
            scope.spawn(move || (0..PAIRS).for_each(|n| complete(store, keys | n, &record)));
        }
    });
    (threads * PAIRS) as f64 / start.elapsed().as_secs_f64()
}

/// The resident memory of this process, in bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0) * 4096.0
}
