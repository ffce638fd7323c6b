//! A request until its handler has it.

pub(crate) mod body;
pub(crate) mod pending;
pub(crate) mod synthetic;
