//! Bounds the rate at which one principal begins new operations: `limits.fresh_per_principal`.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::settings::Rate;

/// The most principals that a process counts at a time.
const MOST_PRINCIPALS: usize = 10_000;

/// Counts the first runs of keys for each principal of this process.
#[derive(Debug)]
pub(crate) struct FirstRuns {
    gcra: Gcra,
    /// Times are nanoseconds from here.
    start: Instant,
    principals: Mutex<Principals>,
}

/// The generic cell rate algorithm (GCRA): a leaky bucket that keeps one time for each principal, at which the bucket will
/// be empty again.
#[derive(Clone, Copy, Debug)]
struct Gcra {
    /// The time that one run adds. Rounded up, so that no more runs are let through than the rate says.
    interval: u64,
    /// How far that time may be ahead of now.
    burst: u64,
}

/// When the bucket of each principal will be empty. A principal that is not here has an empty one.
#[derive(Debug)]
struct Principals {
    empty_at: HashMap<NonZeroU64, u64>,
    /// No bucket is empty before. Says when it makes sense to look for empty ones.
    none_before: u64,
    most: usize,
}

impl FirstRuns {
    /// `None`: there is no bound, and nothing is counted.
    pub(crate) fn new(rate: Option<Rate>) -> Option<Arc<Self>> {
        let principals = Mutex::new(Principals::new(MOST_PRINCIPALS));
        rate.map(|rate| Arc::new(Self { gcra: Gcra::new(rate), start: Instant::now(), principals }))
    }

    /// Counts a run of this principal, unless it has to wait. Returns how long.
    pub(crate) fn admit(&self, principal: NonZeroU64) -> Result<(), Duration> {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX / 2);
        self.principals.lock().admit(self.gcra, principal, now).map_err(Duration::from_nanos)
    }
}

impl Gcra {
    fn new(rate: Rate) -> Self {
        let number = u64::from(rate.burst());
        let interval = (rate.period().as_secs() * 1_000_000_000).div_ceil(number);
        Self { interval, burst: interval * number }
    }

    /// When the bucket will be empty after one run more; or for how long there is no room for it.
    fn add(self, empty_at: u64, now: u64) -> Result<u64, u64> {
        let after = empty_at.max(now) + self.interval;
        let too_far = (after - now).saturating_sub(self.burst);
        if too_far == 0 { Ok(after) } else { Err(too_far) }
    }
}

impl Principals {
    fn new(most: usize) -> Self {
        Self { empty_at: HashMap::new(), none_before: u64::MAX, most }
    }

    fn admit(&mut self, gcra: Gcra, principal: NonZeroU64, now: u64) -> Result<(), u64> {
        if let Some(empty_at) = self.empty_at.get_mut(&principal) {
            *empty_at = gcra.add(*empty_at, now)?;
            return Ok(());
        }
        // With too many principals to count, a new one runs uncounted: others must not be able to have it refused.
        if self.has_room(now) {
            let empty_at = gcra.add(now, now)?;
            self.none_before = self.none_before.min(empty_at);
            self.empty_at.insert(principal, empty_at);
        }
        Ok(())
    }

    /// Whether one principal more can be counted. Drops empty buckets when there are too many.
    fn has_room(&mut self, now: u64) -> bool {
        if self.empty_at.len() < self.most {
            return true;
        }
        if now < self.none_before {
            return false;
        }
        self.empty_at.retain(|_, empty_at| *empty_at > now);
        self.none_before = self.empty_at.values().copied().min().unwrap_or(u64::MAX);
        self.empty_at.len() < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn gcra(rate: &str) -> Gcra {
        Gcra::new(rate.parse().unwrap())
    }

    fn principal(n: u64) -> NonZeroU64 {
        NonZeroU64::new(n).unwrap()
    }

    #[test]
    fn a_burst_runs_at_once_and_then_one_after_each_interval() {
        let (gcra, mut principals) = (gcra("600/m"), Principals::new(10));
        let mut ask = |now| principals.admit(gcra, principal(1), now);
        assert!((0..600).all(|_| ask(0).is_ok()));
        assert_eq!((ask(0), ask(SECOND / 20)), (Err(SECOND / 10), Err(SECOND / 20)));
        assert_eq!((ask(SECOND / 10), ask(SECOND / 10)), (Ok(()), Err(SECOND / 10)));
        // Refused runs were not counted.
        assert!((0..600).all(|_| ask(100 * SECOND).is_ok()));
        assert!(ask(100 * SECOND).is_err());
    }

    #[test]
    fn each_principal_has_its_own_bucket() {
        let (gcra, mut principals) = (gcra("1/h"), Principals::new(10));
        assert_eq!(principals.admit(gcra, principal(1), 0), Ok(()));
        assert_eq!(principals.admit(gcra, principal(1), 0), Err(3600 * SECOND));
        assert_eq!(principals.admit(gcra, principal(2), 0), Ok(()));
    }

    #[test]
    fn with_too_many_principals_those_that_have_caught_up_make_room_and_else_nobody_is_refused() {
        let (gcra, mut principals) = (gcra("1/m"), Principals::new(3));
        for n in 1..=3 {
            assert_eq!(principals.admit(gcra, principal(n), n * SECOND), Ok(()));
        }
        for _ in 0..2 {
            assert_eq!(principals.admit(gcra, principal(4), 4 * SECOND), Ok(()), "it can't be counted");
        }
        assert!(principals.admit(gcra, principal(3), 60 * SECOND).is_err(), "the others still are");
        // The first bucket is empty after 61 seconds.
        assert_eq!(principals.admit(gcra, principal(4), 61 * SECOND), Ok(()));
        assert!(principals.admit(gcra, principal(4), 61 * SECOND).is_err());
        assert_eq!(principals.empty_at.len(), 3);
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        assert!(FirstRuns::new(None).is_none());
        let runs = FirstRuns::new("1/h".parse().ok()).unwrap();
        assert!(runs.admit(principal(1)).is_ok());
        let wait = runs.admit(principal(1)).unwrap_err();
        assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_secs(3600), "{wait:?}");
    }

    proptest! {
        /// In every window of time a principal runs no more than the burst and what the rate gives meanwhile; one that
        /// waits as long as it is told runs then; and no more principals are kept than there may be.
        #[test]
        fn no_window_has_more_runs_than_the_burst_and_the_rate(
            number in 1_u32..50,
            unit in prop::sample::select(&["s", "m", "h"][..]),
            asks in prop::collection::vec((1_u64..5, 0_u64..100), 1..200),
        ) {
            let gcra = gcra(&format!("{number}/{unit}"));
            let mut principals = Principals::new(3);
            let mut now = 0;
            let mut ran = HashMap::<u64, Vec<u64>>::new();
            for (who, pause) in asks {
                now += pause * gcra.interval / 30;
                let answer = principals.admit(gcra, principal(who), now);
                // While there is no room for it, a principal is not counted.
                let is_counted = principals.empty_at.contains_key(&principal(who));
                prop_assert!(principals.empty_at.len() <= 3);
                match answer {
                    Ok(()) if is_counted => ran.entry(who).or_default().push(now),
                    Ok(()) => {}
                    Err(wait) => {
                        prop_assert!(is_counted && wait > 0 && wait <= gcra.interval);
                        let empty_at = principals.empty_at[&principal(who)];
                        prop_assert!(gcra.add(empty_at, now + wait).is_ok());
                        prop_assert!(gcra.add(empty_at, now + wait - 1).is_err());
                    }
                }
            }
            for times in ran.values() {
                for (first, from) in times.iter().enumerate() {
                    for (last, to) in times.iter().enumerate().skip(first) {
                        let most = u64::from(number) + (to - from) / gcra.interval;
                        prop_assert!((last - first + 1) as u64 <= most);
                    }
                }
            }
        }
    }
}
