//! Catches the panics of a store that the application brought: they become errors of the store.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;

use crate::{
    key::RecordId,
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, ReleaseAs, Renewal, Restore, Saved, Step, Store,
        StoreError, StoreFuture,
    },
};

/// A store whose panics are errors. A panic in `begin` would reset the client's connection, and one in `complete` would
/// lose the response.
pub(crate) struct Caught(pub(crate) Arc<dyn Store>);

fn caught<'a, T: Send + Unpin + 'a>(call: impl FnOnce() -> StoreFuture<'a, T>) -> StoreFuture<'a, T> {
    let panicked = || Err(StoreError::unavailable("the store panicked"));
    let Ok(future) = catch_unwind(AssertUnwindSafe(call)) else { return StoreFuture::ready(panicked()) };
    match future.try_ready() {
        Ok(answer) => StoreFuture::ready(answer),
        Err(future) => {
            StoreFuture::boxed(
                async move { AssertUnwindSafe(future).catch_unwind().await.unwrap_or_else(|_| panicked()) },
            )
        }
    }
}

impl Store for Caught {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        caught(|| self.0.begin(request))
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        caught(|| self.0.renew(claim, lease))
    }

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        caught(|| self.0.restore(claim, restore))
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        caught(|| self.0.save_step(claim, step))
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        caught(|| self.0.complete(claim, record, ttl))
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        caught(|| self.0.release(claim, release_as))
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        caught(|| self.0.wait_for_change(id, round, at_most))
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        caught(|| self.0.inspect(id))
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        caught(|| self.0.forget(id))
    }

    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        caught(|| self.0.list(after, limit))
    }

    fn saves_steps(&self) -> bool {
        self.0.saves_steps()
    }

    fn needs_renewal(&self) -> bool {
        self.0.needs_renewal()
    }

    fn answers_at_once(&self) -> bool {
        self.0.answers_at_once()
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        caught(|| self.0.check())
    }
}
