//! Waiting for another process: one poll per key and process, whoever many wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bb8_redis::redis::{self, Value};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, sleep_until, timeout_at},
};

use super::{Connections, StoreError, of_redis};
use crate::key::RecordId;

/// Between two looks: a completion is seen at most so much late, and a little more.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Who is polled for, and those who wait for that.
#[derive(Clone, Default)]
pub(super) struct Polls(Arc<Mutex<HashMap<RecordId, Poll>>>);

#[derive(Default)]
struct Poll {
    /// Whether one of them polls for all.
    going: bool,
    /// How many there are, the one who polls included.
    waiting: usize,
    /// How often a change was seen.
    changes: u64,
    turn: Arc<Notify>,
}

/// One of those who wait for a key. Its drop leaves nothing behind, and hands the poll on.
struct Waiter {
    polls: Polls,
    id: RecordId,
    polls_now: bool,
}

/// What a waiter does next.
enum Turn {
    /// It polls for all.
    Poll,
    /// It is woken when the one who polls has seen a change, or leaves.
    Wait(OwnedNotified),
    Changed,
}

impl Polls {
    /// Resolves when the record's owner or state may have changed, at the latest after `at_most`.
    pub(super) fn changed(
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
                match waiter.turn(seen) {
                    Turn::Changed => return Ok(()),
                    Turn::Wait(woken) => {
                        if timeout_at(until, woken).await.is_err() {
                            return Ok(());
                        }
                    }
                    Turn::Poll => {
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
        (Self { polls, id, polls_now: false }, changes)
    }

    fn turn(&mut self, seen: u64) -> Turn {
        let mut all = self.polls.0.lock();
        let poll = all.entry(self.id).or_default();
        if poll.changes != seen {
            return Turn::Changed;
        }
        if poll.going {
            // Made under the lock under which the poll ends: no wake-up is missed.
            return Turn::Wait(poll.turn.clone().notified_owned());
        }
        poll.going = true;
        self.polls_now = true;
        Turn::Poll
    }

    fn saw_a_change(&self) {
        if let Some(poll) = self.polls.0.lock().get_mut(&self.id) {
            poll.changes += 1;
            poll.turn.notify_waiters();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.polls.0.lock();
        let Some(poll) = all.get_mut(&self.id) else { return };
        poll.waiting -= 1;
        if self.polls_now {
            poll.going = false;
            // The next one takes over; the others sleep on.
            poll.turn.notify_one();
        }
        if poll.waiting == 0 {
            all.remove(&self.id);
        }
    }
}

/// Looks until the claim is another than at first. Whether it is.
async fn watch(connections: &Connections, name: &str, until: Instant) -> Result<bool, StoreError> {
    let mut connection = connections.connection().await?;
    let mut first = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let mut look = redis::cmd("HMGET");
        look.arg(name).arg("s").arg("o");
        let claim: Vec<Value> = look.query_async(&mut connection).await.map_err(of_redis)?;
        let in_flight = matches!(claim.first(), Some(Value::BulkString(state)) if state == b"I");
        if !in_flight || *first.get_or_insert_with(|| claim.clone()) != claim {
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
