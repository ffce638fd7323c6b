//! Helpers for all tests: server processes, a client that shows every byte, a browser, and Apps in this process.

mod browser;
mod client;
pub(crate) mod in_process;
mod server;
mod together;

use std::path::PathBuf;

pub(crate) use self::{
    browser::Browser,
    client::{Connection, Reply, Request},
    server::{Server, binary, signal},
    together::{PATIENCE, at_once, eventually, fresh_key},
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
        fn saves_steps(&self) -> bool {
            self.0.saves_steps()
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
