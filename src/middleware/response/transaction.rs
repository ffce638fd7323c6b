//! A handler's transaction when the handler has returned, or is dropped.

use std::rc::Rc;

use actix_web::dev::ServiceResponse;
use tokio::runtime::Handle;

use crate::{
    claim::{HeldClaim, InFlightGuard},
    client::problem::Problem,
    ledger::{
        Answered, AnyLedger, AnyTx, LedgerError, LedgerRun, OwnAnswer, Row, State, Task, TransactionError, Verdict,
        commit_without_row, is_success,
    },
};

/// What a handler has left when it returned.
pub(super) enum Left {
    /// No transaction: it opened none, or ended it.
    Nothing,
    /// A transaction that can be committed.
    Tx(AnyTx),
    /// A transaction that something still holds.
    Kept,
    /// A transaction that is committed, with this response.
    Committed(Box<Answered>),
    /// Another run was committed first.
    Superseded(Box<Row>),
    /// A COMMIT whose answer was lost.
    Unsettled,
}

/// Ends the transaction of a request that has no row: it has no key, or is only observed.
pub(in crate::middleware) async fn end_ordinary<B>(
    run: &Rc<LedgerRun>,
    response: &ServiceResponse<B>,
) -> Result<(), Problem> {
    let response = response.response();
    let left = left_by_handler(run).await;
    let own = response.extensions().get::<OwnAnswer>().map(|own| own.0);
    let tx = match left {
        Left::Tx(tx) => tx,
        Left::Kept => return Err(TransactionError::Misused("the handler has kept its transaction").refusal()),
        _ => return own.map_or(Ok(()), Err),
    };
    if own.is_some() || response.error().is_some() || !is_success(response) {
        run.ledger().rollback_in_task(tx).await;
        return own.map_or(Ok(()), Err);
    }
    let ledger = run.ledger().clone();
    let committed = Task::spawn(async move { commit_without_row(&ledger, tx).await }).await;
    match committed {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(TransactionError::from(error).refusal()),
        None => Err(TransactionError::Unavailable("the COMMIT was dropped".into()).refusal()),
    }
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
    let asked = recorded.map(|recorded| (recorded.id, recorded.token));
    drop(Task::spawn(async move {
        let (is_committed, is_settled) = match open {
            Open::Beginning(task) => {
                if let Some(Ok(tx)) = task.await {
                    ledger.rollback(tx).await;
                }
                (false, true)
            }
            Open::Tx(tx) => {
                ledger.rollback(tx).await;
                (false, true)
            }
            Open::Committing(task) => match task.await {
                Some(Verdict::Committed | Verdict::Superseded(_)) => (true, true),
                Some(Verdict::RolledBack(_)) => (false, true),
                Some(Verdict::Unsettled) | None => (false, false),
            },
            Open::Committed => (true, true),
            Open::Unsettled => (false, false),
        };
        match (held, asked) {
            (Some(held), _) if is_committed => held.ended(),
            (Some(held), Some((id, token))) if !is_settled => held.settle_behind(ledger, id, token),
            (held, _) => drop(held),
        }
        drop(in_flight);
    }));
}

/// What is open when an operation is dropped.
enum Open {
    Beginning(Task<Result<AnyTx, LedgerError>>),
    Tx(AnyTx),
    Committing(Task<Verdict>),
    Committed,
    Unsettled,
}

impl Open {
    fn of(state: State) -> Option<Self> {
        Some(match state {
            State::Idle | State::Closed | State::Lent => return None,
            State::Beginning(task) => Self::Beginning(task),
            State::Returned(tx) => Self::Tx(tx),
            State::Committing(task, _) => Self::Committing(task),
            State::Committed(_) | State::Superseded(_) => Self::Committed,
            State::Unsettled => Self::Unsettled,
        })
    }
}

/// Waits for what is under way, and takes what the handler left.
pub(super) async fn left_by_handler(run: &Rc<LedgerRun>) -> Left {
    Left::of(run.close(), run.ledger()).await
}

impl Left {
    async fn of(state: State, ledger: &AnyLedger) -> Self {
        match state {
            State::Idle | State::Closed => Self::Nothing,
            State::Lent => Self::Kept,
            State::Returned(tx) => Self::Tx(tx),
            State::Beginning(task) => {
                // The extractor was dropped, because another one failed.
                if let Some(Ok(tx)) = task.await {
                    ledger.rollback(tx).await;
                }
                Self::Nothing
            }
            State::Committing(task, answered) => match task.await {
                Some(Verdict::Committed) => Self::Committed(answered),
                Some(Verdict::Superseded(row)) => Self::Superseded(row),
                Some(Verdict::RolledBack(_)) => Self::Nothing,
                Some(Verdict::Unsettled) | None => Self::Unsettled,
            },
            State::Committed(answered) => Self::Committed(answered),
            State::Superseded(row) => Self::Superseded(row),
            State::Unsettled => Self::Unsettled,
        }
    }
}
