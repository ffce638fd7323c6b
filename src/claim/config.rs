//! The settings that govern claims.

use std::time::Duration;

use crate::{
    settings::{LockSettings, Settings},
    store::{OnUnknown, Store},
};

/// How claims of one instance are made and held: an excerpt of its settings.
#[derive(Clone, Debug)]
pub(super) struct ClaimConfig {
    /// How long a claim lasts in the store without renewal.
    pub(super) lease: Duration,
    /// For how long an owner that was only stalled may come back, once a request has found its lease over.
    pub(super) grace: Duration,
    /// For how long the lease is renewed. `None`: the lease is a hard ceiling (`lock.ttl`).
    pub(super) renewed_for: Option<Duration>,
    /// `lock.enable`.
    pub(super) exclusive: bool,
    /// How long a duplicate waits.
    pub(super) wait: Duration,
    pub(super) max_waiters: usize,
    pub(super) on_unknown: OnUnknown,
    pub(super) ttl: Duration,
    pub(super) timeout: Duration,
    pub(super) retry_for: Duration,
}

impl ClaimConfig {
    /// `settings.storage` must be the settings of the instance's cache.
    pub(super) fn new(settings: &Settings, store: &dyn Store) -> Self {
        let LockSettings { ttl, lease, enable, timeout: wait, max_waiters, .. } = settings.lock;
        let (ttl, lease) = (ttl.map(at_most_a_century), at_most_a_century(lease));
        let max_run = at_most_a_century(settings.limits.max_run);
        let timeout = at_most_a_century(settings.storage.timeout);
        let (lease, grace, renewed_for) = match ttl {
            // A hard ceiling stays one.
            Some(ceiling) => (ceiling, Duration::ZERO, None),
            // A renewal that failed is tried again after `timeout + lease / 12`.
            None if store.needs_renewal() => (lease, (lease / 3).max((timeout + lease / 12) * 2), Some(max_run)),
            // Without renewal the claim lasts as long as renewals would have kept it, and the store knows by itself
            // when its owner has died.
            None => (max_run, Duration::ZERO, Some(max_run)),
        };
        Self {
            lease,
            grace,
            renewed_for,
            exclusive: enable,
            // An observed request is never delayed.
            wait: if settings.is_observed() { Duration::ZERO } else { at_most_a_century(wait) },
            max_waiters,
            on_unknown: settings.on_unknown,
            ttl: at_most_a_century(settings.storage.ttl),
            timeout,
            retry_for: at_most_a_century(settings.storage.retry_for),
        }
    }
}

/// Caps a duration at 100 years, so that adding it to the time of day can't overflow.
pub(crate) fn at_most_a_century(duration: Duration) -> Duration {
    duration.min(Duration::from_secs(100 * 366 * 24 * 60 * 60))
}
