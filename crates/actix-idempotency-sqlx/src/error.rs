//! The error of a handler's statements.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use std::any::Any;

use actix_idempotency::ledger::TransactionError;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use actix_idempotency::ledger::{Cause, LedgerError};
use actix_web::{HttpResponse, ResponseError, http::StatusCode};

/// The error type for handlers and closures with transactions: `?` takes sqlx's errors and the ledger's.
///
/// Conflicts, and databases that can't be reached, become a 503 `store-unavailable`; every other error of a statement
/// becomes a 500 `transaction-failed`. The key is free in both cases, and the text of the error goes to the log only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A statement failed.
    #[error(transparent)]
    Statement(#[from] sqlx::Error),
    /// There is no transaction, or it was not committed.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Statement(error) if is_passing(error) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Statement(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Transaction(error) => error.status_code(),
        }
    }

    fn error_response(&self) -> HttpResponse {
        match self {
            Self::Statement(error) => {
                tracing::error!(%error, "a statement of a handler failed");
                let cause = error.to_string().into();
                let is_passing = is_passing(error);
                if is_passing { TransactionError::Unavailable(cause) } else { TransactionError::Failed(cause) }
                    .error_response()
            }
            Self::Transaction(error) => error.error_response(),
        }
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    !matches!(kind(error), Kind::Refused | Kind::Unreadable)
}

/// Whether a closure's error is one of the database that may not come again.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn may_retry(error: &dyn Any) -> bool {
    let of_error = |error: &Error| match error {
        Error::Statement(error) => kind(error) == Kind::Conflict,
        Error::Transaction(_) => false,
    };
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return kind(error) == Kind::Conflict;
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return of_error(error);
    }
    let actix = error.downcast_ref::<actix_web::Error>();
    actix.and_then(|error| error.as_error::<Error>()).is_some_and(of_error)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unavailable,
    Conflict,
    Refused,
    Unreadable,
}

/// Sorts an error by its meaning for the transaction.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn ledger_error(error: sqlx::Error) -> LedgerError {
    let kind = kind(&error);
    let cause: Cause = error.into();
    match kind {
        Kind::Unavailable => LedgerError::Unavailable(cause),
        Kind::Conflict => LedgerError::Conflict(cause),
        Kind::Refused => LedgerError::Refused(cause),
        Kind::Unreadable => LedgerError::Unreadable(cause),
    }
}

/// As [`ledger_error`], for a COMMIT: nobody knows whether one was made whose answer did not come.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn commit_error(error: sqlx::Error) -> LedgerError {
    match ledger_error(error) {
        LedgerError::Unavailable(cause) | LedgerError::Unreadable(cause) => LedgerError::Unknown(cause),
        error => error,
    }
}

fn kind(error: &sqlx::Error) -> Kind {
    use sqlx::Error as E;
    match error {
        E::Database(error) => {
            let code = error.code().unwrap_or_default();
            #[cfg(feature = "postgres")]
            if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
                return kind_of_postgres(&code, error.severity());
            }
            kind_of_sqlite(&code)
        }
        E::PoolTimedOut | E::PoolClosed | E::Io(_) | E::Tls(_) | E::Protocol(_) | E::WorkerCrashed | E::BeginFailed => {
            Kind::Unavailable
        }
        E::ColumnDecode { .. } | E::Decode(_) | E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } => {
            Kind::Unreadable
        }
        _ => Kind::Refused,
    }
}

/// PostgreSQL, appendix A. Class 08 is the connection's, 53 a lack of resources; pooling proxies use 08P01.
#[cfg(feature = "postgres")]
fn kind_of_postgres(code: &str, severity: sqlx::postgres::PgSeverity) -> Kind {
    use sqlx::postgres::PgSeverity;
    match code {
        // Serialization failure, deadlock, lock not available, statement cancelled.
        "40001" | "40P01" | "55P03" | "57014" => Kind::Conflict,
        // Statement completion unknown.
        "40003" => Kind::Unavailable,
        _ if matches!(severity, PgSeverity::Fatal | PgSeverity::Panic) => Kind::Unavailable,
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => Kind::Unavailable,
        _ => Kind::Refused,
    }
}

/// The extended result codes of SQLite; the low byte is the primary one: 5 is busy, 6 locked.
fn kind_of_sqlite(code: &str) -> Kind {
    match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(5 | 6) => Kind::Conflict,
        // I/O, full, can't open.
        Ok(10 | 13 | 14) => Kind::Unavailable,
        _ => Kind::Refused,
    }
}
