//! The claims that this process holds in a store that others share. Duplicates of one process wait here: no round trip,
//! woken without polling, and never run beside their owner, even when the shared store loses the record.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use crate::{BeginRequest, Claim, Fingerprint, RecordId};

type Table = Arc<Mutex<HashMap<RecordId, Local>>>;

#[derive(Default)]
pub(super) struct LocalClaims(Table);

struct Local {
    fingerprint: Fingerprint,
    /// Beyond this the claim is not the owner's any more, whatever it does.
    until: Instant,
    ended: Arc<Notify>,
}

/// A claim that is known here until this is dropped.
pub(super) struct Holding {
    table: Table,
    id: RecordId,
    ended: Arc<Notify>,
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
        match self.0.lock().get(&request.id) {
            Some(local) if Instant::now() >= local.until => Look::Nothing,
            Some(local) if local.fingerprint != request.fingerprint => Look::Mismatch,
            // Made under the lock under which the claim ends: no wake-up is missed.
            Some(local) => Look::InFlight(local.ended.clone().notified_owned()),
            None => Look::Nothing,
        }
    }

    pub(super) fn hold(&self, claim: &Claim, until: Instant) -> Holding {
        let ended = Arc::new(Notify::new());
        let local = Local { fingerprint: claim.fingerprint, until, ended: ended.clone() };
        self.0.lock().insert(claim.id, local);
        Holding { table: self.0.clone(), id: claim.id, ended }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        // A claim that was lost may have been taken over by another request of this process.
        if table.get(&self.id).is_some_and(|local| Arc::ptr_eq(&local.ended, &self.ended)) {
            table.remove(&self.id);
        }
        self.ended.notify_waiters();
    }
}
