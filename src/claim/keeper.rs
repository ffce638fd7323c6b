//! Renews the leases of live claims. On the background thread, since a blocking handler stalls its worker.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Terms, bounded};
use crate::{Claim, OwnerToken, Renewal, Store, background};

pub(super) struct LeaseKeeper {
    store: Arc<dyn Store>,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept(Mutex<Leases>);

#[derive(Default)]
struct Leases {
    claims: HashMap<OwnerToken, Lease>,
    /// Whether the background thread goes round. It stops when it finds no claims.
    rounds: bool,
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

    /// `None` when this claim needs no renewal.
    pub(super) fn keep(&self, claim: &Claim, terms: &Terms) -> Option<Keeping> {
        let renewed_for = terms.renewed_for.filter(|_| self.store.leases())?;
        let now = Instant::now();
        let lease = Lease {
            claim: claim.clone(),
            length: terms.lease,
            timeout: terms.timeout,
            due: now + terms.lease / 3,
            until: now + renewed_for,
        };
        let mut leases = self.kept.0.lock();
        leases.claims.insert(claim.token, lease);
        let going = std::mem::replace(&mut leases.rounds, true);
        drop(leases);
        if !going {
            background::spawn(renew(self.store.clone(), Arc::downgrade(&self.kept), terms.lease / 12));
        }
        Some(Keeping { kept: self.kept.clone(), token: claim.token })
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.kept.0.lock().claims.remove(&self.token);
    }
}

async fn renew(store: Arc<dyn Store>, kept: Weak<Kept>, tick: Duration) {
    loop {
        tokio::time::sleep(tick.max(Duration::from_millis(1))).await;
        let Some(kept) = kept.upgrade() else { return };
        let now = Instant::now();
        let due: Vec<Lease> = {
            let mut leases = kept.0.lock();
            if leases.claims.is_empty() {
                leases.rounds = false;
                return;
            }
            leases.claims.retain(|_, lease| {
                if now >= lease.until {
                    tracing::warn!(record = ?lease.claim.id, "an operation outran limits.max_run: its lease is not renewed any more");
                }
                now < lease.until
            });
            leases.claims.values().filter(|lease| now >= lease.due).cloned().collect()
        };
        join_all(due.iter().map(|lease| renew_one(&store, &kept, lease))).await;
    }
}

async fn renew_one(store: &Arc<dyn Store>, kept: &Kept, lease: &Lease) {
    let renewal = bounded(store.renew(&lease.claim, lease.length), lease.timeout).await;
    let claims = &mut kept.0.lock().claims;
    match renewal {
        Ok(Renewal::Extended) => {
            if let Some(kept) = claims.get_mut(&lease.claim.token) {
                kept.due = Instant::now() + kept.length / 3;
            }
        }
        Ok(Renewal::Lost) => {
            if claims.remove(&lease.claim.token).is_some() {
                tracing::warn!(record = ?lease.claim.id, "lease lost while the operation runs: its response will be refused");
            }
        }
        // Due still: the next round tries again.
        Err(error) => tracing::warn!(%error, record = ?lease.claim.id, "a lease could not be renewed yet"),
    }
}
