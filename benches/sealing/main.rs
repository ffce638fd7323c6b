//! Measures what sealing costs: `cargo bench --bench sealing --features encryption,testing`.
//!
//! The aim is 2 µs for sealing a record of 1 KiB in server mode. Measured on an AMD EPYC with two shared cores: 1.4 µs with
//! AES-256-GCM-SIV, and 4.0 µs with XChaCha20-Poly1305. Of the latter 2 µs are Poly1305 for AVX2, whose functions the
//! compiler does not inline.
//!
//! | request, its response has 1 KiB | first run | replay |
//! |---|---|---|
//! | not sealed | 2.8 µs | 2.0 µs |
//! | server mode, AES-256-GCM-SIV | 4.6 µs | 3.6 µs |
//! | client mode, AES-256-GCM-SIV | 5.4 µs | 4.1 µs |
//! | server mode, XChaCha20-Poly1305 | 7.4 µs | 6.0 µs |
//! | client mode, XChaCha20-Poly1305 | 7.8 µs | 6.5 µs |

#![allow(clippy::semicolon_if_nothing_returned, reason = "calls in one line")]

mod store;

use std::{cell::Cell, hint::black_box, time::Duration};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    record::Record,
    settings::{Encryption, SealingAlgorithm, SealingKey, SealingMode, SecretSource},
    store::Store,
    testing::sealed_store,
};
use actix_web::{App, HttpResponse, dev::Service, http::StatusCode, rt, test, web};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;

use self::store::{Forgetful, claim};

fn encryption() -> Encryption {
    let mut encryption = Encryption::default();
    encryption.keys = vec![SealingKey::new(1, SecretSource::given([7; 32]))];
    encryption
}

const ALGORITHMS: [(&str, SealingAlgorithm); 2] =
    [("xchacha20-poly1305", SealingAlgorithm::XChaCha20Poly1305), ("aes-256-gcm-siv", SealingAlgorithm::Aes256GcmSiv)];

/// A record of 1 KiB is sealed for a store that forgets it, and opened for an operator.
fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let (claim, record) = (claim(), Record::new(StatusCode::CREATED, [], Some(&[b'x'; 1024])));
    let ttl = Duration::from_secs(60);
    for (name, algorithm) in ALGORITHMS {
        let mut encryption = encryption();
        encryption.algorithm = algorithm;
        let sealed = sealed_store(Forgetful::default(), &encryption).expect("a key");
        group.bench_function(BenchmarkId::new("seal", name), |b| {
            b.iter(|| black_box(sealed.complete(&claim, &record, ttl).now_or_never()))
        });
        group.bench_function(BenchmarkId::new("open", name), |b| {
            b.iter(|| black_box(sealed.inspect(&claim.id).now_or_never()))
        });
    }
    let plain = Forgetful::default();
    group.bench_function("not sealed", |b| b.iter(|| black_box(plain.complete(&claim, &record, ttl).now_or_never())));
    group.finish();
}

/// Whole requests in each mode. Their responses have 1 KiB.
fn requests(criterion: &mut Criterion) {
    let system = rt::System::new();
    let mut group = criterion.benchmark_group("request");
    let sealed = [("server", SealingMode::Server), ("client", SealingMode::Client)].into_iter().flat_map(|mode| {
        ALGORITHMS.map(|(name, algorithm)| (format!("{} {name}", mode.0), encryption().keys, mode.1, algorithm))
    });
    let plain = ("not sealed".to_owned(), Vec::new(), SealingMode::Server, SealingAlgorithm::default());
    for (name, keys, mode, algorithm) in std::iter::once(plain).chain(sealed) {
        let mut settings = Settings::default();
        settings.storage.max_entries = 1_000;
        settings.storage.min_retention = Duration::ZERO;
        (settings.encryption.keys, settings.encryption.mode) = (keys, mode);
        settings.encryption.algorithm = algorithm;
        let idempotency = Idempotency::builder().settings(settings).build().expect("sound settings");
        let answer = async || HttpResponse::Created().body("x".repeat(1024));
        let app = App::new().wrap(IdempotencyKey::default().using(&idempotency)).route("/", web::post().to(answer));
        let app = system.block_on(test::init_service(app));
        let send = |key: String| {
            let request = test::TestRequest::post().uri("/").insert_header(("idempotency-key", key)).to_request();
            system.block_on(app.call(request)).expect("an answer")
        };
        let next = Cell::new(0);
        let fresh = || {
            next.set(next.get() + 1);
            format!("key-{}", next.get())
        };
        group.bench_function(BenchmarkId::new("first run", &name), |b| {
            b.iter_batched(fresh, send, BatchSize::SmallInput)
        });
        send("known".into());
        group.bench_function(BenchmarkId::new("replay", &name), |b| {
            b.iter_batched(|| "known".to_owned(), send, BatchSize::SmallInput)
        });
    }
    group.finish();
}

criterion_group!(benches, records, requests);
criterion_main!(benches);
