//! Compares the allocations that the middleware adds per request with their budget in `benches/budget.toml`. "Bare" is
//! the same App without the middleware. The counter counts the allocations of one thread.

#![cfg(not(feature = "metrics"))]

#[allow(dead_code, unreachable_pub, reason = "some of it is only used by the benches")]
#[path = "../benches/common/mod.rs"]
mod common;
#[path = "../benches/common/scenario.rs"]
mod scenario;

use std::collections::BTreeMap;

use actix_http::{Payload, Request};
use actix_idempotency::{Idempotency, IdempotencyKey};
use actix_web::{
    App, rt,
    rt::SystemRunner,
    test::{self, TestRequest},
    web::{self, Bytes},
};
use allocation_counter::AllocationInfo;
use common::{Send, sender};
use futures_util::{StreamExt as _, stream};
use scenario::{Kind, Scenario};

#[test]
fn allocations_stay_within_budget() {
    let budget = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/budget.toml")).unwrap();
    let budget: toml::Table = budget.parse().unwrap();
    let budget: BTreeMap<String, i64> = budget["allocations"].clone().try_into().unwrap();
    let mut broken = Vec::new();
    for kind in Kind::ALL {
        // A new thread for each scenario, because an instance looks at which other instances were made on its thread.
        let [bare, with] = std::thread::spawn(move || {
            let system = rt::System::new();
            let scenario = system.block_on(Scenario::new(kind, 1_000));
            [(&scenario.bare, 201), (&scenario.with, scenario.expected())]
                .map(|(send, expected)| usual(&system, &scenario, send, expected))
        })
        .join()
        .unwrap();
        let (name, adds) = (kind.name(), with - bare);
        println!("{name:28} bare {bare:3}, with {with:3}, adds {adds:3}");
        let most = budget.get(name).copied().unwrap_or(i64::MIN);
        if adds > most {
            broken.push(format!(
                "{name}: the middleware adds {adds} allocations, and its budget is {most} (bare: {bare})"
            ));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The allocations of one request: the median of many, because a hash table grows now and then.
fn usual(system: &SystemRunner, scenario: &Scenario, send: &Send, expected: u16) -> i64 {
    let mut counts: Vec<u64> = Vec::new();
    for request in (0..5).flat_map(|_| scenario.batch()) {
        counts.push(counted(system, send, request, expected).count_total);
    }
    counts.sort_unstable();
    counts[counts.len() / 2].try_into().expect("a small number")
}

fn counted(system: &SystemRunner, send: &Send, request: Request, expected: u16) -> AllocationInfo {
    let mut status = 0;
    let counted = allocation_counter::measure(|| status = system.block_on(send(request)));
    assert_eq!(status, expected, "only the expected answer has the measured cost");
    counted
}

const CHUNK: &[u8] = &[7; 16 << 10];
const CHUNKS: usize = 64;

/// A body of 1 MiB arrives in pieces, as from a socket. The handler gets the same pieces, not copies of them.
#[test]
fn a_request_body_is_not_copied() {
    let system = rt::System::new();
    let [bare, with] = system.block_on(async {
        let route = || web::post().to(length);
        let app = App::new().app_data(web::Data::new(Idempotency::in_memory())).wrap(IdempotencyKey::default());
        [
            sender(test::init_service(App::new().route("/", route())).await),
            sender(test::init_service(app.route("/", route())).await),
        ]
    });
    let bytes = |send, key| counted(&system, send, in_pieces(key), 200).bytes_total;
    let (bare, with) = (bytes(&bare, "first"), bytes(&with, "first"));
    println!("a body of 1 MiB: bare {bare} B, with {with} B");
    assert!(with - bare < CHUNK.len() as u64, "{with} bytes, bare {bare}");
}

/// A handler that does not copy the body itself.
async fn length(mut payload: web::Payload) -> String {
    let mut length = 0;
    while let Some(Ok(piece)) = payload.next().await {
        length += piece.len();
    }
    assert_eq!(length, CHUNK.len() * CHUNKS);
    length.to_string()
}

fn in_pieces(key: &str) -> Request {
    let request = TestRequest::post().uri("/").insert_header(("idempotency-key", key)).to_request();
    let pieces = (0..CHUNKS).map(|_| Ok(Bytes::from_static(CHUNK)));
    let payload: Payload = Payload::Stream { payload: Box::pin(stream::iter(pieces)) };
    request.replace_payload(payload).0
}
