//! The pair of `Transform`s, and the way of a request through them: `service` decides, `request::pending` goes inside
//! or answers (`request::synthetic` for a request that is lost inside), `run` runs, `response` records and replays.

mod config;
pub mod guard;
mod nesting;
mod request;
mod response;
mod run;
mod service;
mod witness;
mod wrap;

pub(crate) use self::response::capture::OBSERVED;
pub use self::{
    response::{body::AnswerBody, capture::StoreResponse},
    run::CallFuture,
    service::IdempotencyService,
    wrap::{ExemptIdempotencyKey, Exempted, IdempotencyKey, Keyed, Wrap},
};
