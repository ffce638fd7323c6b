//! The interface for handlers: the request's key and claim, and a handler's word on whether its response is stored.

mod derive;
mod governance;
mod info;
pub mod lost;
pub mod steps;
mod store_override;

pub(crate) use self::{
    governance::Stage,
    steps::{Journal, SaveSteps},
};
pub use self::{
    info::IdempotencyInfo,
    store_override::{KeepFor, ResponseExt, StoreOverride},
};
