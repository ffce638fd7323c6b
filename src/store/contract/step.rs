//! The journal of a record: results of the steps of its operation, which the next attempt finds.

use std::{fmt, time::SystemTime};

use bytes::Bytes;

/// One step of an operation.
#[derive(Clone)]
#[non_exhaustive]
pub struct Step {
    /// The name, unique within the operation.
    pub name: Box<str>,
    /// The result. `None`: the step was started, and its result is not known. Empty: the step was started, and had no
    /// effect.
    pub result: Option<Bytes>,
    /// When the process that ran the step saved it, by its own clock.
    pub at: Option<SystemTime>,
}

impl Step {
    /// How many steps a record may have.
    pub const MOST: usize = 64;
    /// How many bytes a name, and a result, may have.
    pub const MOST_BYTES: usize = 16 << 10;

    /// A step that was started.
    #[must_use]
    pub fn started(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), result: None, at: None }
    }

    /// A step with its result.
    #[must_use]
    pub fn done(name: impl Into<Box<str>>, result: impl Into<Bytes>) -> Self {
        Self { name: name.into(), result: Some(result.into()), at: None }
    }

    /// A step that was started and had no effect. It can be started again.
    #[must_use]
    pub fn not_done(name: impl Into<Box<str>>) -> Self {
        Self::done(name, Bytes::new())
    }

    /// Sets [`at`](Self::at).
    #[must_use]
    pub fn at(mut self, at: Option<SystemTime>) -> Self {
        self.at = at;
        self
    }

    /// Whether the step has a result that stays.
    pub(crate) fn is_done(&self) -> bool {
        self.result.as_ref().is_some_and(|result| !result.is_empty())
    }

    /// Whether the result is sealed: its first byte is 0, with which no JSON begins.
    pub(crate) fn is_sealed(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.first() == Some(&0))
    }

    /// Whether name and result are small enough.
    pub(crate) fn fits(&self) -> bool {
        self.name.len() <= Self::MOST_BYTES
            && self.result.as_ref().is_none_or(|result| result.len() <= Self::MOST_BYTES)
    }

    /// The bytes that the step is accounted for.
    pub(crate) fn len(&self) -> usize {
        self.name.len() + self.result.as_ref().map_or(0, Bytes::len)
    }
}

/// Steps are equal when their results are, whenever they were saved.
impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.result == other.result
    }
}

impl Eq for Step {}

/// Results are not shown: they may be secret.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = self.result.as_ref().map(Bytes::len);
        f.debug_struct("Step").field("name", &self.name).field("result_bytes", &result).field("at", &self.at).finish()
    }
}

/// The answer of [`Store::save_step`](super::Store::save_step).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The step is saved. If it had a result before that is not empty, that one stays.
    Saved,
    /// This token does not hold the claim any more.
    Lost,
    /// The store has no such record any more. The owner can restore its claim.
    Gone,
    /// The record has [`Step::MOST`] steps, the result is larger than [`Step::MOST_BYTES`], or the store is full.
    Full,
}
