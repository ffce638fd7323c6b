//! What the middleware adds to bare actix: the same requests through both, in turn, in one run. `cargo xtask bench`.
//!
//! Each row is the median of five rounds; each round times both sides, so that a noisy machine disturbs both alike.

#![allow(
    clippy::cast_precision_loss,
    clippy::semicolon_if_nothing_returned,
    reason = "nanoseconds, and calls in one line"
)]

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "redis")]
mod redis;

use std::{hint::black_box, sync::Arc, time::Instant};

use actix_idempotency::{ExemptIdempotencyKey, IdempotencyKey, MemoryLimits, MemoryStore, Record, Store, guard};
use actix_web::{
    App, rt,
    test::{self, TestRequest},
    web,
};
use common::{SMALL, Send, answer, ask, complete, idempotency, record, request, routes, sender, with_key};
use futures_util::FutureExt as _;

const ROUNDS: usize = 5;

fn main() {
    // `cargo bench -- NAME` runs the tables whose name holds NAME.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{} {}, {cores} cores; medians of {ROUNDS} interleaved rounds\n",
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    let mut tables: Vec<(&str, fn())> = vec![("service", service), ("bodies", bodies), ("store", store)];
    #[cfg(feature = "redis")]
    tables.push(("redis", redis::redis));
    for (name, table) in tables {
        if name.contains(&wanted) {
            // A thread of its own: instances count what was made on their thread.
            std::thread::spawn(table).join().expect("a bench does not panic");
            println!();
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// An App whose instance has others inside.
fn nested_routes(config: &mut web::ServiceConfig) {
    routes(config);
    config
        .service(web::resource("/exempt").wrap(ExemptIdempotencyKey::default()).route(web::post().to(answer)))
        .route("/guarded", web::post().guard(guard::optional()).to(answer));
}

/// Nanoseconds a request, requests made beforehand.
async fn time(send: &Send, make: &dyn Fn() -> TestRequest) -> f64 {
    const BATCH: usize = 2000;
    let requests: Vec<TestRequest> = (0..BATCH).map(|_| make()).collect();
    let start = Instant::now();
    for request in requests {
        black_box(send(request).await);
    }
    start.elapsed().as_nanos() as f64 / BATCH as f64
}

fn service() {
    rt::System::new().block_on(async {
        let bare = sender(test::init_service(App::new().configure(nested_routes_bare)).await);
        let plain = sender(
            test::init_service(
                App::new().app_data(web::Data::new(idempotency())).wrap(IdempotencyKey::default()).configure(routes),
            )
            .await,
        );
        println!(
            "{:38} {:>9} {:>9} {:>8} {:>7} {:>9}",
            "service: 200 B in, 1 KiB out", "bare", "with", "adds", "ratio", "target"
        );
        let keys = std::cell::Cell::new(0_u64);
        let fresh = || {
            keys.set(keys.get() + 1);
            format!("8e03978e-40d5-43dd-bc93-{:012}", keys.get())
        };
        let known = "8e03978e-40d5-43dd-bc93-replay000000";
        plain(with_key("/", SMALL, known)).await;
        row("safe method", &bare, &|| TestRequest::get().uri("/"), &plain, &|| TestRequest::get().uri("/"), 150.0)
            .await;
        row("first run", &bare, &|| request("/", SMALL), &plain, &|| with_key("/", SMALL, &fresh()), 2000.0).await;
        row("replay", &bare, &|| request("/", SMALL), &plain, &|| with_key("/", SMALL, known), 1000.0).await;
        row("no key: 400", &bare, &|| request("/", SMALL), &plain, &|| request("/", SMALL), f64::NAN).await;
        // Made later on the same thread, so it knows that others may be inside.
        let nested = sender(
            test::init_service(
                App::new()
                    .app_data(web::Data::new(idempotency()))
                    .wrap(IdempotencyKey::default())
                    .configure(nested_routes),
            )
            .await,
        );
        nested(with_key("/", SMALL, known)).await;
        let inside = "with inner instances: ";
        row(
            &format!("{inside}exempt"),
            &bare,
            &|| request("/exempt", SMALL),
            &nested,
            &|| request("/exempt", SMALL),
            600.0,
        )
        .await;
        row(
            &format!("{inside}first run"),
            &bare,
            &|| request("/", SMALL),
            &nested,
            &|| with_key("/", SMALL, &fresh()),
            2500.0,
        )
        .await;
        row(
            &format!("{inside}replay"),
            &bare,
            &|| request("/", SMALL),
            &nested,
            &|| with_key("/", SMALL, known),
            2000.0,
        )
        .await;
    });
    std::thread::spawn(|| {
        rt::System::new().block_on(async {
            let bare = sender(test::init_service(App::new().configure(routes)).await);
            let exempt = sender(
                test::init_service(
                    App::new()
                        .app_data(web::Data::new(idempotency()))
                        .wrap(ExemptIdempotencyKey::default())
                        .configure(routes),
                )
                .await,
            );
            row("App exempt", &bare, &|| request("/", SMALL), &exempt, &|| request("/", SMALL), 150.0).await;
        });
    })
    .join()
    .expect("a bench does not panic");
}

fn nested_routes_bare(config: &mut web::ServiceConfig) {
    routes(config);
    config.service(web::resource("/exempt").route(web::post().to(answer))).route("/guarded", web::post().to(answer));
}

async fn row(
    name: &str,
    bare: &Send,
    bare_request: &dyn Fn() -> TestRequest,
    with: &Send,
    with_request: &dyn Fn() -> TestRequest,
    target: f64,
) {
    let (mut bares, mut withs) = (Vec::new(), Vec::new());
    time(with, with_request).await;
    for _ in 0..ROUNDS {
        bares.push(time(bare, bare_request).await);
        withs.push(time(with, with_request).await);
    }
    let adds = median(bares.iter().zip(&withs).map(|(bare, with)| with - bare).collect());
    let (bare, with) = (median(bares), median(withs));
    let met = if target.is_nan() {
        String::new()
    } else {
        format!("{:.2} µs {}", target / 1e3, if adds <= target { "met" } else { "NOT MET" })
    };
    println!(
        "{name:38} {:>6.2} µs {:>6.2} µs {:>5.2} µs {:>6.2}x {met:>9}",
        bare / 1e3,
        with / 1e3,
        adds / 1e3,
        with / bare
    );
}

fn bodies() {
    rt::System::new().block_on(async {
        println!("{:38} {:>9} {:>9} {:>8}", "request bodies", "hashing", "adds", "ratio");
        for size in [200, 16 << 10, 256 << 10, 1 << 20] {
            let body: &'static [u8] = vec![7; size].leak();
            let bare = sender(test::init_service(App::new().app_data(limit()).configure(routes)).await);
            let app = App::new().app_data(limit()).app_data(web::Data::new(idempotency()));
            let with = sender(test::init_service(app.wrap(IdempotencyKey::default()).configure(routes)).await);
            with(with_key("/", body, "known")).await;
            let (mut hashes, mut adds) = (Vec::new(), Vec::new());
            let rounds = (20 << 20 >> 4) / size.max(4096);
            for _ in 0..ROUNDS {
                let start = Instant::now();
                for _ in 0..rounds {
                    use sha2::Digest as _;
                    black_box(sha2::Sha256::digest(black_box(body)));
                }
                hashes.push(start.elapsed().as_nanos() as f64 / rounds as f64);
                let (mut bare_time, mut with_time) = (0.0, 0.0);
                for _ in 0..rounds {
                    let (plain, keyed) = (request("/", body), with_key("/", body, "known"));
                    let start = Instant::now();
                    black_box(bare(plain).await);
                    bare_time += start.elapsed().as_nanos() as f64;
                    let start = Instant::now();
                    black_box(with(keyed).await);
                    with_time += start.elapsed().as_nanos() as f64;
                }
                adds.push((with_time - bare_time) / rounds as f64);
            }
            let (hash, add) = (median(hashes), median(adds));
            println!(
                "{:38} {:>6.2} µs {:>6.2} µs {:>7.2}x",
                format!("replay of {size} B"),
                hash / 1e3,
                add / 1e3,
                add / hash
            );
        }
    });
}

fn limit() -> web::PayloadConfig {
    web::PayloadConfig::new(4 << 20)
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn store() {
    println!("{:38} {:>9} {:>9} {:>8}", "memory store", "1 k", "1 M", "ratio");
    let unbounded = MemoryLimits { max_entries: 20_000_000, max_bytes: 64 << 30, ..MemoryLimits::default() };
    let record = record();
    let stores: Vec<(u64, MemoryStore)> = [1_000, 1_000_000]
        .into_iter()
        .map(|size| {
            let store = MemoryStore::new(unbounded);
            let before = resident();
            (0..size).for_each(|n| {
                complete(&store, n, &Record::from_bytes(record.as_bytes().to_vec().into()).expect("a record"))
            });
            if size == 1_000_000 {
                println!("{:38} {:>19} B", "memory per record of a 200 B response", (resident() - before) / 1_000_000);
            }
            (size, store)
        })
        .collect();
    let each = |f: &dyn Fn(&MemoryStore, u64, u64)| -> [f64; 2] {
        [0, 1].map(|which: usize| {
            let (size, store) = &stores[which];
            let times = (0..ROUNDS)
                .map(|round| {
                    const CALLS: u64 = 50_000;
                    let start = Instant::now();
                    (0..CALLS).for_each(|n| f(store, *size, round as u64 * CALLS + n));
                    start.elapsed().as_nanos() as f64 / CALLS as f64
                })
                .collect();
            median(times)
        })
    };
    let print = |name: &str, [small, large]: [f64; 2]| {
        println!("{name:38} {small:>6.0} ns {large:>6.0} ns {:>7.2}x", large / small);
    };
    print(
        "begin of a completed record",
        each(&|store, size, n| {
            black_box(store.begin(&ask(n.wrapping_mul(7919) % size)).now_or_never());
        }),
    );
    print("begin + complete", each(&|store, _, n| complete(store, 100_000_000 + n, &record)));
    let store = Arc::new(MemoryStore::new(unbounded));
    let pairs = |threads: u64| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (store, record) = (store.clone(), record.clone());
                scope.spawn(move || {
                    (0..200_000).for_each(|n| complete(&store, thread << 32 | n << 8 | threads, &record))
                });
            }
        });
        threads as f64 * 200_000.0 / start.elapsed().as_secs_f64()
    };
    let rates: Vec<[f64; 2]> = (0..ROUNDS).map(|_| [pairs(1), pairs(2)]).collect();
    let ratio = median(rates.iter().map(|[one, two]| two / one).collect());
    println!("{:38} {ratio:>28.2}x", "two threads on distinct keys");
}
