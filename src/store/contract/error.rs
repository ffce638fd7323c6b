//! Why a store could not answer.

use std::time::Duration;

use crate::record::UnreadableRecord;

/// Why a store could not answer. Clients see the problem `store-unavailable`; the cause goes to the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store can't be reached, or refuses to work right now.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store did not answer within `storage.timeout`. The call may have been applied.
    #[error("the store did not answer within {0:?}")]
    TimedOut(Duration),
    /// The store is full, and nothing may be evicted.
    #[error("the store is full")]
    Full,
    /// This store does not have the feature that was asked for.
    #[error("this store can't {0}")]
    Unsupported(&'static str),
    /// A key of `encryption.*` is not the one that the records of the store were made with.
    #[error("{0}")]
    Keys(String),
    /// The store holds bytes that this crate can't read.
    #[error("the store holds an unreadable record")]
    Unreadable(#[from] UnreadableRecord),
}

impl StoreError {
    /// The store holds something that this crate did not write, or a version that it does not read.
    #[cfg(feature = "redis")]
    pub(crate) fn foreign(what: &'static str) -> Self {
        Self::Unreadable(UnreadableRecord::Damaged(what.into()))
    }

    /// Wraps the error of a client library.
    pub fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(error.into())
    }
}
