//! Requests that wait until another one ends.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::key::RecordId;

/// The requests of this process that wait, by record.
#[derive(Default)]
pub(super) struct Waiters(Mutex<HashMap<RecordId, Waiting>>);

struct Waiting {
    notify: Arc<Notify>,
    count: usize,
}

/// One request that waits. Its drop ends that.
pub(super) struct Waiter<'a> {
    waiters: &'a Waiters,
    id: RecordId,
    changed: OwnedNotified,
}

impl Waiter<'_> {
    /// Waits for a change since the waiter was made.
    pub(super) async fn changed(mut self) {
        // The future is taken out, since this value has a drop.
        let nothing = Arc::new(Notify::new()).notified_owned();
        std::mem::replace(&mut self.changed, nothing).await;
    }
}

impl Waiters {
    pub(super) fn enter(&self, id: RecordId) -> Waiter<'_> {
        let mut waiting = self.0.lock();
        let entry = waiting.entry(id).or_insert_with(|| Waiting { notify: Arc::default(), count: 0 });
        entry.count += 1;
        // A notification from here on is not lost, although nobody polls yet.
        Waiter { waiters: self, id, changed: entry.notify.clone().notified_owned() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    pub(super) fn wake(&self, id: &RecordId) {
        if let Some(waiting) = self.0.lock().get(id) {
            waiting.notify.notify_waiters();
        }
    }

    pub(super) fn wake_all(&self) {
        for waiting in self.0.lock().values() {
            waiting.notify.notify_waiters();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.0.lock();
        if let Some(entry) = waiting.get_mut(&self.id) {
            entry.count -= 1;
            if entry.count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}
