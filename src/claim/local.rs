//! The claims that this process holds in a store that others share. Duplicates of one process wait here: no round trip,
//! woken without polling, and never run beside their owner, even when the shared store loses the record.

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

type Table = Arc<Mutex<HashMap<RecordId, Local>>>;

#[derive(Default)]
pub(super) struct LocalClaims(Table);

struct Local {
    fingerprint: Fingerprint,
    /// Beyond this the claim is not the owner's any more, whatever it does.
    until: Instant,
    end: End,
}

/// The end of a claim, for those who wait for it.
#[derive(Clone, Default)]
pub(super) struct End {
    ended: Arc<Notify>,
    lost: Arc<AtomicBool>,
}

/// A claim that is known here until this is dropped.
pub(super) struct Holding {
    table: Table,
    id: RecordId,
    end: End,
}

/// What this process knows of a record.
pub(super) enum Look {
    Nothing,
    Mismatch,
    /// Somebody here runs; resolves when they have ended.
    InFlight(OwnedNotified),
}

impl LocalClaims {
    pub(super) fn look(&self, request: &BeginRequest) -> Look {
        let table = self.0.lock();
        let Some(local) = table.get(&request.id) else { return Look::Nothing };
        // First listened for, then asked about: no wake-up is missed.
        let ended = local.end.ended.clone().notified_owned();
        if local.end.lost.load(SeqCst) || Instant::now() >= local.until {
            return Look::Nothing;
        }
        if local.fingerprint == request.fingerprint { Look::InFlight(ended) } else { Look::Mismatch }
    }

    pub(super) fn hold(&self, claim: &Claim, until: Instant) -> Holding {
        let end = End::default();
        let local = Local { fingerprint: claim.fingerprint, until, end: end.clone() };
        self.0.lock().insert(claim.id, local);
        Holding { table: self.0.clone(), id: claim.id, end }
    }
}

impl End {
    /// Another process owns the record now: duplicates here need not wait for the owner that was.
    pub(super) fn lose(&self) {
        self.lost.store(true, SeqCst);
        self.ended.notify_waiters();
    }
}

impl Holding {
    pub(super) fn end(&self) -> End {
        self.end.clone()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        // A claim that was lost may have been taken over by another request of this process.
        if table.get(&self.id).is_some_and(|local| Arc::ptr_eq(&local.end.ended, &self.end.ended)) {
            table.remove(&self.id);
        }
        self.end.ended.notify_waiters();
    }
}
