//! The parts that all workers of a process share: how they are built, how they are shut down, and how operators reach
//! records.

mod builder;
mod idempotency;
mod operators;
mod principals;
mod promises;
mod shutdown;

pub use self::{builder::Builder, idempotency::Idempotency};
pub(crate) use self::{idempotency::PrincipalFn, promises::warn_of_given_up_promises};
