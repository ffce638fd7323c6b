//! Draws `benches/growth.svg`: how cost grows with the number of records, with connections and with the size of bodies.

use actix_idempotency::store::MemoryStore;

use crate::{
    bodies,
    plot::{self, Line, Panel},
    store::{begin_time, fill, pair_time, unbounded},
    table::{self, median},
    wire::{Keys, Server},
};

/// Each point of the plot is the median of this many rounds.
const ROUNDS: u64 = 3;

pub(crate) fn growth() {
    table::machine();
    let panels = [bodies_of_requests(), connections(), records()];
    for panel in &panels {
        println!("{}", panel.title);
        for Line { name, points } in &panel.lines {
            println!(
                "  {name:24} {}",
                points.iter().map(|(x, y)| format!("{x}: {y:.2}")).collect::<Vec<_>>().join(", ")
            );
        }
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/growth.svg");
    std::fs::write(file, plot::svg(&panels)).expect("written");
    println!("{file}");
}

/// The memory store with 1000 to 10 million records, which take about 5 GB.
fn records() -> Panel {
    let store = MemoryStore::new(unbounded());
    let (mut begins, mut pairs, mut before) = (Vec::new(), Vec::new(), 0);
    for (step, size) in (0..).zip([1000, 10_000, 100_000, 1_000_000, 10_000_000]) {
        fill(&store, before..size);
        before = size;
        let begin = (0..ROUNDS).map(|_| begin_time(&store, size)).collect();
        let pair = (0..ROUNDS).map(|round| pair_time(&store, size / 10, step * ROUNDS + round)).collect();
        begins.push((size as f64, median(begin)));
        pairs.push((size as f64, median(pair)));
    }
    let lines =
        vec![Line { name: "begin + complete", points: pairs }, Line { name: "begin, known key", points: begins }];
    Panel { title: "Memory store", x: "records", y: "nanoseconds", lines }
}

fn connections() -> Panel {
    let (mut bare, mut with) = (Vec::new(), Vec::new());
    for connections in [1, 10, 100, 1000] {
        // New servers for each point, so that no earlier load has filled their stores.
        let servers = [Server::start("bare"), Server::start("with")];
        let loads: Vec<[f64; 2]> = (0..ROUNDS)
            .map(|round| servers.each_ref().map(|server| server.load(Keys::Fresh(round), connections).rate))
            .collect();
        for (side, line) in [&mut bare, &mut with].into_iter().enumerate() {
            line.push((connections as f64, median(loads.iter().map(|load| load[side]).collect())));
        }
    }
    let lines = vec![Line { name: "bare actix", points: bare }, Line { name: "first runs", points: with }];
    Panel { title: "Throughput, one worker", x: "connections", y: "requests per second", lines }
}

fn bodies_of_requests() -> Panel {
    let (mut hashes, mut adds) = (Vec::new(), Vec::new());
    for size in [200, 2 << 10, 16 << 10, 128 << 10, 1 << 20] {
        let [hash, add] = bodies::measure(size);
        hashes.push((size as f64, hash / 1e3));
        adds.push((size as f64, add / 1e3));
    }
    let lines =
        vec![Line { name: "a first run adds", points: adds }, Line { name: "hashing the body", points: hashes }];
    Panel { title: "Request bodies", x: "bytes", y: "microseconds", lines }
}
