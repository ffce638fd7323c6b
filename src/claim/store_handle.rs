//! A store under the name of its cache, with this process's bookkeeping about it.

use std::sync::{Arc, atomic::AtomicUsize};

use super::{call::StoreCall, in_flight::InFlight, local::LocalClaims, renewal::Renewals, waiting_room::WaitingRoom};
use crate::store::{Store, StoreFuture};

/// A store, with the requests of this process that wait for it and the claims that this process holds in it.
pub(crate) struct StoreHandle {
    /// The name of the cache.
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    pub(super) waiting: WaitingRoom,
    pub(super) renewals: Renewals,
    pub(super) local: LocalClaims,
    pub(super) in_flight: Arc<InFlight>,
    /// How many claims wait for their deferred release.
    pub(super) releases: AtomicUsize,
}

impl StoreHandle {
    pub(crate) fn new(name: String, store: Arc<dyn Store>, in_flight: Arc<InFlight>) -> Arc<Self> {
        let renewals = Renewals::new(&name, store.clone());
        Arc::new(Self {
            name,
            store,
            waiting: WaitingRoom::default(),
            renewals,
            local: LocalClaims::default(),
            in_flight,
            releases: AtomicUsize::new(0),
        })
    }

    /// Times a call that has just been made to the store.
    pub(super) fn call<'a, T: Unpin>(&'a self, name: &'static str, future: StoreFuture<'a, T>) -> StoreCall<'a, T> {
        StoreCall::new(&self.name, name, future)
    }
}

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreHandle").field("name", &self.name).finish_non_exhaustive()
    }
}
