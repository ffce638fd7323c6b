//! One table of all measured costs, with their targets: `cargo xtask bench`.
//!
//! Most rows send the same requests to bare actix (an App without the middleware) and to the App with it. The two take
//! turns, so that other load on the machine disturbs both alike. A row named "A / B" shows a ratio.

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
    /// A slow part only runs with `--all` or by its name.
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

/// Arguments: `--all` for all parts, a part such as `--wire`, or `--growth` for the plot. The part `wire` starts this
/// program again with `serve SIDE`, as its server.
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
