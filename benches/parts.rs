//! Measures single parts with criterion's statistics: `cargo bench --bench parts`. `cargo xtask bench` measures whole
//! requests, and compares them with bare actix.

#![allow(clippy::semicolon_if_nothing_returned, reason = "calls in one line")]

mod common;

use std::{cell::Cell, hint::black_box};

use actix_idempotency::{
    BasicKeyEncoder, IdempotencyInfo, IdempotencyKey, KeyEncoder, Principal,
    key::{Key, KeyRequest, Syntax},
    steps::StepError,
    store::{MemoryLimits, MemoryStore, Store},
};
use actix_web::{
    App, HttpResponse,
    http::{Method, header::HeaderMap},
    rt, test, web,
};
use common::{SMALL, ask, complete, idempotency, record, request, routes, sender, with_key};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt as _;

fn service(criterion: &mut Criterion) {
    let system = rt::System::new();
    let (bare, with) = system.block_on(async {
        let app =
            App::new().app_data(web::Data::new(idempotency(1_000))).wrap(IdempotencyKey::default()).configure(routes);
        (sender(test::init_service(App::new().configure(routes)).await), sender(test::init_service(app).await))
    });
    let keys = Cell::new(0);
    let fresh = || {
        keys.set(keys.get() + 1);
        with_key("/", SMALL, &format!("key-{}", keys.get()))
    };
    system.block_on(with(with_key("/", SMALL, "known")));
    let mut group = criterion.benchmark_group("service");
    group.bench_function("bare", |b| {
        b.iter_batched(|| request("/", SMALL), |r| system.block_on(bare(r)), BatchSize::SmallInput);
    });
    group.bench_function("first run", |b| b.iter_batched(fresh, |r| system.block_on(with(r)), BatchSize::SmallInput));
    group.bench_function("replay", |b| {
        b.iter_batched(|| with_key("/", SMALL, "known"), |r| system.block_on(with(r)), BatchSize::SmallInput);
    });
    group.bench_function("no key", |b| {
        b.iter_batched(|| request("/", SMALL), |r| system.block_on(with(r)), BatchSize::SmallInput);
    });
    group.bench_function("safe method", |b| {
        b.iter_batched(
            || test::TestRequest::get().uri("/").to_request(),
            |r| system.block_on(with(r)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A first run whose handler runs so many steps. The difference to none is what steps cost.
fn steps(criterion: &mut Criterion) {
    let system = rt::System::new();
    let mut group = criterion.benchmark_group("steps");
    for count in [0, 10] {
        let handler = move |info: IdempotencyInfo| async move {
            for (n, name) in NAMES.into_iter().take(count).enumerate() {
                info.step(name, async |_| Ok::<_, StepError>(n)).await.expect("the memory store saves it");
            }
            HttpResponse::Created().finish()
        };
        let app = App::new().app_data(web::Data::new(idempotency(1_000))).wrap(IdempotencyKey::default());
        let send = sender(system.block_on(test::init_service(app.route("/", web::post().to(handler)))));
        let keys = Cell::new(0);
        let fresh = || {
            keys.set(keys.get() + 1);
            with_key("/", SMALL, &format!("key-{}", keys.get()))
        };
        group.bench_function(BenchmarkId::new("first run", count), |b| {
            b.iter_batched(fresh, |r| system.block_on(send(r)), BatchSize::SmallInput);
        });
    }
    group.finish();
}

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn memory_store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory store");
    let limits = MemoryLimits { max_entries: 50_000_000, max_bytes: 64 << 30, ..MemoryLimits::default() };
    let record = record();
    for size in [1_000, 1_000_000] {
        let store = MemoryStore::new(limits);
        (0..size).for_each(|n| complete(&store, n, &record));
        let next = Cell::new(size);
        let count = || next.replace(next.get() + 1);
        group.bench_function(BenchmarkId::new("begin of a completed record", size), |b| {
            b.iter(|| black_box(store.begin(&ask(count() % size)).now_or_never()));
        });
        next.set(size);
        group.bench_function(BenchmarkId::new("begin and complete", size), |b| {
            b.iter(|| complete(&store, count(), &record))
        });
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fingerprint");
    let key = Key::parse(b"8e03978e-40d5-43dd-bc93-6894a57f9324", Syntax::Lenient, 255).expect("a key");
    for size in [200, 1 << 20] {
        let body = [web::Bytes::from(vec![7; size])];
        let headers = HeaderMap::new();
        let principal = Principal::anonymous();
        let request = KeyRequest::new(&key, &principal, &Method::POST, "/payments", "", &headers, &body);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(BasicKeyEncoder.fingerprint(&request)));
        });
    }
    group.finish();
}

criterion_group!(benches, service, steps, memory_store, encoding);
criterion_main!(benches);
