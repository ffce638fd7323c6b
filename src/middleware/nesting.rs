//! Whether an instance may have others inside. The answer is never no where there is one: what is inside of a wrap becomes
//! a service after the wrap's value was made, and before the wrap's own service is made.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
    thread::{self, ThreadId},
};

thread_local! {
    /// Services of instances that are complete on this thread: of operators' scopes, and of others.
    static MADE: Cell<Made> = const { Cell::new(Made { others: 0, operators: 0 }) };
}

/// Policy guards that are alive in the process. Nothing tells into which App a guard went.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Copy)]
struct Made {
    others: u64,
    operators: u64,
}

/// The instances and guards that may be inside of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inner {
    None,
    /// Only the routes of an operators' scope, whose paths are known.
    Operators,
    Any,
}

/// When the value of a wrap was made, or cloned.
pub(super) struct Born {
    thread: ThreadId,
    made: Made,
}

impl Born {
    pub(super) fn now() -> Self {
        Self { thread: thread::current().id(), made: MADE.get() }
    }

    /// What may be inside of the wrap. Asked when its service is made.
    pub(super) fn inner(&self) -> Inner {
        let before = if self.thread == thread::current().id() { self.made } else { Made { others: 0, operators: 0 } };
        let now = MADE.get();
        if GUARDS.load(Relaxed) > 0 || now.others > before.others {
            Inner::Any
        } else if now.operators > before.operators {
            Inner::Operators
        } else {
            Inner::None
        }
    }
}

impl Clone for Born {
    fn clone(&self) -> Self {
        Self::now()
    }
}

/// A policy guard that is alive.
#[derive(Debug)]
pub(super) struct LiveGuard(());

impl LiveGuard {
    pub(super) fn new() -> Self {
        GUARDS.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        GUARDS.fetch_sub(1, Relaxed);
    }
}

/// A service in the making. It waits for one poll, so that sibling wraps ask what is inside before any of them counts.
#[derive(Debug)]
pub struct MakingService<S> {
    service: Option<Result<S, ()>>,
    has_waited: bool,
    is_operators: bool,
}

impl<S> MakingService<S> {
    pub(super) const fn new(service: Result<S, ()>, is_operators: bool) -> Self {
        Self { has_waited: service.is_err(), service: Some(service), is_operators }
    }
}

impl<S> Unpin for MakingService<S> {}

impl<S> Future for MakingService<S> {
    type Output = Result<S, ()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.has_waited {
            self.has_waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut made = MADE.get();
        if self.is_operators {
            made.operators += 1;
        } else {
            made.others += 1;
        }
        MADE.set(made);
        Poll::Ready(self.service.take().expect("polled after completion"))
    }
}
