//! Counts the protected operations of this process: how many may run, and when all have finished.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::observe::metrics;

/// The protected operations of one `Idempotency`.
#[derive(Debug)]
pub(crate) struct InFlight {
    running: AtomicUsize,
    /// `limits.max_in_flight`.
    most: usize,
    closing: AtomicBool,
    /// Whether anybody has ever waited for `idle`.
    awaited: AtomicBool,
    idle: Notify,
}

/// One protected operation, from before its claim until its response is stored.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Arc<InFlight>);

/// Why an operation may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The server is shutting down.
    Closing,
    /// `limits.max_in_flight` operations run.
    Full,
}

impl InFlight {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let (running, closing, awaited) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { running, most, closing, awaited, idle: Notify::new() })
    }

    /// Starts an operation, unless too many run or the server is shutting down.
    pub(crate) fn start(self: &Arc<Self>) -> Result<InFlightGuard, Refused> {
        let before = self.running.fetch_add(1, SeqCst);
        let guard = InFlightGuard::new(self);
        // Counted before `closing` is read: a shutdown that begins after this point waits for the operation.
        if self.closing.load(SeqCst) {
            return Err(Refused::Closing);
        }
        if before >= self.most {
            return Err(Refused::Full);
        }
        Ok(guard)
    }

    /// Counts work that shutdown must wait for but that may not be refused.
    pub(crate) fn track(self: &Arc<Self>) -> InFlightGuard {
        self.running.fetch_add(1, SeqCst);
        InFlightGuard::new(self)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(SeqCst)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }

    /// Refuses new operations from now on.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
    }

    /// Waits until nothing runs, for at most `limit`. Whether nothing runs.
    pub(crate) fn idle(self: &Arc<Self>, limit: Duration) -> impl Future<Output = bool> + Send + 'static {
        let this = self.clone();
        let idle = async move {
            // Set before the count is read: an operation that ends afterwards sees it and notifies.
            this.awaited.store(true, SeqCst);
            loop {
                let notified = this.idle.notified();
                if this.running() == 0 {
                    return;
                }
                notified.await;
            }
        };
        async move { tokio::time::timeout(limit, idle).await.is_ok() }
    }
}

impl InFlightGuard {
    /// A guard for an operation that has been counted.
    fn new(in_flight: &Arc<InFlight>) -> Self {
        metrics::operation_starts();
        Self(in_flight.clone())
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        metrics::operation_ends();
        // `notify_waiters` locks even without waiters, so it is skipped unless somebody waits.
        if self.0.running.fetch_sub(1, SeqCst) == 1 && self.0.awaited.load(SeqCst) {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[actix_web::test]
    async fn after_closing_nothing_starts_and_what_runs_is_waited_for() {
        let in_flight = InFlight::new(2);
        let (first, second) = (in_flight.start().unwrap(), in_flight.start().unwrap());
        assert_eq!(in_flight.start().unwrap_err(), Refused::Full);
        drop(second);
        in_flight.close();
        assert_eq!(in_flight.start().unwrap_err(), Refused::Closing);
        let tracked = in_flight.track();
        assert!(!in_flight.idle(Duration::from_millis(10)).await);
        let mut idle = Box::pin(in_flight.idle(Duration::from_secs(10)));
        assert!((&mut idle).now_or_never().is_none());
        drop((first, tracked));
        assert!(idle.await);
    }
}
