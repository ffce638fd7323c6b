//! Outcomes of requests, for the log, for metrics and for the application's own listeners.

pub(crate) mod metrics;
mod outcome;
mod report;

pub(crate) use self::report::Observers;
pub use self::{
    outcome::Outcome,
    report::{Listener, Report},
};
