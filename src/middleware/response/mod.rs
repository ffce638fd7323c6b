//! A response from its handler, or from a record.

pub(crate) mod body;
pub(crate) mod capture;
pub(crate) mod replay;
