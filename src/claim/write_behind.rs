//! Writes that no request waits for, on the background thread: responses that the store could not take in time, and the
//! release of claims whose owner has left.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ask::Claims,
    call::retry,
    hold::{HeldClaim, Written},
    renewal::Restoring,
    store_handle::StoreHandle,
};
use crate::{
    observe::metrics,
    record::Record,
    store::{BeginRequest, Claim, ReleaseAs},
};

/// How many claims may wait for their release. An outage must not be followed by a stampede.
const MAX_RELEASES: usize = 1024;

/// How long one write may take that nobody waits for: a large record over a slow link has its time.
const PATIENT: Duration = Duration::from_secs(10);

impl HeldClaim {
    pub(super) fn complete_in_background(self: Box<Self>, record: Record) {
        let handle = self.claims.handle.clone();
        let running = handle.in_flight.track();
        handle.background.spawn(async move {
            drop(self.complete(record).await);
            drop(running);
        });
    }

    /// Retries the write for `storage.retry_for`. The lease is renewed meanwhile.
    pub(super) fn write_behind(&mut self, claim: Claim, record: Record) {
        let (claims, upkeep, ttl) = (self.claims.clone(), self.upkeep.take(), self.ttl);
        let running = claims.handle.in_flight.track();
        let counted = metrics::WriteBehind::starts();
        self.claims.handle.background.spawn(async move {
            let patient = claims.config.timeout.max(PATIENT);
            let write = || claims.call_complete(&claim, &record, ttl).within(patient);
            match retry(&claims.handle.health, claims.config.retry_for, write).await {
                Ok(completion) => drop(Written::of(&claim, completion)),
                Err(error) => {
                    metrics::write_lost();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        record = ?claim.id,
                        "the response of a finished operation could not be stored: its retry may run again after the lease"
                    );
                }
            }
            drop((upkeep, running, counted));
        });
    }
}

impl Claims {
    /// Releases a claim, retried until its lease would have ended.
    pub(super) fn release_in_background(&self, claim: Claim, release_as: ReleaseAs, restoring: Option<Arc<Restoring>>) {
        let Some(permit) = ReleasePermit::take(&self.handle, &claim) else { return };
        let (timeout, limit) = (self.config.timeout, self.config.lease.min(self.config.retry_for));
        // Shutdown waits for the release: nobody else frees this claim.
        let running = self.handle.in_flight.track();
        self.handle.background.spawn(async move {
            if let Some(restoring) = restoring {
                restoring.ended().await;
            }
            let release =
                || permit.handle.call("release", permit.handle.store.release(&claim, release_as)).within(timeout);
            if let Err(error) = retry(&permit.handle.health, limit, release).await {
                tracing::warn!(error = %error, record = ?claim.id, "a claim could not be released; it ends with its lease");
            }
            drop(running);
        });
    }

    /// Releases the claim that `begin` may have been granted without its caller learning of it. The `begin` itself may
    /// reach the store after the release, so the release is repeated a few times.
    fn give_up(&self, begin: &BeginRequest) {
        // Stores find the claim by its token; attempt and fence don't matter.
        let claim = Claim::new(begin, 0, 0);
        let Some(permit) = ReleasePermit::take(&self.handle, &claim) else { return };
        let (timeout, lease) = (self.config.timeout, self.config.lease);
        self.handle.background.spawn(async move {
            let start = Instant::now();
            for pause in [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4)] {
                tokio::time::sleep(pause).await;
                let left = lease.saturating_sub(start.elapsed());
                let release = || {
                    permit.handle.call("release", permit.handle.store.release(&claim, ReleaseAs::Free)).within(timeout)
                };
                if !matches!(retry(&permit.handle.health, left, release).await, Ok(false)) {
                    return;
                }
            }
        });
    }
}

/// Watches a `begin` under way. A caller that leaves before the answer may own a claim without knowing it.
pub(super) struct BeginGuard<'a> {
    pub(super) claims: &'a Claims,
    pub(super) begin: &'a BeginRequest,
    pub(super) answered: bool,
}

impl Drop for BeginGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.claims.give_up(self.begin);
        }
    }
}

/// The permission to release one claim in the background.
struct ReleasePermit {
    handle: Arc<StoreHandle>,
    _counted: metrics::WriteBehind,
}

impl ReleasePermit {
    fn take(handle: &Arc<StoreHandle>, claim: &Claim) -> Option<Self> {
        let permit = Self { handle: handle.clone(), _counted: metrics::WriteBehind::starts() };
        if handle.releases.fetch_add(1, Relaxed) < MAX_RELEASES {
            return Some(permit);
        }
        tracing::warn!(record = ?claim.id, "too many claims wait for their release; this one ends with its lease");
        None
    }
}

impl Drop for ReleasePermit {
    fn drop(&mut self) {
        self.handle.releases.fetch_sub(1, Relaxed);
    }
}
