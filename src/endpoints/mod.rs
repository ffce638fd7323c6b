//! Endpoints that an application mounts: the operators' page and its JSON, and look-ups for clients.

mod admin;
mod operations;

pub use self::operations::OperationsScope;
