//! One thread for work that must go on while workers are busy or gone: lease renewals, write-behinds and deferred
//! releases. It starts when it is first needed, which a memory store never does.

use std::{future::Future, sync::OnceLock, thread};

use tokio::runtime::{Builder, Handle};

/// Runs `future` on the background thread.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    static HANDLE: OnceLock<Option<Handle>> = OnceLock::new();
    if let Some(handle) = HANDLE.get_or_init(start) {
        handle.spawn(future);
    } else {
        tracing::error!("there is no background thread: a claim stays until its lease ends");
    }
}

fn start() -> Option<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| tracing::error!(%error, "can't make a runtime for background work")).ok()?;
    let handle = runtime.handle().clone();
    let thread =
        thread::Builder::new().name("idempotency".into()).spawn(move || runtime.block_on(std::future::pending::<()>()));
    thread.map_err(|error| tracing::error!(%error, "can't start a thread for background work")).ok()?;
    Some(handle)
}
