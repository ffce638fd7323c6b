//! Errors that a handler meets when it works with its transaction.

use actix_web::{HttpResponse, ResponseError, http::StatusCode};

use super::{Cause, LedgerError, finish::Why};
use crate::client::problem::{Problem, ProblemStyle};

/// Why a handler has no transaction, or why its transaction was rolled back.
///
/// A handler returns it as it is. The middleware makes the answer of it, which is never recorded:
///
/// | error | answer | the key |
/// |---|---|---|
/// | [`Unavailable`](Self::Unavailable) | 503 `store-unavailable`, `Retry-After: 1` | is free; held if the answer of a COMMIT was lost and could not be settled |
/// | [`Unknown`](Self::Unknown) | 500 | there is none: with a key it is settled |
/// | [`Failed`](Self::Failed) | 500 `transaction-failed` | is free |
/// | [`Misused`](Self::Misused) | 500 `transaction-misused` | is free |
/// | [`NotRecorded`](Self::NotRecorded) | 500 `not-recorded` | is free |
/// | [`Superseded`](Self::Superseded) | the answer of the run that was first | has that answer |
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The database has no free connection or can't be reached, or other transactions stood in the way at every try.
    #[error("the transaction could not be begun or committed; another try may succeed")]
    Unavailable(#[source] Cause),
    /// The answer of the COMMIT of a transaction without a row was lost, so nobody knows whether it was made.
    #[error("whether the transaction was committed is not known")]
    Unknown(#[source] Cause),
    /// The database refused.
    #[error("the transaction failed")]
    Failed(#[source] Cause),
    /// The handler uses its transaction in a way that can't be committed together with the answer.
    #[error("the transaction is misused: {0}")]
    Misused(&'static str),
    /// The answer is a success that must not be recorded. Its rows were rolled back.
    #[error("a success that is not recorded was rolled back")]
    NotRecorded,
    /// Another run of the same operation was committed first.
    #[error("another run of this operation was committed first")]
    Superseded,
}

/// In the extensions of a response that the middleware makes itself, wherever it was rendered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnAnswer(pub(crate) Problem);

impl TransactionError {
    pub(crate) const fn problem(&self) -> Problem {
        match self {
            Self::Unavailable(_) | Self::Superseded => Problem::StoreUnavailable,
            // The problem says nothing but its status.
            Self::Unknown(_) => Problem::Panicked,
            Self::Failed(_) => Problem::TransactionFailed,
            Self::Misused(_) => Problem::TransactionMisused,
            Self::NotRecorded => Problem::NotRecorded,
        }
    }

    /// The refusal, once operators were told why: the client only learns which kind it is.
    pub(crate) fn refusal(&self) -> Problem {
        tracing::error!(error = self as &dyn std::error::Error, "a transaction was not committed");
        self.problem()
    }
}

impl TransactionError {
    /// The error of a COMMIT without a row, whose lost answer can't be settled.
    pub(crate) fn of_commit_without_row(error: LedgerError) -> Self {
        match error {
            LedgerError::Unknown(cause) | LedgerError::Unavailable(cause) => Self::Unknown(cause),
            error => error.into(),
        }
    }
}

impl From<LedgerError> for TransactionError {
    fn from(error: LedgerError) -> Self {
        Why::of(error).into()
    }
}

impl From<Why> for TransactionError {
    fn from(why: Why) -> Self {
        match why {
            Why::Passing(cause) => Self::Unavailable(cause),
            Why::Stale => Self::Unavailable("the run is too old, or its key was forgotten while it ran".into()),
            Why::Refused(cause) => Self::Failed(cause),
            Why::Misused => Self::Misused("the handler ended the transaction itself"),
        }
    }
}

impl ResponseError for TransactionError {
    fn status_code(&self) -> StatusCode {
        self.problem().status(&ProblemStyle::default())
    }

    fn error_response(&self) -> HttpResponse {
        let problem = self.problem();
        let mut response = problem.response(&ProblemStyle::default());
        response.extensions_mut().insert(OwnAnswer(problem));
        response
    }
}
