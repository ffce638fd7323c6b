//! The protected operations of this process: how many may run, and when all have finished.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{client::problem::Problem, observe::metrics};

#[derive(Debug)]
pub(crate) struct Operations {
    running: AtomicUsize,
    most: usize,
    closing: AtomicBool,
    /// Whether anybody ever waited for `idle`.
    awaited: AtomicBool,
    idle: Notify,
}

/// One protected operation, from before its claim until its response is stored.
#[derive(Debug)]
pub(crate) struct Running(Arc<Operations>);

impl Operations {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let (running, closing, awaited) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { running, most, closing, awaited, idle: Notify::new() })
    }

    /// Starts one, unless too many run or the server is shutting down.
    pub(crate) fn start(self: &Arc<Self>) -> Result<Running, Problem> {
        let before = self.running.fetch_add(1, SeqCst);
        let running = Running::new(self);
        // Counted first and asked second: whoever closes afterwards waits for this one.
        if self.closing.load(SeqCst) {
            return Err(Problem::ShuttingDown);
        }
        if before >= self.most {
            return Err(Problem::Overloaded);
        }
        Ok(running)
    }

    /// Counts work that must be waited for but not refused.
    pub(crate) fn track(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, SeqCst);
        Running::new(self)
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

    /// Waits until nothing runs, at most `limit`. Whether that came true.
    pub(crate) fn idle(self: &Arc<Self>, limit: Duration) -> impl Future<Output = bool> + Send + 'static {
        let this = self.clone();
        let idle = async move {
            // First said and then looked: whoever ends afterwards sees it.
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

impl Running {
    /// Of one that has been counted.
    fn new(operations: &Arc<Operations>) -> Self {
        metrics::operation_starts();
        Self(operations.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::operation_ends();
        // To wake nobody takes a lock, for which the workers would wait.
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
        let operations = Operations::new(2);
        let (first, second) = (operations.start().unwrap(), operations.start().unwrap());
        assert_eq!(operations.start().unwrap_err(), Problem::Overloaded);
        drop(second);
        operations.close();
        assert_eq!(operations.start().unwrap_err(), Problem::ShuttingDown);
        let behind = operations.track();
        assert!(!operations.idle(Duration::from_millis(10)).await);
        let mut idle = Box::pin(operations.idle(Duration::from_secs(10)));
        assert!((&mut idle).now_or_never().is_none());
        drop((first, behind));
        assert!(idle.await);
    }
}
