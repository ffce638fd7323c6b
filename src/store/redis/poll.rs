//! Waits for the claim of another process: one poll per key and process, however many requests wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bb8_redis::redis::{self, Value};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, sleep_until, timeout_at},
};

use super::connections::Connections;
use crate::{key::RecordId, store::StoreError};

/// The pauses between two polls: a completion is seen at most `LONGEST_PAUSE` and a round trip late.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// The keys that are polled for, with their waiters.
#[derive(Clone, Default)]
pub(super) struct Polls(Arc<Mutex<HashMap<RecordId, SharedPoll>>>);

#[derive(Default)]
struct SharedPoll {
    /// Whether one of the waiters polls for all.
    is_polled: bool,
    /// The number of waiters, the one that polls included.
    waiting: usize,
    /// How often a change was seen.
    changes: u64,
    woken: Arc<Notify>,
}

/// A waiter for one key. Its drop removes it, and hands the poll to another waiter.
struct Waiter {
    polls: Polls,
    id: RecordId,
    is_polling: bool,
}

/// The next step of a waiter.
enum Role {
    /// Poll for all waiters.
    Poll,
    /// Wait until the polling waiter has seen a change, or leaves.
    Wait(OwnedNotified),
    /// Return: the record has changed.
    Changed,
}

impl Polls {
    /// Resolves when the record's owner or state may have changed, at the latest after `at_most`.
    pub(super) fn wait_for_change(
        &self,
        connections: &Connections,
        name: String,
        id: RecordId,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (polls, connections) = (self.clone(), connections.clone());
        async move {
            let until = Instant::now() + at_most;
            let (mut waiter, seen) = Waiter::enter(polls, id);
            loop {
                match waiter.role(seen) {
                    Role::Changed => return Ok(()),
                    Role::Wait(woken) => {
                        if timeout_at(until, woken).await.is_err() {
                            return Ok(());
                        }
                    }
                    Role::Poll => {
                        if watch(&connections, &name, until).await? {
                            waiter.saw_a_change();
                        }
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Waiter {
    fn enter(polls: Polls, id: RecordId) -> (Self, u64) {
        let changes = {
            let mut all = polls.0.lock();
            let poll = all.entry(id).or_default();
            poll.waiting += 1;
            poll.changes
        };
        (Self { polls, id, is_polling: false }, changes)
    }

    fn role(&mut self, seen: u64) -> Role {
        let mut all = self.polls.0.lock();
        let poll = all.entry(self.id).or_default();
        if poll.changes != seen {
            return Role::Changed;
        }
        if poll.is_polled {
            // Made under the lock under which a poll ends, so no wake-up is missed.
            return Role::Wait(poll.woken.clone().notified_owned());
        }
        poll.is_polled = true;
        self.is_polling = true;
        Role::Poll
    }

    fn saw_a_change(&self) {
        if let Some(poll) = self.polls.0.lock().get_mut(&self.id) {
            poll.changes += 1;
            poll.woken.notify_waiters();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.polls.0.lock();
        let Some(poll) = all.get_mut(&self.id) else { return };
        poll.waiting -= 1;
        if self.is_polling {
            poll.is_polled = false;
            // One waiter takes the poll over; the others sleep on.
            poll.woken.notify_one();
        }
        if poll.waiting == 0 {
            all.remove(&self.id);
        }
    }
}

/// Polls until nobody holds the record, or another owner does. Whether that is so.
async fn watch(connections: &Connections, name: &str, until: Instant) -> Result<bool, StoreError> {
    let mut first = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let mut state_and_owner = redis::cmd("HMGET");
        state_and_owner.arg(name).arg("s").arg("o");
        let claim: Vec<Value> = connections.command(state_and_owner).await?;
        let is_held = matches!(claim.first(), Some(Value::BulkString(state)) if state == b"I" || state == b"L");
        if !is_held || *first.get_or_insert_with(|| claim.clone()) != claim {
            return Ok(true);
        }
        let next = Instant::now() + pause;
        sleep_until(next.min(until)).await;
        if next >= until {
            return Ok(false);
        }
        pause = (pause + pause / 2).min(LONGEST_PAUSE);
    }
}
