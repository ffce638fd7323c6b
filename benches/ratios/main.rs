//! Everything that is promised in numbers, in one table: `cargo xtask bench`. Most rows send the same requests through
//! bare actix and through the middleware, in turn, so that a noisy machine disturbs both alike.

#![allow(clippy::cast_precision_loss, reason = "nanoseconds")]

mod bodies;
#[path = "../common/mod.rs"]
mod common;
mod dependencies;
mod growth;
mod plot;
#[cfg(feature = "redis")]
mod redis;
#[path = "../common/scenario.rs"]
mod scenario;
mod service;
mod store;
mod table;
mod wire;

use table::Table;

struct Part {
    name: &'static str,
    measure: fn(&Table),
    /// Only when asked for.
    slow: bool,
}

const PARTS: &[Part] = &[
    Part { name: "service", measure: service::service, slow: false },
    Part { name: "bodies", measure: bodies::bodies, slow: false },
    Part { name: "store", measure: store::store, slow: false },
    #[cfg(feature = "redis")]
    Part { name: "redis", measure: redis::redis, slow: false },
    Part { name: "wire", measure: wire::wire, slow: true },
    Part { name: "crates", measure: dependencies::crates, slow: false },
    Part { name: "build", measure: dependencies::cold_build, slow: true },
];

/// Arguments: `--all` for the slow rows too, or a part such as `--wire`, or `--growth` for the plot. `serve bare` and
/// `serve with` are the servers that `wire` starts.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", side] => return wire::serve(side),
        ["--growth"] => return growth::growth(),
        _ => {}
    }
    let all = arguments.iter().any(|argument| argument == "--all");
    let wanted = arguments.iter().map(|argument| argument.trim_start_matches('-')).find(|name| *name != "all");
    table::machine();
    let table = Table::start();
    for part in PARTS {
        if wanted.map_or(all || !part.slow, |wanted| wanted == part.name) {
            (part.measure)(&table);
        }
    }
    table.end();
}
