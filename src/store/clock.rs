//! The time a process-local store counts by.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Microseconds since the Unix epoch, never going back while the process lives.
pub(crate) type Micros = u64;

/// Where a [`MemoryStore`](crate::store::MemoryStore) or [`ThreadLock`](crate::store::ThreadLock) takes its time from.
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

    /// A clock that stands still until [`advance`](Self::advance)d, for tests. Clones share their time.
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

    pub(crate) fn now(&self) -> Micros {
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

/// A time of this clock as the operating system's.
pub(crate) fn system_time(at: Micros) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at)
}

/// Saturates: a duration that no clock reaches is as good as for ever.
pub(crate) fn micros(duration: Duration) -> Micros {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into())
}
