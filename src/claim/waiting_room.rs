//! Limits how many duplicates wait for one key.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::key::RecordId;

type Counts = Arc<Mutex<HashMap<RecordId, usize>>>;

#[derive(Debug, Default)]
pub(super) struct WaitingRoom(Counts);

/// The permission to wait. Its drop makes room; the drop of the last one removes the key from the table.
#[derive(Debug)]
pub(crate) struct Seat {
    counts: Counts,
    id: RecordId,
}

impl WaitingRoom {
    pub(super) fn enter(&self, id: RecordId, most: usize) -> Option<Seat> {
        let mut counts = self.0.lock();
        let waiting = counts.get(&id).copied().unwrap_or(0);
        if waiting >= most {
            return None;
        }
        counts.insert(id, waiting + 1);
        Some(Seat { counts: self.0.clone(), id })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        match counts.get_mut(&self.id) {
            Some(waiting) if *waiting > 1 => *waiting -= 1,
            _ => drop(counts.remove(&self.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elsewhere waits were unbounded and the table kept every key.
    #[test]
    fn seats_are_bounded_per_key_and_leave_nothing_behind() {
        let room = WaitingRoom::default();
        let (a, b) = (RecordId::from_bytes([1; 32]), RecordId::from_bytes([2; 32]));
        let first = room.enter(a, 2).unwrap();
        let second = room.enter(a, 2).unwrap();
        assert!(room.enter(a, 2).is_none());
        assert!(room.enter(b, 2).is_some());
        drop(first);
        drop(room.enter(a, 2).unwrap());
        drop(second);
        assert!(room.0.lock().is_empty());
        assert!(room.enter(a, 0).is_none());
    }
}
