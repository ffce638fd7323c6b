//! Renews the leases of live claims: on the background thread, because a blocking handler stalls its worker.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{background, call::StoreCall, config::ClaimConfig, local::ClaimEnd};
use crate::{
    observe::metrics,
    store::{Claim, OwnerToken, Renewal, Store, StoreError},
};

/// The renewals of the claims that this process holds in one store.
pub(super) struct Renewals {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

struct Shared {
    /// The name of the cache.
    cache: String,
    leases: Mutex<Leases>,
    /// Notified when a lease is due before the next round.
    sooner: Notify,
}

#[derive(Default)]
struct Leases {
    by_token: HashMap<OwnerToken, Lease>,
    /// When the background thread looks next. `None`: it has found no leases and has stopped.
    next_round: Option<Instant>,
}

#[derive(Clone)]
struct Lease {
    claim: Claim,
    length: Duration,
    timeout: Duration,
    due: Instant,
    until: Instant,
    end: ClaimEnd,
}

/// The lease of a claim is renewed until this guard is dropped.
pub(super) struct RenewalGuard {
    shared: Arc<Shared>,
    token: OwnerToken,
}

impl Renewals {
    pub(super) fn new(cache: &str, store: Arc<dyn Store>) -> Self {
        let shared = Shared { cache: cache.to_owned(), leases: Mutex::default(), sooner: Notify::new() };
        Self { store, shared: Arc::new(shared) }
    }

    /// Renews the lease of `claim` from now on. `None` when nothing has to be renewed: the store keeps claims alive by
    /// itself, or the lease is a hard ceiling.
    pub(super) fn start(&self, claim: &Claim, config: &ClaimConfig, end: ClaimEnd) -> Option<RenewalGuard> {
        let renewed_for = config.renewed_for.filter(|_| self.store.needs_renewal())?;
        let now = Instant::now();
        // After a third of the lease, so that two renewals may fail.
        let due = now + config.lease / 3;
        let (claim, length, timeout, until) = (claim.clone(), config.lease, config.timeout, now + renewed_for);
        let token = claim.token;
        let lease = Lease { claim, length, timeout, due, until, end };
        let mut leases = self.shared.leases.lock();
        leases.by_token.insert(token, lease);
        match leases.next_round {
            None => {
                leases.next_round = Some(due);
                background::spawn(go_round(self.store.clone(), Arc::downgrade(&self.shared)));
            }
            Some(next) if due < next => self.shared.sooner.notify_one(),
            Some(_) => {}
        }
        Some(RenewalGuard { shared: self.shared.clone(), token })
    }
}

impl Drop for RenewalGuard {
    fn drop(&mut self) {
        self.shared.leases.lock().by_token.remove(&self.token);
    }
}

/// Renews the leases that are due, as long as there are any.
async fn go_round(store: Arc<dyn Store>, shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let Some(next) = shared.leases.lock().plan_round() else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = shared.sooner.notified() => continue,
        }
        // Each renewal is a task: one slow answer must not delay the others.
        for lease in shared.leases.lock().take_due(Instant::now()) {
            tokio::spawn(renew(store.clone(), shared.clone(), lease));
        }
    }
}

impl Leases {
    fn plan_round(&mut self) -> Option<Instant> {
        self.next_round = self.by_token.values().map(|lease| lease.due).min();
        self.next_round
    }

    /// The leases that are due. Each becomes due again soon, in case its renewal is never answered.
    fn take_due(&mut self, now: Instant) -> Vec<Lease> {
        self.by_token.retain(|_, lease| {
            let ended = now >= lease.until;
            if ended {
                tracing::warn!(record = ?lease.claim.id, "an operation outran limits.max_run: its lease is not renewed any more");
            }
            !ended
        });
        let due = self.by_token.values_mut().filter(|lease| now >= lease.due);
        due.map(|lease| {
            lease.due = now + lease.timeout + lease.length / 12;
            lease.clone()
        })
        .collect()
    }
}

async fn renew(store: Arc<dyn Store>, shared: Arc<Shared>, lease: Lease) {
    let call = async {
        StoreCall::new(&shared.cache, "renew", store.renew(&lease.claim, lease.length)).within(lease.timeout).await
    };
    // A store that panics must not end the renewals of all other claims.
    let renewal = AssertUnwindSafe(call).catch_unwind().await;
    let renewal = renewal.unwrap_or_else(|_| Err(StoreError::unavailable("the store panicked")));
    let pause = match renewal {
        Ok(Renewal::Extended) => lease.length / 3,
        Ok(Renewal::Lost) => {
            tracing::warn!(record = ?lease.claim.id, "a lease was lost while the operation runs: its response will be refused");
            metrics::lease_lost();
            lease.end.lose();
            shared.leases.lock().by_token.remove(&lease.claim.token);
            return;
        }
        // Nobody else owns the record. The owner's completion restores it.
        Ok(Renewal::Gone) => {
            tracing::warn!(record = ?lease.claim.id, "the store lost the record of a running operation");
            lease.length / 3
        }
        Err(error) => {
            tracing::warn!(%error, record = ?lease.claim.id, "a lease could not be renewed; it is tried again");
            lease.length / 12
        }
    };
    let mut leases = shared.leases.lock();
    let due = Instant::now() + pause;
    if let Some(renewed) = leases.by_token.get_mut(&lease.claim.token) {
        renewed.due = due;
        // The next round was planned before this answer.
        if leases.next_round.is_some_and(|next| due < next) {
            shared.sooner.notify_one();
        }
    }
}
