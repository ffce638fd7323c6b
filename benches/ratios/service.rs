//! Requests to Apps in this process, on one thread.

use std::{
    sync::{Arc, Barrier},
    time::Instant,
};

use actix_http::Request;
use actix_web::rt;

use crate::{
    common::{Send, idempotency},
    scenario::{BATCH, Kind, Scenario},
    table::{
        ROUNDS, Table,
        Target::{self, AtMost},
        median, micros,
    },
};

const BATCHES: usize = 100;
/// The number of records that the store keeps.
const RECORDS: usize = 1_000;

pub(crate) fn service(table: &Table) {
    for kind in Kind::ALL {
        let most = match kind {
            Kind::Safe | Kind::AppExempt => 0.15,
            Kind::Replay => 1.0,
            Kind::FirstRun | Kind::NestedReplay => 2.0,
            Kind::NestedExempt => 0.6,
            Kind::NestedFirstRun => 2.5,
        };
        row(table, kind.name(), kind, RECORDS, &AtMost(most));
    }
    // The same work with records that no processor cache holds.
    row(table, "first run, 100 k records", Kind::FirstRun, 100 * RECORDS, &Target::None);
    workers(table, "first runs: two workers / one", Kind::FirstRun);
    workers(table, "replays of one key: two workers / one", Kind::Replay);
}

/// Compares two workers with one. Workers wait for each other where they share data. The row has no target, because two
/// cores say little about many.
fn workers(table: &Table, name: &str, kind: Kind) {
    let rates: Vec<[f64; 2]> = (0..ROUNDS).map(|_| [1, 2].map(|workers| rate(kind, workers))).collect();
    let ratio = median(rates.iter().map(|[one, two]| two / one).collect());
    let sides = [0, 1].map(|which| format!("{:.0} k/s", median(rates.iter().map(|rate| rate[which] / 1e3).collect())));
    table.row(name, [&sides[0], &sides[1]], ratio, "x", &Target::None);
}

/// Requests per second through the middleware.
fn rate(kind: Kind, workers: usize) -> f64 {
    // The default number of records, because a small store has only one lock.
    let (idempotency, start) = (idempotency(1000 * RECORDS), Arc::new(Barrier::new(workers)));
    let workers = (0..).take(workers).map(|worker| {
        let (idempotency, start) = (idempotency.clone(), start.clone());
        std::thread::spawn(move || {
            rt::System::new().block_on(async {
                let scenario = Scenario::of_worker(kind, idempotency, worker).await;
                let mut times = Vec::new();
                start.wait();
                for _ in 0..5 * BATCHES {
                    times.push(time(&scenario.with, scenario.batch(), scenario.expected()).await);
                }
                1e9 / median(times)
            })
        })
    });
    let workers: Vec<_> = workers.collect();
    workers.into_iter().map(|worker| worker.join().expect("a bench does not panic")).sum()
}

fn row(table: &Table, name: &str, kind: Kind, records: usize, target: &Target) {
    // A new thread, because an instance looks at which other instances were made on its thread.
    let measured = std::thread::spawn(move || rt::System::new().block_on(measure(kind, records)));
    let [bare, with, adds] = measured.join().expect("a bench does not panic");
    table.row(name, [&micros(bare), &micros(with)], adds / 1e3, "µs", target);
}

/// The nanoseconds per request of bare actix, those with the middleware, and the difference.
async fn measure(kind: Kind, records: usize) -> [f64; 3] {
    let scenario = Scenario::new(kind, records).await;
    let mut rounds = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        let mut batches = [const { Vec::new() }; 3];
        for _ in 0..BATCHES {
            let bare = time(&scenario.bare, scenario.batch(), 201).await;
            let with = time(&scenario.with, scenario.batch(), scenario.expected()).await;
            batches.iter_mut().zip([bare, with, with - bare]).for_each(|(times, time)| times.push(time));
        }
        // The first round only warms up. The median leaves out batches that the system interrupted.
        if round > 0 {
            rounds.iter_mut().zip(batches).for_each(|(round, batches)| round.push(median(batches)));
        }
    }
    rounds.map(median)
}

/// Nanoseconds per request.
async fn time(send: &Send, requests: Vec<Request>, expected: u16) -> f64 {
    let start = Instant::now();
    for request in requests {
        assert_eq!(send(request).await, expected, "only the expected answer has the measured cost");
    }
    start.elapsed().as_nanos() as f64 / BATCH as f64
}
