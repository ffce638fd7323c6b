//! Errors that a handler meets when it runs steps.

use std::fmt;

use actix_web::{Error, HttpResponse, ResponseError, http::StatusCode};

use crate::{
    client::problem::{Problem, ProblemStyle},
    handler::StoreOverride,
    ledger::OwnAnswer,
    store::{Step, StoreError},
};

/// Why a step has no result.
///
/// A handler returns it as it is. The middleware makes the answer of it, which is never stored:
///
/// | error | answer |
/// |---|---|
/// | [`Failed`](Self::Failed) | that of the closure's error, which is stored if its status says so |
/// | [`Unknown`](Self::Unknown) | 409 `outcome-unknown` |
/// | [`Superseded`](Self::Superseded) | the response of the owner that took over, or `in-flight` until there is one |
/// | [`Unavailable`](Self::Unavailable) | 503 `store-unavailable` |
/// | [`Full`](Self::Full) | 500 `steps-full` |
/// | [`InTransaction`](Self::InTransaction) | 500 `transaction-misused` |
/// | the others | 500 |
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The closure failed. Nothing was saved: the next attempt runs the step again, under the same key.
    #[error("{0}")]
    Failed(Error),
    /// An earlier attempt started the step, which runs at most once, and nobody knows what became of it.
    #[error("step `{step}` was started before, and whether it took effect is not known")]
    Unknown {
        /// The name of the step.
        step: Box<str>,
    },
    /// This request does not hold the key any more. Its handler must end: another request may run.
    #[error("step `{step}` is not saved: another request has taken the key over")]
    Superseded {
        /// The name of the step.
        step: Box<str>,
    },
    /// The store can't save the step at the moment. If its closure ran, the next attempt runs it again.
    #[error("step `{step}` could not be saved")]
    Unavailable {
        /// The name of the step.
        step: Box<str>,
        /// The reason.
        source: StoreError,
    },
    /// The operation has 64 steps already, or the name or the result has more than 16 KiB.
    #[error(
        "step `{step}` can't be saved: an operation may have {} steps with names and results of {} bytes",
        Step::MOST,
        Step::MOST_BYTES
    )]
    Full {
        /// The name of the step.
        step: Box<str>,
    },
    /// The saved result is not one of this type. A deployment may have changed the type: give the step another name, for
    /// example `charge/2`.
    #[error("the saved result of step `{step}` is no {type_name}")]
    Undecodable {
        /// The name of the step.
        step: Box<str>,
        /// The type that the handler expects.
        type_name: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// The result can't be written as JSON. The closure has run.
    #[error("the result of step `{step}` can't be saved as JSON")]
    Unencodable {
        /// The name of the step.
        step: Box<str>,
        /// The reason.
        source: serde_json::Error,
    },
    /// The run has a step of this name already, or one is under way.
    #[error("there are two steps of the name `{step}`")]
    Repeated {
        /// The name of the step.
        step: Box<str>,
    },
    /// A transaction of the request is open. What a step does can't be rolled back, and waiting for it would hold a
    /// connection: run steps before the transaction.
    #[error("step `{step}` can't run while a transaction of the request is open: run it before")]
    InTransaction {
        /// The name of the step.
        step: Box<str>,
    },
    /// The step is to run at most once, and no claim protects the request.
    #[error("step `{step}` is to run at most once, and no claim protects its request")]
    Unprotected {
        /// The name of the step.
        step: Box<str>,
    },
    /// The store can't save steps.
    #[error("step `{step}` can't be saved: the store does not save steps")]
    Unsupported {
        /// The name of the step.
        step: Box<str>,
    },
    /// The handler has returned.
    #[error("step `{step}` was begun after its handler had returned")]
    Late {
        /// The name of the step.
        step: Box<str>,
    },
}

impl StepError {
    /// `None`: the answer is that of the closure's error.
    const fn problem(&self) -> Option<Problem> {
        Some(match self {
            Self::Failed(_) => return None,
            Self::Unknown { .. } => Problem::OutcomeUnknown,
            Self::Superseded { .. } => Problem::InFlight { grace: None },
            Self::Unavailable { .. } => Problem::StoreUnavailable,
            Self::Full { .. } => Problem::StepsFull,
            Self::InTransaction { .. } => Problem::TransactionMisused,
            Self::Unprotected { .. }
            | Self::Unsupported { .. }
            | Self::Undecodable { .. }
            | Self::Unencodable { .. }
            | Self::Repeated { .. }
            | Self::Late { .. } => Problem::Panicked,
        })
    }
}

impl ResponseError for StepError {
    fn status_code(&self) -> StatusCode {
        match (self, self.problem()) {
            (Self::Failed(error), _) => error.as_response_error().status_code(),
            (_, problem) => {
                problem.map_or(StatusCode::INTERNAL_SERVER_ERROR, |problem| problem.status(&ProblemStyle::default()))
            }
        }
    }

    fn error_response(&self) -> HttpResponse {
        let Some(problem) = self.problem() else {
            return match self {
                Self::Failed(error) => error.error_response(),
                _ => HttpResponse::InternalServerError().finish(),
            };
        };
        // Clients learn only which kind it is.
        tracing::error!(error = self as &dyn std::error::Error, "a step has no result");
        let mut response = problem.response(&ProblemStyle::default());
        response.extensions_mut().insert(OwnAnswer(problem));
        response.extensions_mut().insert(StoreOverride::Never);
        response
    }
}

/// The error of a closure that knows that its step had no effect, although it runs
/// [at most once](super::StepCall::at_most_once): the next attempt runs it again.
///
/// ```
/// use actix_idempotency::{IdempotencyInfo, steps::NotDone};
/// use actix_web::{Error, HttpResponse, error::ErrorBadGateway};
///
/// async fn text(info: IdempotencyInfo) -> Result<HttpResponse, Error> {
///     let refused = || NotDone(ErrorBadGateway("the gateway refused the connection"));
///     let id: u64 = info.step("sms", async |_| Err::<u64, _>(refused())).at_most_once().await?;
///     Ok(HttpResponse::Created().json(id))
/// }
/// ```
pub struct NotDone(pub Error);

impl fmt::Debug for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl ResponseError for NotDone {
    fn status_code(&self) -> StatusCode {
        self.0.as_response_error().status_code()
    }

    fn error_response(&self) -> HttpResponse {
        self.0.error_response()
    }
}
