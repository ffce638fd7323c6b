//! Things that happen at the same time, and waiting for them.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

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
