//! A store under the name of its cache, with this process's bookkeeping about it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

#[cfg(feature = "encryption")]
use super::sealed::Sealed;
use super::{
    call::StoreCall,
    in_flight::InFlight,
    local::LocalClaims,
    renewal::Renewals,
    waiting_room::{Seat, WaitingRoom},
};
#[cfg(feature = "encryption")]
use crate::sealing::{CacheSeals, Sealing};
use crate::{
    key::{Principal, RecordId},
    store::{Inspection, OwnerToken, Store, StoreError, StoreFuture, background::Background},
};

/// A store, with the requests of this process that wait for it and the claims that this process holds in it.
pub(crate) struct StoreHandle {
    /// The name of the cache.
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) background: Arc<Background>,
    pub(super) health: Arc<Health>,
    pub(super) waiting: WaitingRoom,
    pub(super) renewals: Renewals,
    pub(super) local: LocalClaims,
    pub(super) in_flight: Arc<InFlight>,
    /// How many claims wait for their deferred release.
    pub(super) releases: AtomicUsize,
    #[cfg(feature = "encryption")]
    seals: Option<CacheSeals>,
}

/// Whether the last call to a store failed.
#[derive(Default)]
pub(super) struct Health {
    is_down: AtomicBool,
    is_back: Notify,
}

impl Health {
    /// A call was answered.
    #[inline]
    pub(super) fn heard<T>(&self, answer: &Result<T, StoreError>) {
        let failed = matches!(answer, Err(StoreError::Unavailable(_) | StoreError::TimedOut(_)));
        if failed {
            self.is_down.store(true, Relaxed);
        } else if self.is_down.load(Relaxed) {
            self.is_down.store(false, Relaxed);
            self.is_back.notify_waiters();
        }
    }

    /// Waits until the store answers again, for at most `limit`.
    pub(super) async fn pause(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.is_back.notified()).await;
    }
}

impl StoreHandle {
    pub(crate) fn new(name: String, store: Arc<dyn Store>, in_flight: Arc<InFlight>) -> Arc<Self> {
        let (background, health) = (Arc::<Background>::default(), Arc::<Health>::default());
        let renewals = Renewals::new(&name, store.clone(), background.clone(), health.clone());
        Arc::new(Self {
            name,
            store,
            background,
            health,
            waiting: WaitingRoom::default(),
            renewals,
            local: LocalClaims::default(),
            in_flight,
            releases: AtomicUsize::new(0),
            #[cfg(feature = "encryption")]
            seals: None,
        })
    }

    /// A store that has sealed records only, if there are keys. Without keys, a store that outlives this process is asked
    /// before the first claim whether its records have keys.
    #[cfg(feature = "encryption")]
    pub(crate) fn sealed(
        name: String,
        store: Arc<dyn Store>,
        in_flight: Arc<InFlight>,
        seals: CacheSeals,
    ) -> Arc<Self> {
        if !seals.are_set() && store.answers_at_once() {
            return Self::new(name, store, in_flight);
        }
        let store = Arc::new(Sealed::new(store, seals.clone()));
        let mut handle = Self::new(name, store, in_flight);
        if let Some(handle) = Arc::get_mut(&mut handle) {
            handle.seals = Some(seals).filter(CacheSeals::are_set);
        }
        handle
    }

    /// The keys of the store's records.
    #[cfg(feature = "encryption")]
    pub(crate) const fn seals(&self) -> Option<&CacheSeals> {
        self.seals.as_ref()
    }

    /// Opens the record of a key, if it needs the key and is sealed.
    #[cfg(feature = "encryption")]
    pub(crate) fn open(&self, key: &str, principal: &Principal, seen: &mut Inspection) {
        if let (Some(seals), Some(record)) = (&self.seals, &seen.record)
            && record.is_sealed()
            && let Ok(opened) = seals.open(&seen.id, record, Some(&Sealing::new(key, principal)))
        {
            seen.record = Some(opened);
        }
    }

    /// Nothing is sealed without the feature `encryption`.
    #[cfg(not(feature = "encryption"))]
    #[expect(clippy::unused_self, reason = "the feature uses it")]
    pub(crate) const fn open(&self, _: &str, _: &Principal, _: &mut Inspection) {}

    /// A place among those who wait for a record, unless too many do.
    pub(crate) fn seat(&self, id: RecordId, most: usize) -> Option<Seat> {
        self.waiting.enter(id, most)
    }

    /// Waits until the record may have changed, for at most `at_most`.
    pub(crate) async fn wait_for_change(&self, id: &RecordId, round: u32, at_most: Duration) {
        let changed = tokio::time::timeout(at_most, self.store.wait_for_change(id, round, at_most)).await;
        if let Ok(Err(error)) = changed {
            // The next call will meet the same error; a pause keeps this from becoming a busy loop.
            tracing::debug!(%error, record = ?id, "a waiter can't wait for a change of its record");
            tokio::time::sleep(at_most.min(Duration::from_millis(20))).await;
        }
    }

    /// A new owner token. Where claims live and die with this process, tokens need only differ within it.
    pub(super) fn new_token(&self) -> OwnerToken {
        if self.store.answers_at_once() && !self.store.needs_renewal() {
            OwnerToken::within_this_process()
        } else {
            OwnerToken::random()
        }
    }

    /// Times a call that has just been made to the store.
    pub(super) fn call<'a, T: Unpin>(&'a self, name: &'static str, future: StoreFuture<'a, T>) -> StoreCall<'a, T> {
        StoreCall::new(&self.name, name, &self.health, future)
    }
}

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreHandle").field("name", &self.name).finish_non_exhaustive()
    }
}
