//! When completed records expire: a queue for the common case of equal TTLs, a heap for the rest.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use crate::{key::RecordId, store::clock::Micros};

type Expires = (Micros, RecordId);

/// The expiry times of records. An entry counts only if its record still expires then: a record may be removed, or get
/// another expiry time, before.
#[derive(Default)]
pub(super) struct ExpiryQueue {
    /// Entries that arrived in expiry order. With equal TTLs these are all.
    in_order: VecDeque<Expires>,
    out_of_order: BinaryHeap<Reverse<Expires>>,
}

impl ExpiryQueue {
    pub(super) fn add(&mut self, expires: Micros, id: RecordId) {
        if self.in_order.back().is_none_or(|last| last.0 <= expires) {
            self.in_order.push_back((expires, id));
        } else {
            self.out_of_order.push(Reverse((expires, id)));
        }
    }

    /// Whether an entry is due.
    #[inline]
    pub(super) fn is_due(&self, now: Micros) -> bool {
        self.in_order.front().is_some_and(|(expires, _)| *expires <= now)
            || self.out_of_order.peek().is_some_and(|Reverse((expires, _))| *expires <= now)
    }

    /// Removes and returns the entry that expires first, if it is due.
    pub(super) fn take_due(&mut self, now: Micros) -> Option<Expires> {
        let first = self.in_order.front().filter(|(expires, _)| *expires <= now);
        let other = self.out_of_order.peek().filter(|Reverse((expires, _))| *expires <= now);
        match (first, other) {
            (None, None) => None,
            (Some(first), Some(Reverse(other))) if first <= other => self.in_order.pop_front(),
            (Some(_), None) => self.in_order.pop_front(),
            (_, Some(_)) => self.out_of_order.pop().map(|Reverse(entry)| entry),
        }
    }

    /// A record was removed before it expired. Removes the entry when it heads either queue; otherwise the entry stays
    /// and is skipped later. Records that are evicted for room are the oldest, which mostly are the next to expire.
    pub(super) fn removed(&mut self, expires: Micros, id: RecordId) {
        if self.in_order.front() == Some(&(expires, id)) {
            self.in_order.pop_front();
        } else if self.out_of_order.peek() == Some(&Reverse((expires, id))) {
            self.out_of_order.pop();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.out_of_order.len()
    }

    /// Keeps these entries and no others.
    pub(super) fn replace(&mut self, entries: impl Iterator<Item = Expires>) {
        let mut entries: Vec<Expires> = entries.collect();
        entries.sort_unstable();
        *self = Self { in_order: entries.into(), out_of_order: BinaryHeap::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> RecordId {
        RecordId::from_bytes([n; 32])
    }

    proptest! {
        #[test]
        fn entries_are_taken_in_expiry_order_and_none_before_it_is_due(times in proptest::collection::vec(0_u64..50, 0..60), now in 0_u64..60) {
            let mut queue = ExpiryQueue::default();
            for expires in &times {
                queue.add(*expires, id(1));
            }
            let taken: Vec<u64> = std::iter::from_fn(|| queue.take_due(now)).map(|(expires, _)| expires).collect();
            let mut due: Vec<u64> = times.into_iter().filter(|expires| *expires <= now).collect();
            due.sort_unstable();
            prop_assert_eq!(taken, due);
        }
    }

    #[test]
    fn records_that_are_removed_oldest_first_leave_no_entries() {
        let mut queue = ExpiryQueue::default();
        // Two TTLs, of which the longer one arrives first.
        for n in 0..10 {
            queue.add(1000 + u64::from(n), id(n));
            queue.add(500 + u64::from(n), id(100 + n));
        }
        for n in 0..10 {
            queue.removed(1000 + u64::from(n), id(n));
            queue.removed(500 + u64::from(n), id(100 + n));
        }
        assert_eq!(queue.len(), 0);
        // Out of turn: the entry stays.
        queue.add(1, id(1));
        queue.add(2, id(2));
        queue.removed(2, id(2));
        assert_eq!(queue.len(), 2);
        queue.replace([(3, id(3)), (1, id(1))].into_iter());
        assert_eq!(queue.len(), 2);
        assert_eq!([5, 5, 5].map(|now| queue.take_due(now)), [Some((1, id(1))), Some((3, id(3))), None]);
    }
}
