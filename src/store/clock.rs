//! The time that a store of this process counts by.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Microseconds since the Unix epoch. They never go back while the process lives.
pub(crate) type Micros = u64;

/// Where a [`MemoryStore`](super::MemoryStore) or [`ThreadLock`](super::ThreadLock) takes its time from.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Steered(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's monotonic clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock for tests: it stands still until [`advance`](Self::advance) moves it. Clones share their time.
    #[must_use]
    pub fn steered() -> Self {
        Self(Source::Steered(Arc::new(AtomicU64::new(1_000_000_000_000))))
    }

    /// Moves a steered clock forward. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Steered(now) = &self.0 {
            now.fetch_add(micros(by), Ordering::SeqCst);
        }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> u64 {
        match &self.0 {
            Source::System => system_now(),
            Source::Steered(now) => now.load(Ordering::SeqCst),
        }
    }
}

fn system_now() -> Micros {
    static START: OnceLock<(Instant, Micros)> = OnceLock::new();
    let (instant, epoch) = START.get_or_init(|| {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), micros(epoch))
    });
    epoch + micros(instant.elapsed())
}

/// A time of this clock as a time of the operating system.
pub(crate) fn system_time(at: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at)
}

/// Saturates: a duration that no clock reaches is as good as endless.
pub(crate) fn micros(duration: Duration) -> Micros {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}

/// The end of a duration that starts now.
pub(crate) fn end(now: Micros, duration: Duration) -> Micros {
    now.saturating_add(micros(duration))
}

/// The time from now to an end. `None`: the end has passed.
pub(crate) fn left(now: Micros, end: Micros) -> Option<Duration> {
    end.checked_sub(now).filter(|left| *left > 0).map(Duration::from_micros)
}
