//! A custom store: a table of life-cycle slots under a mutex. Its tests run both suites that every store must pass.
//!
//! Run it with `cargo run --example custom_store`. The page "Architecture" of the manual explains how to write such a
//! store.

use std::{
    collections::BTreeMap,
    env,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    key::RecordId,
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Clock, Completion, Forgotten, Inspection, ReleaseAs, Renewal, Restore, Saved, Step,
        Store, StoreFuture,
        lifecycle::{FenceCounter, Slot},
    },
};
use actix_web::{App, HttpResponse, HttpServer, web};

/// Stands in for a database: a table that one transaction at a time changes.
#[derive(Debug, Default)]
struct TableStore {
    table: Mutex<Table>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<RecordId, Slot>,
    fences: FenceCounter,
}

impl TableStore {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // A poisoned lock can be used: each slot is changed by one call, so a panic leaves no slot half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction: reads a slot, lets `change` change it, and writes it back.
    fn transaction<T>(&self, id: &RecordId, change: impl FnOnce(&mut Slot, &mut FenceCounter, u64) -> T) -> T {
        let now = self.clock.now();
        let Table { slots, fences } = &mut *self.lock();
        let mut slot = slots.remove(id).unwrap_or_default();
        let answer = change(&mut slot, fences, now);
        if !slot.expire(now) {
            slots.insert(*id, slot);
        }
        answer
    }
}

impl Store for TableStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::ready(Ok(self.transaction(&request.id, |slot, fences, now| slot.begin(request, now, fences))))
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(Ok(self.transaction(&claim.id, |slot, _, now| slot.renew(claim, lease, now))))
    }

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(Ok(self.transaction(&claim.id, |slot, _, now| slot.restore(claim, restore, now))))
    }

    fn saves_steps(&self) -> bool {
        true
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        StoreFuture::ready(Ok(self.transaction(&claim.id, |slot, _, now| slot.save_step(claim, step, now))))
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        StoreFuture::ready(Ok(self.transaction(&claim.id, |slot, _, now| slot.complete(claim, record, ttl, now))))
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(self.transaction(&claim.id, |slot, _, now| slot.release(claim, release_as, now))))
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        let now = self.clock.now();
        StoreFuture::ready(Ok(self.lock().slots.get(id).and_then(|slot| slot.inspect(*id, now))))
    }

    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        let now = self.clock.now();
        StoreFuture::ready(Ok(self.lock().slots.get(id).map(|slot| slot.steps(now)).unwrap_or_default()))
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        StoreFuture::ready(Ok(self.transaction(id, |slot, _, now| slot.forget(now))))
    }

    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        let now = self.clock.now();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.lock();
        let records = table.slots.range((from, Bound::Unbounded)).filter_map(|(id, slot)| slot.inspect(*id, now));
        StoreFuture::ready(Ok(records.take(limit).collect()))
    }
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = Settings::ietf();
    settings.storage.class = "table".into();
    let idempotency = Idempotency::builder().settings(settings).store("table", TableStore::default()).build()?;
    let signal = idempotency.shutdown_signal();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(IdempotencyKey::default().using(&idempotency))
            .route("/payments", web::post().to(async || HttpResponse::Created().body("paid\n")))
    })
    .shutdown_signal(signal)
    .bind(env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8080".into()))?;
    let addr = server.addrs()[0];
    println!("listening on {addr}; run this command twice:");
    println!("  curl -i -X POST http://{addr}/payments -H 'Idempotency-Key: order-17'");
    server.run().await?;
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use actix_idempotency::testing::{accept_store, model::compare_with_model};

    fn steered() -> (TableStore, impl Fn(Duration)) {
        let clock = Clock::steered();
        (TableStore { clock: clock.clone(), ..TableStore::default() }, move |by| clock.advance(by))
    }

    #[actix_web::test]
    async fn the_store_follows_the_rules() {
        accept_store(async || steered()).await;
    }

    #[test]
    fn the_store_does_what_the_model_does() {
        compare_with_model(500, async || steered());
    }
}
