//! The crate as clients see it: refusals, and how an API describes them.

pub mod cors;
pub mod openapi;
pub(crate) mod prefer;
pub mod problem;
