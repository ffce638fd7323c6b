//! On what terms claims are held.

use std::time::Duration;

use crate::{
    settings::{LockSettings, OnUnknown, Settings},
    store::Store,
};

/// The terms on which a claim is held; an excerpt of the settings.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// How long a claim lasts in the store.
    pub(super) lease: Duration,
    /// For how long the lease is renewed; `None`: it is a hard ceiling.
    pub(super) renewed_for: Option<Duration>,
    /// `lock.enable`.
    pub(super) exclusive: bool,
    pub(super) wait: Duration,
    pub(super) max_waiters: usize,
    pub(super) on_unknown: OnUnknown,
    pub(super) ttl: Duration,
    pub(super) timeout: Duration,
    pub(super) retry_for: Duration,
}

impl Terms {
    /// `settings.storage` must be those of the cache.
    pub(crate) fn new(settings: &Settings, store: &dyn Store) -> Self {
        let LockSettings { ttl, lease, enable, timeout, max_waiters, .. } = settings.lock;
        let (ttl, lease, timeout) = (ttl.map(century), century(lease), century(timeout));
        let max_run = century(settings.limits.max_run);
        let (lease, renewed_for) = match ttl {
            Some(ceiling) => (ceiling, None),
            None if store.leases() => (lease, Some(max_run)),
            // Without renewal the claim lasts as long as renewals would have kept it.
            None => (max_run, Some(max_run)),
        };
        Self {
            lease,
            renewed_for,
            exclusive: enable,
            // What is only observed is not delayed.
            wait: if settings.is_observed() { Duration::ZERO } else { timeout },
            max_waiters,
            on_unknown: settings.on_unknown,
            ttl: century(settings.storage.ttl),
            timeout: century(settings.storage.timeout),
            retry_for: century(settings.storage.retry_for),
        }
    }
}

/// What is for ever in a setting is a century here, so that it can be added to the time of day.
pub(crate) fn century(duration: Duration) -> Duration {
    duration.min(Duration::from_secs(100 * 366 * 24 * 60 * 60))
}
