//! The claims that this process holds in a store that other processes share. Duplicates within the process wait here:
//! they cost no round trip, are woken without polling, and never run beside their owner, even if the store loses the
//! record.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use crate::{
    key::{Fingerprint, RecordId},
    store::{BeginRequest, Claim},
};

type Table = Arc<Mutex<HashMap<RecordId, LocalClaim>>>;

#[derive(Default)]
pub(super) struct LocalClaims(Table);

struct LocalClaim {
    fingerprint: Fingerprint,
    /// After this moment the claim does not belong to the owner any more, whatever it does.
    until: Instant,
    end: ClaimEnd,
}

/// The end of a claim, for its waiters.
#[derive(Clone, Default)]
pub(super) struct ClaimEnd {
    ended: Arc<Notify>,
    lost: Arc<AtomicBool>,
}

/// The entry of a claim in the table. Its drop removes the claim and wakes the waiters.
pub(super) struct LocalEntry {
    table: Table,
    id: RecordId,
    end: ClaimEnd,
}

/// The knowledge that this process has of a record.
pub(super) enum LocalState {
    /// No request of this process holds the claim.
    Nothing,
    /// A request of this process holds the claim, for another operation.
    Mismatch,
    /// A request of this process runs. Resolves when it has ended.
    InFlight(OwnedNotified),
}

impl LocalClaims {
    pub(super) fn state(&self, request: &BeginRequest) -> LocalState {
        let table = self.0.lock();
        let Some(local) = table.get(&request.id) else { return LocalState::Nothing };
        // The notification is created before the state is read, so no wake-up is missed.
        let ended = local.end.ended.clone().notified_owned();
        if local.end.lost.load(SeqCst) || Instant::now() >= local.until {
            return LocalState::Nothing;
        }
        if local.fingerprint.compare(&request.fingerprint).is_same() {
            LocalState::InFlight(ended)
        } else {
            LocalState::Mismatch
        }
    }

    pub(super) fn enter(&self, claim: &Claim, until: Instant) -> LocalEntry {
        let end = ClaimEnd::default();
        let local = LocalClaim { fingerprint: claim.fingerprint, until, end: end.clone() };
        self.0.lock().insert(claim.id, local);
        LocalEntry { table: self.0.clone(), id: claim.id, end }
    }
}

impl ClaimEnd {
    /// Another process owns the record now, so duplicates here need not wait for the previous owner.
    pub(super) fn lose(&self) {
        self.lost.store(true, SeqCst);
        self.ended.notify_waiters();
    }
}

impl LocalEntry {
    pub(super) fn end(&self) -> ClaimEnd {
        self.end.clone()
    }
}

impl Drop for LocalEntry {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        // Another request of this process may have taken a lost claim over, and has its own entry then.
        if table.get(&self.id).is_some_and(|local| Arc::ptr_eq(&local.end.ended, &self.end.ended)) {
            table.remove(&self.id);
        }
        self.end.ended.notify_waiters();
    }
}
