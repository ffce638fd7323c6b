//! Whether an instance has others inside. Known when the App is built: what is inside is made before what is outside, on
//! the same thread.

use std::cell::Cell;

thread_local! {
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// An instance or a policy guard is made.
pub(crate) fn announce() {
    MADE.set(MADE.get() + 1);
}

/// Whether anything was announced on this thread before. Counts what other Apps announced too: that costs an instance
/// some speed, and nothing else.
pub(crate) fn is_outside() -> bool {
    MADE.get() > 0
}
