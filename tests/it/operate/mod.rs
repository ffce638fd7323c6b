//! Operating a service: reports, traces, metrics, the admin page, observe mode.

mod listing;
mod observing;
pub(crate) mod operators;
mod reports;
pub(crate) mod traces;
mod warnings;
