//! Tasks that go on without their caller, on the same worker.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

use futures_util::future::LocalBoxFuture;

/// Spawns a future on this thread.
///
/// # Errors
/// The future itself, where there is no runtime, or none that takes futures of one thread.
pub(super) fn spawn(future: LocalBoxFuture<'static, ()>) -> Result<(), LocalBoxFuture<'static, ()>> {
    // The future is kept here until a task has it, so that it is not dropped inside of tokio's panic.
    let slot = Rc::new(RefCell::new(Some(future)));
    let taken = slot.clone();
    let task = async move {
        let future = taken.borrow_mut().take();
        if let Some(future) = future {
            future.await;
        }
    };
    let is_spawned = tokio::runtime::Handle::try_current().is_ok()
        && catch_unwind(AssertUnwindSafe(|| drop(tokio::task::spawn_local(task)))).is_ok();
    match slot.take() {
        Some(future) if !is_spawned => Err(future),
        kept => {
            *slot.borrow_mut() = kept;
            Ok(())
        }
    }
}

/// Drops a value of the application, whose drop may panic: a panic must not leave another destructor.
pub(super) fn drop_caught<T>(value: T, what: &'static str) {
    if catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
        tracing::error!(what, "a value of the application panicked when it was dropped");
    }
}
