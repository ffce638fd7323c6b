//! Requests in process, on one thread.

use std::time::Instant;

use actix_http::Request;
use actix_web::rt;

use crate::{
    common::Send,
    scenario::{BATCH, Kind, Scenario},
    table::{
        ROUNDS, Table,
        Target::{self, AtMost},
        median, micros,
    },
};

const BATCHES: usize = 100;
/// What the store keeps.
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
    // The same work, in memory that no cache holds.
    row(table, "first run, 100 k records", Kind::FirstRun, 100 * RECORDS, &Target::None);
}

fn row(table: &Table, name: &str, kind: Kind, records: usize, target: &Target) {
    // A thread of its own: instances count what was made on their thread.
    let measured = std::thread::spawn(move || rt::System::new().block_on(measure(kind, records)));
    let [bare, with, adds] = measured.join().expect("a bench does not panic");
    table.row(name, [&micros(bare), &micros(with)], adds / 1e3, "µs", target);
}

/// Nanoseconds a request through bare, through the middleware, and the difference.
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
        // The first round only warms up. The median of batches leaves out those that the system interrupted.
        if round > 0 {
            rounds.iter_mut().zip(batches).for_each(|(round, batches)| round.push(median(batches)));
        }
    }
    rounds.map(median)
}

/// Nanoseconds a request.
async fn time(send: &Send, requests: Vec<Request>, expected: u16) -> f64 {
    let start = Instant::now();
    for request in requests {
        assert_eq!(send(request).await, expected, "a wrong answer has another cost");
    }
    start.elapsed().as_nanos() as f64 / BATCH as f64
}
