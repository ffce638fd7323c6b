//! Renews the leases of live claims. On the background thread, since a blocking handler stalls its worker.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{Terms, bounded};
use crate::{Claim, OwnerToken, Renewal, Store, StoreError, background};

pub(super) struct LeaseKeeper {
    store: Arc<dyn Store>,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    leases: Mutex<Leases>,
    /// A lease is due before the next round.
    sooner: Notify,
}

#[derive(Default)]
struct Leases {
    claims: HashMap<OwnerToken, Lease>,
    /// When the background thread looks next. `None`: it does not go round, for it found no claims.
    next_round: Option<Instant>,
}

#[derive(Clone)]
struct Lease {
    claim: Claim,
    length: Duration,
    timeout: Duration,
    due: Instant,
    until: Instant,
}

/// A claim whose lease is renewed until this is dropped.
pub(super) struct Keeping {
    kept: Arc<Kept>,
    token: OwnerToken,
}

impl LeaseKeeper {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, kept: Arc::default() }
    }

    /// `None` when the lease is a ceiling.
    pub(super) fn keep(&self, claim: &Claim, terms: &Terms) -> Option<Keeping> {
        let renewed_for = terms.renewed_for?;
        let now = Instant::now();
        // At a third of the lease, so that two renewals may fail.
        let due = now + terms.lease / 3;
        let lease =
            Lease { claim: claim.clone(), length: terms.lease, timeout: terms.timeout, due, until: now + renewed_for };
        let mut leases = self.kept.leases.lock();
        leases.claims.insert(claim.token, lease);
        match leases.next_round {
            None => {
                leases.next_round = Some(due);
                background::spawn(go_round(self.store.clone(), Arc::downgrade(&self.kept)));
            }
            Some(next) if due < next => self.kept.sooner.notify_one(),
            Some(_) => {}
        }
        Some(Keeping { kept: self.kept.clone(), token: claim.token })
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.kept.leases.lock().claims.remove(&self.token);
    }
}

/// Renews what is due, as long as there are claims.
async fn go_round(store: Arc<dyn Store>, kept: Weak<Kept>) {
    while let Some(kept) = kept.upgrade() {
        let Some(next) = kept.leases.lock().plan_round() else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = kept.sooner.notified() => continue,
        }
        let due = kept.leases.lock().due(Instant::now());
        join_all(due.iter().map(|lease| renew(&store, &kept, lease))).await;
    }
}

impl Leases {
    fn plan_round(&mut self) -> Option<Instant> {
        self.next_round = self.claims.values().map(|lease| lease.due).min();
        self.next_round
    }

    fn due(&mut self, now: Instant) -> Vec<Lease> {
        self.claims.retain(|_, lease| {
            let ended = now >= lease.until;
            if ended {
                tracing::warn!(record = ?lease.claim.id, "an operation outran limits.max_run: its lease is renewed no more");
            }
            !ended
        });
        self.claims.values().filter(|lease| now >= lease.due).cloned().collect()
    }
}

async fn renew(store: &Arc<dyn Store>, kept: &Kept, lease: &Lease) {
    let call = async { bounded(store.renew(&lease.claim, lease.length), lease.timeout).await };
    // A store that panics must not end the renewals of all others.
    let renewal = AssertUnwindSafe(call).catch_unwind().await;
    let renewal = renewal.unwrap_or_else(|_| Err(StoreError::unavailable("the store panicked")));
    let claims = &mut kept.leases.lock().claims;
    let Some(kept) = claims.get_mut(&lease.claim.token) else { return };
    match renewal {
        Ok(Renewal::Extended) => kept.due = Instant::now() + kept.length / 3,
        Ok(Renewal::Lost) => {
            tracing::warn!(record = ?lease.claim.id, "lease lost while the operation runs: its response will be refused");
            claims.remove(&lease.claim.token);
        }
        Err(error) => {
            tracing::warn!(%error, record = ?lease.claim.id, "a lease could not be renewed yet");
            kept.due = Instant::now() + kept.length / 12;
        }
    }
}
