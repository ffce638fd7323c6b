//! Requests in process, on one thread.

use std::time::{Duration, Instant};

use actix_web::rt;

use crate::{
    common::Send,
    scenario::{BATCH, Kind, Scenario},
    table::{ROUNDS, Table, Target::AtMost, median, micros},
};

const BATCHES: usize = 40;

pub(crate) fn service(table: &Table) {
    for kind in Kind::ALL {
        let most = match kind {
            Kind::Safe | Kind::AppExempt => 0.15,
            Kind::Replay => 1.0,
            Kind::FirstRun | Kind::NestedReplay => 2.0,
            Kind::NestedExempt => 0.6,
            Kind::NestedFirstRun => 2.5,
        };
        // A thread of its own: instances count what was made on their thread.
        let measured = std::thread::spawn(move || rt::System::new().block_on(measure(kind)));
        let [bare, with, adds] = measured.join().expect("a bench does not panic");
        table.row(kind.name(), [&micros(bare), &micros(with)], adds / 1e3, "µs", &AtMost(most));
    }
}

/// Nanoseconds of bare, with, and the difference.
async fn measure(kind: Kind) -> [f64; 3] {
    let scenario = Scenario::new(kind).await;
    let (mut bares, mut withs) = (Vec::new(), Vec::new());
    let expected = scenario.expected();
    time(&scenario, &scenario.with, expected).await;
    for _ in 0..ROUNDS {
        bares.push(time(&scenario, &scenario.bare, 201).await);
        withs.push(time(&scenario, &scenario.with, expected).await);
    }
    let adds = median(bares.iter().zip(&withs).map(|(bare, with)| with - bare).collect());
    [median(bares), median(withs), adds]
}

/// Nanoseconds a request.
async fn time(scenario: &Scenario, send: &Send, expected: u16) -> f64 {
    let mut sum = Duration::ZERO;
    for _ in 0..BATCHES {
        let requests = scenario.batch();
        let start = Instant::now();
        for request in requests {
            assert_eq!(send(request).await, expected, "a wrong answer has another cost");
        }
        sum += start.elapsed();
    }
    sum.as_nanos() as f64 / (BATCH * BATCHES) as f64
}
