//! A store whose calls fail on demand.

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
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, ReleaseAs, Renewal, Restore, Saved, Step, Store,
        StoreError, StoreFuture,
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
    /// [`Store::restore`].
    Restore,
    /// [`Store::save_step`].
    SaveStep,
    /// [`Store::complete`].
    Complete,
    /// [`Store::release`].
    Release,
}

/// The way in which a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call is not applied, and fails.
    Fail,
    /// The call is applied, and fails.
    LoseAnswer,
    /// The call is applied, and answered so much later.
    Delay(Duration),
    /// The call is applied, and never answered.
    Hang,
}

/// Wraps a store and lets chosen calls go wrong. Without faults it answers as the store does.
#[derive(Debug)]
pub struct FaultyStore<S> {
    store: S,
    faults: Faults,
}

/// Plans the faults of a [`FaultyStore`], and counts its calls. Clones share the plan.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<FaultPlan>>);

#[derive(Debug, Default)]
struct FaultPlan {
    next: HashMap<Call, VecDeque<Fault>>,
    calls: HashMap<Call, usize>,
}

impl Faults {
    /// Plans a fault for the next call of this kind that has none yet.
    pub fn next(&self, call: Call, fault: Fault) {
        self.0.lock().next.entry(call).or_default().push_back(fault);
    }

    /// How many calls of this kind there were.
    #[must_use]
    pub fn calls(&self, call: Call) -> usize {
        self.0.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many planned faults have not happened yet.
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
    /// Wraps the store. Returns the handle to its faults, too.
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
                return failed("a planned fault: fail");
            }
            let answer = inner().await;
            match fault {
                Fault::Fail | Fault::LoseAnswer => failed("a planned fault: lose the answer"),
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

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        self.call(Call::Restore, move || self.store.restore(claim, restore))
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        self.call(Call::SaveStep, move || self.store.save_step(claim, step))
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.call(Call::Complete, move || self.store.complete(claim, record, ttl))
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.call(Call::Release, move || self.store.release(claim, release_as))
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        self.store.wait_for_change(id, round, at_most)
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

    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        self.store.steps(id)
    }

    fn saves_steps(&self) -> bool {
        self.store.saves_steps()
    }

    /// As for a store that other processes share: leases are renewed, and calls take time.
    fn needs_renewal(&self) -> bool {
        true
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        self.store.check()
    }
}
