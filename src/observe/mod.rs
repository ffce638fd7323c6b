//! What became of requests, for those who watch.

pub(crate) mod metrics;
pub(crate) mod report;

pub use self::report::{Listener, Outcome, Report};
