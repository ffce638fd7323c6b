//! When records end: in order, mostly as they come.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use crate::{key::RecordId, store::clock::Micros};

type End = (Micros, RecordId);

/// The ends of TTLs. An entry counts only if its record still ends then: records may go, or get another end, before.
#[derive(Default)]
pub(super) struct Expiry {
    /// Those of the longest TTL come in the order of their ends; where all are equal, they are all.
    in_order: VecDeque<End>,
    others: BinaryHeap<Reverse<End>>,
}

impl Expiry {
    pub(super) fn add(&mut self, end: Micros, id: RecordId) {
        if self.in_order.back().is_none_or(|last| last.0 <= end) {
            self.in_order.push_back((end, id));
        } else {
            self.others.push(Reverse((end, id)));
        }
    }

    /// The soonest one, if it is due.
    pub(super) fn take_due(&mut self, now: Micros) -> Option<End> {
        let first = self.in_order.front().filter(|(end, _)| *end <= now);
        let other = self.others.peek().filter(|Reverse((end, _))| *end <= now);
        match (first, other) {
            (None, None) => None,
            (Some(first), Some(Reverse(other))) if first <= other => self.in_order.pop_front(),
            (Some(_), None) => self.in_order.pop_front(),
            (_, Some(_)) => self.others.pop().map(|Reverse(end)| end),
        }
    }

    /// A record is gone before its end. What goes for room is the oldest, which mostly is the next to end: so nothing of
    /// it stays behind.
    pub(super) fn gone(&mut self, end: Micros, id: RecordId) {
        if self.in_order.front() == Some(&(end, id)) {
            self.in_order.pop_front();
        } else if self.others.peek() == Some(&Reverse((end, id))) {
            self.others.pop();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }

    /// These and nothing else: what was left behind is forgotten.
    pub(super) fn replace(&mut self, ends: impl Iterator<Item = End>) {
        let mut ends: Vec<End> = ends.collect();
        ends.sort_unstable();
        *self = Self { in_order: ends.into(), others: BinaryHeap::new() };
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
        fn ends_are_taken_in_order_and_none_before_it_is_due(ends in proptest::collection::vec(0_u64..50, 0..60), now in 0_u64..60) {
            let mut expiry = Expiry::default();
            for end in &ends {
                expiry.add(*end, id(1));
            }
            let taken: Vec<u64> = std::iter::from_fn(|| expiry.take_due(now)).map(|(end, _)| end).collect();
            let mut due: Vec<u64> = ends.into_iter().filter(|end| *end <= now).collect();
            due.sort_unstable();
            prop_assert_eq!(taken, due);
        }
    }

    #[test]
    fn what_goes_oldest_first_leaves_nothing_behind() {
        let mut expiry = Expiry::default();
        // Two TTLs, of which the longer one came first.
        for n in 0..10 {
            expiry.add(1000 + u64::from(n), id(n));
            expiry.add(500 + u64::from(n), id(100 + n));
        }
        for n in 0..10 {
            expiry.gone(1000 + u64::from(n), id(n));
            expiry.gone(500 + u64::from(n), id(100 + n));
        }
        assert_eq!(expiry.len(), 0);
        // Out of turn: it stays behind.
        expiry.add(1, id(1));
        expiry.add(2, id(2));
        expiry.gone(2, id(2));
        assert_eq!(expiry.len(), 2);
        expiry.replace([(3, id(3)), (1, id(1))].into_iter());
        assert_eq!(expiry.len(), 2);
        assert_eq!([5, 5, 5].map(|now| expiry.take_due(now)), [Some((1, id(1))), Some((3, id(3))), None]);
    }
}
