//! Waits while another request runs, and asks again when it may have ended.

use std::{sync::Arc, time::Duration};

use tokio::{sync::futures::OwnedNotified, time::Instant};

use super::{
    ask::{Asked, ClaimAnswer, Claims},
    store_handle::StoreHandle,
};
use crate::{
    key::RecordId,
    ledger::AnyLedger,
    store::{BeginRequest, StoreError, Wait},
};

/// Where the request runs that holds the claim.
pub(super) enum Holder {
    /// In this process. Resolves when it has ended.
    Here(OwnedNotified),
    /// In another process, or in this one without a local entry.
    Elsewhere(Wait),
}

impl Claims {
    /// Asks again and again as long as another request runs, for at most `wait`. Returns the time that it
    /// waited.
    pub(super) async fn wait_for_claim(
        self: &Arc<Self>,
        begin: &BeginRequest,
        mut holder: Holder,
        ledger: Option<AnyLedger>,
        wait: Duration,
    ) -> (Result<ClaimAnswer, StoreError>, Duration) {
        let start = Instant::now();
        let mut waited = Duration::ZERO;
        let mut seat = None;
        for round in 0.. {
            // A client that saw its answer must not be told afterwards that its operation is in flight.
            if let Some(ledger) = &ledger
                && let Ok(look) = ledger.look(begin.id, self.config.timeout).await
                && let Some(row) = look.row
            {
                return (Ok(ClaimAnswer::Recorded(Box::new(row))), waited);
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            if seat.is_none() {
                seat = self.handle.waiting.enter(begin.id, self.config.max_waiters);
                if seat.is_none() {
                    break;
                }
            }
            let now = Instant::now();
            self.handle.wait(&begin.id, holder, round, left).await;
            waited += now.elapsed();
            let asked = self.ask(begin).await;
            holder = match asked {
                Ok(Asked::Answer(answer)) => return (Ok(answer), waited),
                Ok(Asked::InFlight(holder)) => holder,
                // Another request ran a moment ago. A store that has gone silent since does not allow to run beside it.
                Err(StoreError::Unavailable(_) | StoreError::TimedOut(_)) => {
                    return (Ok(ClaimAnswer::InFlight(None)), waited);
                }
                Err(error) => return (Err(error), waited),
            };
        }
        let grace = match holder {
            Holder::Elsewhere(wait) if wait.lapsed => Some(wait.left),
            Holder::Elsewhere(_) | Holder::Here(_) => None,
        };
        (Ok(ClaimAnswer::InFlight(grace)), waited)
    }
}

impl StoreHandle {
    /// Waits until it is worth asking again, for `at_most`.
    async fn wait(&self, id: &RecordId, holder: Holder, round: u32, at_most: Duration) {
        let left = match holder {
            Holder::Here(ended) => {
                let _ = tokio::time::timeout(at_most, ended).await;
                return;
            }
            Holder::Elsewhere(wait) => wait.left,
        };
        self.wait_for_change(id, round, at_most.min(left)).await;
    }
}
