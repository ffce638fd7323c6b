//! What each principal uses of a shard.

use std::{collections::HashMap, num::NonZeroU64};

use super::PreHashed;

/// A principal, as [`Principal::share`](crate::key::Principal::share) tells it. `None`: anonymous, and not counted.
pub(super) type Share = Option<NonZeroU64>;

/// Entries and bytes by principal, and the most that one may have.
pub(super) struct Shares {
    most: Used,
    used: HashMap<NonZeroU64, Used, PreHashed>,
    /// Whether one principal may have all. Then nothing is counted.
    unbounded: bool,
}

#[derive(Clone, Copy, Default)]
struct Used {
    entries: usize,
    bytes: usize,
}

impl Shares {
    /// One principal may have this part of so many entries and bytes. At least one entry.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a part between 0 and 1 of a bound that is rounded anyway"
    )]
    pub(super) fn new(part: f64, entries: usize, bytes: usize) -> Self {
        let most = Used {
            entries: ((entries as f64 * part).ceil() as usize).max(1),
            bytes: (bytes as f64 * part).ceil() as usize,
        };
        Self { most, used: HashMap::default(), unbounded: part >= 1.0 }
    }

    /// The principal has one entry more, of so many bytes.
    #[inline]
    pub(super) fn add(&mut self, share: Share, bytes: usize) {
        self.change(share, |used| {
            used.entries += 1;
            used.bytes += bytes;
        });
    }

    /// The principal has one entry less, of so many bytes.
    #[inline]
    pub(super) fn remove(&mut self, share: Share, bytes: usize) {
        self.change(share, |used| {
            used.entries -= 1;
            used.bytes -= bytes;
        });
    }

    /// An entry of the principal had so many bytes, and has so many now.
    #[inline]
    pub(super) fn resize(&mut self, share: Share, before: usize, after: usize) {
        self.change(share, |used| used.bytes = used.bytes - before + after);
    }

    #[inline]
    fn change(&mut self, share: Share, change: impl FnOnce(&mut Used)) {
        let Some(share) = share.filter(|_| !self.unbounded) else { return };
        let used = self.used.entry(share).or_default();
        change(used);
        if used.entries == 0 {
            self.used.remove(&share);
        }
    }

    /// Whether the principal may have no further entry.
    #[inline]
    pub(super) fn is_exhausted(&self, share: Share) -> bool {
        self.used_by(share).is_some_and(|used| used.entries >= self.most.entries || used.bytes >= self.most.bytes)
    }

    /// Whether the principal has more bytes than it may have.
    #[inline]
    pub(super) fn exceeds_bytes(&self, share: Share) -> bool {
        self.used_by(share).is_some_and(|used| used.bytes > self.most.bytes)
    }

    fn used_by(&self, share: Share) -> Option<&Used> {
        self.used.get(&share?)
    }
}
