//! What all workers of a process share, and how it is put together.

pub(crate) mod builder;
pub(crate) mod idempotency;

pub use self::{builder::Builder, idempotency::Idempotency};
