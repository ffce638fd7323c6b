//! Helpers for all tests: server processes, a client that shows every byte, a browser, and Apps in this process.

mod browser;
mod client;
pub(crate) mod in_process;
mod server;

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

pub(crate) use self::{
    browser::Browser,
    client::{Connection, Reply, Request},
    server::{Server, binary, signal},
};

/// For an `impl Store` of a type that wraps another store as its field `.0`: passes `renew`, `inspect`, `forget` and
/// `list` on to that store.
macro_rules! delegate_to_inner_store {
    () => {
        fn renew<'a>(
            &'a self,
            claim: &'a actix_idempotency::store::Claim,
            lease: std::time::Duration,
        ) -> actix_idempotency::store::StoreFuture<'a, actix_idempotency::store::Renewal> {
            self.0.renew(claim, lease)
        }
        fn restore<'a>(
            &'a self,
            claim: &'a actix_idempotency::store::Claim,
            restore: &'a actix_idempotency::store::Restore,
        ) -> actix_idempotency::store::StoreFuture<'a, actix_idempotency::store::Renewal> {
            self.0.restore(claim, restore)
        }
        fn save_step<'a>(
            &'a self,
            claim: &'a actix_idempotency::store::Claim,
            step: &'a actix_idempotency::store::Step,
        ) -> actix_idempotency::store::StoreFuture<'a, actix_idempotency::store::Saved> {
            self.0.save_step(claim, step)
        }
        fn inspect<'a>(
            &'a self,
            id: &'a actix_idempotency::key::RecordId,
        ) -> actix_idempotency::store::StoreFuture<'a, Option<actix_idempotency::store::Inspection>> {
            self.0.inspect(id)
        }
        fn forget<'a>(
            &'a self,
            id: &'a actix_idempotency::key::RecordId,
        ) -> actix_idempotency::store::StoreFuture<'a, actix_idempotency::store::Forgotten> {
            self.0.forget(id)
        }
        fn list(
            &self,
            after: Option<actix_idempotency::key::RecordId>,
            limit: usize,
        ) -> actix_idempotency::store::StoreFuture<'_, Vec<actix_idempotency::store::Inspection>> {
            self.0.list(after, limit)
        }
    };
}
pub(crate) use delegate_to_inner_store;

/// How long a test waits for anything before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Repeats `condition` until it is `Ok`; fails the test after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T: Debug>(what: &str, mut condition: impl FnMut() -> Result<(), T>) {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(()) => return,
            Err(state) => assert!(start.elapsed() < PATIENCE, "{what}: still {state:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A key that no other test uses.
pub(crate) fn fresh_key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("key-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A file for `RUN_LOG`. Any number of servers may append to it.
pub(crate) struct RunLog(PathBuf);

impl RunLog {
    pub(crate) fn new() -> Self {
        Self(std::env::temp_dir().join(format!("runs-{}", fresh_key())))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    /// How many lines begin with `what`: `start` or `end`.
    pub(crate) fn count(&self, what: &str) -> usize {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter(|line| line.split(' ').next() == Some(what)).count()
    }

    pub(crate) fn wait_for(&self, what: &str, n: usize) {
        eventually("the log", || match self.count(what) {
            count if count == n => Ok(()),
            count => Err(count),
        });
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs `f` on `n` threads at the same time, and returns the result of each.
pub(crate) fn at_once<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(n);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|i| {
                let (barrier, f) = (&barrier, &f);
                scope.spawn(move || {
                    barrier.wait();
                    f(i)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}
