//! The parts that all workers of a process share: how they are built, how they are shut down, and how operators reach
//! records.

mod builder;
mod idempotency;
mod operators;
mod shutdown;

pub(crate) use self::idempotency::PrincipalFn;
pub use self::{builder::Builder, idempotency::Idempotency};
