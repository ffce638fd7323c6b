//! Request bodies: the time that a first run adds to bare actix, compared with the time to hash the body.

use std::{hint::black_box, time::Instant};

use actix_idempotency::IdempotencyKey;
use actix_web::{App, rt, test, web};
use sha2::{Digest as _, Sha256};

use crate::{
    common::{idempotency, request, routes, sender, with_key},
    table::{ROUNDS, Table, Target::AtMost, median, micros},
};

pub(crate) fn bodies(table: &Table) {
    let [hashing, adds] = measure(1 << 20);
    let name = "first run of 1 MiB / hashing it";
    table.row(name, [&micros(hashing), &micros(adds)], adds / hashing, "x", &AtMost(1.25));
}

/// The nanoseconds to hash a body of `size` bytes, and those that a first run with this body adds to bare actix.
pub(crate) fn measure(size: usize) -> [f64; 2] {
    rt::System::new().block_on(async {
        let body: &'static [u8] = vec![7; size].leak();
        let limit = || web::PayloadConfig::new(4 << 20);
        let bare = sender(test::init_service(App::new().app_data(limit()).configure(routes)).await);
        let app = App::new().app_data(limit()).app_data(web::Data::new(idempotency(1_000)));
        let with = sender(test::init_service(app.wrap(IdempotencyKey::default()).configure(routes)).await);
        let (mut hashes, mut adds) = (Vec::new(), Vec::new());
        let calls = ((8 << 20) / size).clamp(40, 2000);
        for round in 0..=ROUNDS {
            let [mut hash, mut add] = [Vec::new(), Vec::new()];
            for call in 0..calls {
                let (plain, keyed) = (request("/", body), with_key("/", body, &format!("{round}-{call}")));
                let bare_time = time(async { _ = black_box(bare(plain).await) }).await;
                add.push(time(async { _ = black_box(with(keyed).await) }).await - bare_time);
                hash.push(time(async { _ = black_box(Sha256::digest(black_box(body))) }).await);
            }
            // The first round only warms up.
            if round > 0 {
                hashes.push(median(hash));
                adds.push(median(add));
            }
        }
        [median(hashes), median(adds)]
    })
}

/// The nanoseconds that `work` takes.
async fn time(work: impl Future<Output = ()>) -> f64 {
    let start = Instant::now();
    work.await;
    start.elapsed().as_nanos() as f64
}
