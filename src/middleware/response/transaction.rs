//! Transactions without a row, and operations that are dropped.

use std::{rc::Rc, time::Duration};

use actix_web::dev::ServiceResponse;
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    claim::{HeldClaim, InFlightGuard},
    client::problem::Problem,
    ledger::{
        AnyTx, LedgerError, LedgerRun, Left, OwnAnswer, State, Task, TransactionError, Verdict, commit_without_row,
        gone, is_success,
    },
    record::Record,
};

/// Ends the transaction of a request that has no row: it has no key, or is only observed.
pub(in crate::middleware) async fn end_ordinary<B>(
    run: &Rc<LedgerRun>,
    response: &ServiceResponse<B>,
) -> Result<(), Problem> {
    let response = response.response();
    run.handler_returns().await;
    let own = response.extensions().get::<OwnAnswer>().map(|own| own.0);
    match run.left() {
        Left::Tx => {}
        Left::Kept => {
            return Err(TransactionError::Misused("the handler has kept its transaction").refusal());
        }
        _ => return own.map_or(Ok(()), Err),
    }
    if own.is_some() || response.error().is_some() || !is_success(response) {
        run.roll_back().await;
        return own.map_or(Ok(()), Err);
    }
    let Some(tx) = run.take_tx() else { return Ok(()) };
    let (ledger, (send, committed)) = (run.ledger().clone(), oneshot::channel());
    let commit = async move {
        let _ = send.send(commit_without_row(&ledger, tx).await);
    };
    run.end(commit).await;
    let committed = committed.await.unwrap_or_else(|_| Err(gone()));
    committed.map_err(|error| TransactionError::of_commit_without_row(error).refusal())
}

/// Ends an operation that is dropped. An open transaction is rolled back before the key is free.
pub(in crate::middleware) fn abandon(
    run: &Rc<LedgerRun>,
    held: &mut Option<Box<HeldClaim>>,
    in_flight: &mut Option<InFlightGuard>,
) {
    let recorded = run.recorded();
    let Some(open) = Open::of(run.close()) else { return };
    let ledger = run.ledger().clone();
    if Handle::try_current().is_err() {
        if let Open::Tx(tx) = open {
            ledger.rollback_detached(tx);
        }
        return;
    }
    let (held, in_flight) = (held.take(), in_flight.take());
    let completes = recorded.as_ref().is_some_and(|recorded| recorded.is_in_transition);
    let asked = recorded.map(|recorded| (recorded.id, recorded.token.get()));
    drop(Task::spawn(async move {
        let end = match open {
            Open::Beginning(task) => {
                if let Some(Ok(tx)) = task.await {
                    ledger.rollback(tx).await;
                }
                End::RolledBack
            }
            Open::Tx(tx) => {
                ledger.rollback(tx).await;
                End::RolledBack
            }
            Open::Ending(task) => {
                task.await;
                End::RolledBack
            }
            Open::Committing(task, record, keep) => match task.await {
                Some(Verdict::Committed) => End::Committed(record, keep),
                Some(Verdict::Superseded(first)) => End::Committed(first.record, first.remaining),
                Some(Verdict::RolledBack(_)) => End::RolledBack,
                Some(Verdict::Unsettled) | None => End::Unsettled,
            },
            Open::Committed(record, keep) => End::Committed(record, keep),
            Open::Unsettled => End::Unsettled,
        };
        match (end, held, asked) {
            (End::Committed(record, keep), Some(mut held), _) if completes => {
                held.keep_for(keep);
                held.complete_unwaited(record);
            }
            (End::Committed(..), Some(held), _) => held.ended(),
            (End::Unsettled, Some(held), Some((id, token))) => held.settle_behind(ledger, id, token, completes),
            (_, held, _) => drop(held),
        }
        drop(in_flight);
    }));
}

/// The end of the transaction of an operation that was dropped.
enum End {
    /// With the record, and how long its row is kept.
    Committed(Record, Duration),
    RolledBack,
    Unsettled,
}

/// The transaction that is open when an operation is dropped.
enum Open {
    Beginning(Task<Result<AnyTx, LedgerError>>),
    Tx(AnyTx),
    Ending(Task<()>),
    Committing(Task<Verdict>, Record, Duration),
    Committed(Record, Duration),
    Unsettled,
}

impl Open {
    fn of(state: State) -> Option<Self> {
        Some(match state {
            State::Idle | State::Lent => return None,
            State::Beginning(task) => Self::Beginning(task),
            State::Returned(tx) => Self::Tx(tx),
            State::Ending(task) => Self::Ending(task),
            State::Committing(task, answered) => Self::Committing(task, answered.record, answered.keep),
            State::Committed(answered) => Self::Committed(answered.record, answered.keep),
            State::Superseded(first) => Self::Committed(first.record, first.remaining),
            State::Unsettled => Self::Unsettled,
        })
    }
}
