//! Threads for work that must go on while workers are busy or gone: lease renewals, writes behind, deferred releases, and
//! a ledger's own calls.
//!
//! Each cache and each ledger has a thread of its own, so that one whose calls block stalls no other. It starts when it is
//! first needed, which a memory store never does, and ends with its cache.

use std::{future::Future, sync::OnceLock, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The thread of one cache or ledger.
#[derive(Default)]
pub(crate) struct Background(OnceLock<Option<Running>>);

struct Running {
    handle: Handle,
    /// The thread ends when this is dropped.
    _end: oneshot::Sender<()>,
}

impl Background {
    /// Runs `future` on the thread.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(running) = self.0.get_or_init(start) {
            running.handle.spawn(future);
        } else {
            tracing::error!("there is no background thread: a claim stays until its lease ends");
        }
    }
}

fn start() -> Option<Running> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| tracing::error!(%error, "can't make a runtime for background work")).ok()?;
    let handle = runtime.handle().clone();
    let (end, ended) = oneshot::channel::<()>();
    let run = move || drop(runtime.block_on(ended));
    let thread = thread::Builder::new().name("idempotency".into()).spawn(run);
    thread.map_err(|error| tracing::error!(%error, "can't start a thread for background work")).ok()?;
    Some(Running { handle, _end: end })
}
