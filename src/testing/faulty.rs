//! A store that fails as told.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    key::RecordId,
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Fate, Forgotten, Inspection, Renewal, Store, StoreError, StoreFuture,
    },
};

/// A call of [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Store::begin`].
    Begin,
    /// [`Store::renew`].
    Renew,
    /// [`Store::complete`].
    Complete,
    /// [`Store::release`].
    Release,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It is not applied, and fails.
    Fail,
    /// It is applied, and fails.
    LoseAnswer,
    /// It is applied, and answered so much later.
    Delay(Duration),
    /// It is applied, and never answered.
    Hang,
}

/// Wraps a store, and lets chosen calls go wrong. Without faults it answers as the store does.
#[derive(Debug)]
pub struct FaultyStore<S> {
    store: S,
    faults: Faults,
}

/// Says what goes wrong next, and tells what was called. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    next: HashMap<Call, VecDeque<Fault>>,
    calls: HashMap<Call, usize>,
}

impl Faults {
    /// The next call of this kind for which nothing is planned yet goes wrong like this.
    pub fn next(&self, call: Call, fault: Fault) {
        self.0.lock().next.entry(call).or_default().push_back(fault);
    }

    /// How many calls of this kind there were.
    #[must_use]
    pub fn calls(&self, call: Call) -> usize {
        self.0.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many faults are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.lock().next.values().map(VecDeque::len).sum()
    }

    fn take(&self, call: Call) -> Option<Fault> {
        let mut plan = self.0.lock();
        *plan.calls.entry(call).or_default() += 1;
        plan.next.get_mut(&call)?.pop_front()
    }
}

impl<S: Store> FaultyStore<S> {
    /// The store, and the handle to its faults.
    pub fn new(store: S) -> (Self, Faults) {
        let faults = Faults::default();
        (Self { store, faults: faults.clone() }, faults)
    }

    fn call<'a, T: Send + Unpin + 'a>(
        &'a self,
        call: Call,
        inner: impl FnOnce() -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        let Some(fault) = self.faults.take(call) else { return inner() };
        StoreFuture::boxed(async move {
            let failed = |why: &str| Err(StoreError::unavailable(why));
            if fault == Fault::Fail {
                return failed("told to fail");
            }
            let answer = inner().await;
            match fault {
                Fault::Fail | Fault::LoseAnswer => failed("told to lose the answer"),
                Fault::Delay(by) => {
                    tokio::time::sleep(by).await;
                    answer
                }
                Fault::Hang => std::future::pending().await,
            }
        })
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.call(Call::Begin, move || self.store.begin(request))
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        self.call(Call::Renew, move || self.store.renew(claim, lease))
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.call(Call::Complete, move || self.store.complete(claim, record, ttl))
    }

    fn release<'a>(&'a self, claim: &'a Claim, fate: Fate) -> StoreFuture<'a, bool> {
        self.call(Call::Release, move || self.store.release(claim, fate))
    }

    fn changed<'a>(&'a self, id: &'a RecordId, round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        self.store.changed(id, round, at_most)
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        self.store.inspect(id)
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        self.store.forget(id)
    }

    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        self.store.list(after, limit)
    }

    /// As a store would that other processes share: its claims are renewed.
    fn leases(&self) -> bool {
        true
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        self.store.check()
    }
}
