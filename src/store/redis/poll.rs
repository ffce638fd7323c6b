//! Waiting for another process: one poll per key and process, whoever many wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bb8_redis::redis::{self, Value};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::{Connections, StoreError, of_redis};
use crate::RecordId;

/// Between two looks: a completion is seen at most so much late, and a little more.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

/// Who is polled for, and those who wait for that.
#[derive(Clone, Default)]
pub(super) struct Polls(Arc<Mutex<HashMap<RecordId, Arc<Notify>>>>);

/// The right to poll for a key. Its drop wakes all who wait, one of whom polls next if there is still something to wait
/// for.
struct Polling {
    polls: Polls,
    id: RecordId,
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
            let poll = {
                let mut going = polls.0.lock();
                // Made under the lock under which the poll ends: no wake-up is missed.
                let woken = going.get(&id).map(|poll| poll.clone().notified_owned());
                if woken.is_none() {
                    going.insert(id, Arc::default());
                }
                woken
            };
            if let Some(woken) = poll {
                let _ = timeout(at_most, woken).await;
                return Ok(());
            }
            let _polling = Polling { polls, id };
            watch(&connections, &name, Instant::now() + at_most).await
        }
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if let Some(poll) = self.polls.0.lock().remove(&self.id) {
            poll.notify_waiters();
        }
    }
}

/// Looks until the claim is another than at first.
async fn watch(connections: &Connections, name: &str, until: Instant) -> Result<(), StoreError> {
    let mut connection = connections.connection().await?;
    let mut first = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let mut look = redis::cmd("HMGET");
        look.arg(name).arg("s").arg("o");
        let claim: Vec<Value> = look.query_async(&mut connection).await.map_err(of_redis)?;
        let in_flight = matches!(claim.first(), Some(Value::BulkString(state)) if state == b"I");
        if !in_flight || *first.get_or_insert_with(|| claim.clone()) != claim {
            return Ok(());
        }
        let next = Instant::now() + pause;
        sleep_until(next.min(until)).await;
        if next >= until {
            return Ok(());
        }
        pause = (pause + pause / 2).min(LONGEST_PAUSE);
    }
}
