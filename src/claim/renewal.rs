//! Renews the leases of live claims. On the background thread, since a blocking handler stalls its worker.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::background;
use super::{config::Terms, local::End, store_handle::Call};
use crate::{
    observe::metrics,
    store::{Claim, OwnerToken, Renewal, Store, StoreError},
};

pub(super) struct LeaseKeeper {
    store: Arc<dyn Store>,
    kept: Arc<Kept>,
}

struct Kept {
    /// The name of the cache.
    cache: String,
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
    end: End,
}

/// A claim whose lease is renewed until this is dropped.
pub(super) struct Keeping {
    kept: Arc<Kept>,
    token: OwnerToken,
}

impl LeaseKeeper {
    pub(super) fn new(cache: &str, store: Arc<dyn Store>) -> Self {
        let kept = Kept { cache: cache.to_owned(), leases: Mutex::default(), sooner: Notify::new() };
        Self { store, kept: Arc::new(kept) }
    }

    /// `None` when the lease is a ceiling.
    pub(super) fn keep(&self, claim: &Claim, terms: &Terms, end: End) -> Option<Keeping> {
        let renewed_for = terms.renewed_for?;
        let now = Instant::now();
        // At a third of the lease, so that two renewals may fail.
        let due = now + terms.lease / 3;
        let (claim, length, timeout, until) = (claim.clone(), terms.lease, terms.timeout, now + renewed_for);
        let token = claim.token;
        let lease = Lease { claim, length, timeout, due, until, end };
        let mut leases = self.kept.leases.lock();
        leases.claims.insert(token, lease);
        match leases.next_round {
            None => {
                leases.next_round = Some(due);
                background::spawn(go_round(self.store.clone(), Arc::downgrade(&self.kept)));
            }
            Some(next) if due < next => self.kept.sooner.notify_one(),
            Some(_) => {}
        }
        Some(Keeping { kept: self.kept.clone(), token })
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
        // Each by itself: one slow answer must not make others late.
        for lease in kept.leases.lock().take_due(Instant::now()) {
            tokio::spawn(renew(store.clone(), kept.clone(), lease));
        }
    }
}

impl Leases {
    fn plan_round(&mut self) -> Option<Instant> {
        self.next_round = self.claims.values().map(|lease| lease.due).min();
        self.next_round
    }

    /// What is due. It is due again soon, should its renewal not be heard of.
    fn take_due(&mut self, now: Instant) -> Vec<Lease> {
        self.claims.retain(|_, lease| {
            let ended = now >= lease.until;
            if ended {
                tracing::warn!(record = ?lease.claim.id, "an operation outran limits.max_run: its lease is renewed no more");
            }
            !ended
        });
        let due = self.claims.values_mut().filter(|lease| now >= lease.due);
        due.map(|lease| {
            lease.due = now + lease.timeout + lease.length / 12;
            lease.clone()
        })
        .collect()
    }
}

async fn renew(store: Arc<dyn Store>, kept: Arc<Kept>, lease: Lease) {
    let call =
        async { Call::new(&kept.cache, "renew", store.renew(&lease.claim, lease.length)).within(lease.timeout).await };
    // A store that panics must not end the renewals of all others.
    let renewal = AssertUnwindSafe(call).catch_unwind().await;
    let renewal = renewal.unwrap_or_else(|_| Err(StoreError::unavailable("the store panicked")));
    let pause = match renewal {
        Ok(Renewal::Extended) => lease.length / 3,
        Ok(Renewal::Lost) => {
            tracing::warn!(record = ?lease.claim.id, "lease lost while the operation runs: its response will be refused");
            metrics::lease_lost();
            lease.end.lose();
            kept.leases.lock().claims.remove(&lease.claim.token);
            return;
        }
        // Nobody else owns it. The owner's completion restores the record.
        Ok(Renewal::Gone) => {
            tracing::warn!(record = ?lease.claim.id, "the store lost the record of a running operation");
            lease.length / 3
        }
        Err(error) => {
            tracing::warn!(%error, record = ?lease.claim.id, "a lease could not be renewed yet");
            lease.length / 12
        }
    };
    let mut leases = kept.leases.lock();
    let due = Instant::now() + pause;
    if let Some(renewed) = leases.claims.get_mut(&lease.claim.token) {
        renewed.due = due;
        // The next round was planned without knowing of this answer.
        if leases.next_round.is_some_and(|next| due < next) {
            kept.sooner.notify_one();
        }
    }
}
