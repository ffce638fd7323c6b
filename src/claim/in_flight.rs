//! Counts the protected operations of this process: how many may run, how many bytes they may hold, and when all have
//! finished.

use std::{
    collections::HashMap,
    future::Future,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{observe::metrics, settings::Limits};

/// The protected operations of one `Idempotency`.
#[derive(Debug)]
pub(crate) struct InFlight {
    running: AtomicUsize,
    /// `limits.max_in_flight`.
    most: usize,
    /// Bytes of request bodies, and of copies of streamed responses.
    buffered: AtomicUsize,
    /// `limits.max_buffered`.
    most_buffered: usize,
    shares: Shares,
    closing: AtomicBool,
    /// Whether anybody has ever waited for `idle`.
    awaited: AtomicBool,
    idle: Notify,
}

/// How many operations run for each principal. They are counted only while the process runs more than a quarter of what it
/// may, so that the count costs nothing before it matters.
#[derive(Debug)]
struct Shares {
    running: Mutex<HashMap<NonZeroU64, usize>>,
    /// At this number of operations the count begins.
    counted_from: usize,
    most: usize,
}

/// One protected operation, from before its body is read until its response is stored.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    in_flight: Arc<InFlight>,
    /// The principal for whom the operation is counted.
    counted: Option<NonZeroU64>,
    bytes: HeldBytes,
}

/// Bytes that an operation holds, or that are left of it.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    in_flight: Arc<InFlight>,
    bytes: usize,
}

/// Why an operation may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The server is shutting down.
    Closing,
    /// `limits.max_in_flight` operations run, or the principal runs its share of them.
    Full,
}

impl InFlight {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let most = limits.max_in_flight;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part between 0 and 1"
        )]
        let share = ((most as f64 * limits.principal_share).ceil() as usize).max(1);
        let counted_from = if share < most { most / 4 } else { usize::MAX };
        Arc::new(Self {
            running: AtomicUsize::new(0),
            most,
            buffered: AtomicUsize::new(0),
            most_buffered: limits.max_buffered,
            shares: Shares { running: Mutex::default(), counted_from, most: share },
            closing: AtomicBool::new(false),
            awaited: AtomicBool::new(false),
            idle: Notify::new(),
        })
    }

    /// Starts an operation, unless too many run or the server is shutting down. `share`: the principal.
    pub(crate) fn start(self: &Arc<Self>, share: Option<NonZeroU64>) -> Result<InFlightGuard, Refused> {
        let before = self.running.fetch_add(1, SeqCst);
        let mut guard = InFlightGuard::new(self);
        // Counted before `closing` is read: a shutdown that begins after this point waits for the operation.
        if self.closing.load(SeqCst) {
            return Err(Refused::Closing);
        }
        if before >= self.most {
            return Err(Refused::Full);
        }
        if before >= self.shares.counted_from
            && let Some(share) = share
        {
            let mut running = self.shares.running.lock();
            let theirs = running.entry(share).or_insert(0);
            if *theirs >= self.shares.most {
                return Err(Refused::Full);
            }
            *theirs += 1;
            guard.counted = Some(share);
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
        Self { in_flight: in_flight.clone(), counted: None, bytes: HeldBytes::none(in_flight) }
    }

    /// Accounts for more bytes that the operation holds. `false`: the process holds too many already.
    pub(crate) fn hold_bytes(&mut self, bytes: usize) -> bool {
        self.bytes.hold(bytes)
    }

    /// Ends the operation. Its bytes are still held.
    pub(crate) fn end(mut self) -> HeldBytes {
        let none = HeldBytes::none(&self.in_flight);
        std::mem::replace(&mut self.bytes, none)
    }
}

impl HeldBytes {
    pub(crate) fn none(in_flight: &Arc<InFlight>) -> Self {
        Self { in_flight: in_flight.clone(), bytes: 0 }
    }

    /// Accounts for more bytes. `false`: the process holds too many already.
    pub(crate) fn hold(&mut self, bytes: usize) -> bool {
        let before = self.in_flight.buffered.fetch_add(bytes, SeqCst);
        self.bytes += bytes;
        before.saturating_add(bytes) <= self.in_flight.most_buffered
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.in_flight.buffered.fetch_sub(self.bytes, SeqCst);
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        metrics::operation_ends();
        let in_flight = &self.in_flight;
        if let Some(share) = self.counted {
            let mut running = in_flight.shares.running.lock();
            match running.get_mut(&share) {
                Some(theirs) if *theirs > 1 => *theirs -= 1,
                _ => drop(running.remove(&share)),
            }
        }
        // `notify_waiters` locks even without waiters, so it is skipped unless somebody waits.
        if in_flight.running.fetch_sub(1, SeqCst) == 1 && in_flight.awaited.load(SeqCst) {
            in_flight.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    use crate::settings::Settings;

    fn limits(most: usize) -> Limits {
        Limits { max_in_flight: most, max_buffered: 100, ..Settings::default().limits }
    }

    #[test]
    fn one_principal_gets_its_share_and_no_more() {
        let in_flight = InFlight::new(&limits(20));
        let [alice, bob] = [1, 2].map(NonZeroU64::new);
        let (mut of_alice, mut of_bob) = (Vec::new(), Vec::new());
        while let Ok(guard) = in_flight.start(alice) {
            of_alice.push(guard);
        }
        // A quarter of the bound is not counted.
        assert_eq!(of_alice.len(), 15);
        of_bob.extend((0..5).map(|_| in_flight.start(bob).unwrap()));
        assert_eq!(in_flight.start(bob).unwrap_err(), Refused::Full);
        drop((of_alice, of_bob));
        assert!(in_flight.shares.running.lock().is_empty());
        assert!(in_flight.start(alice).is_ok());
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let in_flight = InFlight::new(&limits(2));
        let (mut first, mut second) = (in_flight.start(None).unwrap(), in_flight.start(None).unwrap());
        assert!(first.hold_bytes(60) && second.hold_bytes(40) && !second.hold_bytes(1));
        let left = second.end();
        assert_eq!(in_flight.running(), 1);
        assert!(!first.hold_bytes(1));
        drop(left);
        assert!(first.hold_bytes(39));
        drop(first);
        assert_eq!(in_flight.buffered.load(SeqCst), 0);
    }

    #[actix_web::test]
    async fn after_closing_nothing_starts_and_what_runs_is_waited_for() {
        let in_flight = InFlight::new(&limits(2));
        let (first, second) = (in_flight.start(None).unwrap(), in_flight.start(None).unwrap());
        assert_eq!(in_flight.start(None).unwrap_err(), Refused::Full);
        drop(second);
        in_flight.close();
        assert_eq!(in_flight.start(None).unwrap_err(), Refused::Closing);
        let tracked = in_flight.track();
        assert!(!in_flight.idle(Duration::from_millis(10)).await);
        let mut idle = Box::pin(in_flight.idle(Duration::from_secs(10)));
        assert!((&mut idle).now_or_never().is_none());
        drop((first, tracked));
        assert!(idle.await);
    }
}
