//! Whether an instance may have others inside. That is known when the App is built: an inner instance is made before
//! the outer one, on the same thread.

use std::cell::Cell;

thread_local! {
    static ANNOUNCED: Cell<usize> = const { Cell::new(0) };
}

/// Announces that an instance or a policy guard is made.
pub(super) fn announce() {
    ANNOUNCED.set(ANNOUNCED.get() + 1);
}

/// Whether anything was announced on this thread before. This counts other Apps of the thread too, which costs an
/// instance some speed and nothing else.
pub(super) fn may_have_inner() -> bool {
    ANNOUNCED.get() > 0
}
