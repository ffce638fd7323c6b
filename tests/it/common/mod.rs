//! A server process to drive, and a client that shows every byte.

mod client;
mod server;

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

pub(crate) use self::{
    client::{Connection, Reply, Request},
    server::Server,
};

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition, with a limit.
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

/// Runs `f` on `n` threads at once, and gives what each returned.
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
