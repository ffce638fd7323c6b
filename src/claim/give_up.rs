//! Claims that nobody waits for: freed on the background thread.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::background;
use super::{
    Claims,
    store_handle::{Cache, retry},
};
use crate::{
    observe::metrics,
    store::{BeginRequest, Claim, Fate},
};

/// Claims that wait to be freed behind, at most. An outage must not be followed by a stampede.
const MAX_RELEASES: usize = 1024;

impl Claims {
    /// Frees a claim on the background thread, again and again until the lease would have ended.
    pub(super) fn release_behind(&self, claim: Claim, fate: Fate) {
        let Some(freeing) = Freeing::enter(&self.cache, &claim) else { return };
        let (timeout, limit) = (self.terms.timeout, self.terms.lease.min(self.terms.retry_for));
        // Shutdown waits for it: nobody else frees this claim.
        let running = self.cache.operations.track();
        background::spawn(async move {
            let release = || freeing.cache.call("release", freeing.cache.store.release(&claim, fate)).within(timeout);
            let freed = retry(limit, release).await;
            if let Err(error) = freed {
                tracing::warn!(error = %error, record = ?claim.id, "a claim could not be freed; it ends with its lease");
            }
            drop(running);
        });
    }

    /// Frees what a question may have claimed without its caller learning of it. The question itself may reach the store
    /// after the release did; so it is asked for a few times more.
    fn give_up_behind(&self, request: &BeginRequest) {
        let claim = request.gives_up();
        let Some(freeing) = Freeing::enter(&self.cache, &claim) else { return };
        let (timeout, lease) = (self.terms.timeout, self.terms.lease);
        background::spawn(async move {
            let start = Instant::now();
            for pause in [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4)] {
                tokio::time::sleep(pause).await;
                let left = lease.saturating_sub(start.elapsed());
                let release =
                    || freeing.cache.call("release", freeing.cache.store.release(&claim, Fate::Free)).within(timeout);
                let freed = retry(left, release).await;
                if !matches!(freed, Ok(false)) {
                    return;
                }
            }
        });
    }
}

/// A question that is under way. Whoever leaves before the answer may own a claim without knowing.
pub(super) struct Underway<'a> {
    pub(super) claims: &'a Claims,
    pub(super) request: &'a BeginRequest,
    pub(super) answered: bool,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.claims.give_up_behind(self.request);
        }
    }
}

/// The right to free a claim behind.
struct Freeing {
    cache: Arc<Cache>,
    _counted: metrics::Behind,
}

impl Freeing {
    fn enter(cache: &Arc<Cache>, claim: &Claim) -> Option<Self> {
        let freeing = Self { cache: cache.clone(), _counted: metrics::Behind::starts() };
        if cache.releases.fetch_add(1, Relaxed) < MAX_RELEASES {
            return Some(freeing);
        }
        tracing::warn!(record = ?claim.id, "too many claims wait to be freed; this one ends with its lease");
        None
    }
}

impl Drop for Freeing {
    fn drop(&mut self) {
        self.cache.releases.fetch_sub(1, Relaxed);
    }
}

impl BeginRequest {
    /// The claim that this request may have been granted without its caller learning of it.
    fn gives_up(&self) -> Claim {
        Claim { id: self.id, fingerprint: self.fingerprint, token: self.token, attempt: 0, fence: 0, taken_over: false }
    }
}
