//! The services that the wraps [`IdempotencyKey`] and [`ExemptIdempotencyKey`] make, and the way of a request through
//! them. Applications name these types seldom.
//!
//! # The way of a request
//!
//! 1. `service` finds out who governs the request. The innermost instance or guard that the request reaches does. An instance
//!    that may have others inside asks the router first: it takes the payload away, puts a deferred one in its place, and
//!    calls its inner service, which in actix-web routes synchronously and runs nothing before its future is polled.
//! 2. `decide` reads key and body, asks the store, and decides: run, replay, refuse or pass.
//! 3. `run` calls the handler and catches its panics.
//! 4. `response::capture` stores the response before the client gets it, if its status says so (`response::keep`). A streamed
//!    response passes on while `response::recording` copies it, and its end is withheld until the record is stored.
//! 5. A retry gets the stored response from `response::replay`, or a [problem](crate::problem).
//!
//! `operation` holds the obligations of a running operation: its claim, its place among the operations in flight, and
//! one report of its outcome. Dropping it meets them in this order.
//!
//! # The way of a client that leaves
//!
//! When a connection ends, actix-web drops the future of the request. What that means depends on how far the request
//! is:
//!
//! | the client leaves | what happens | where |
//! |---|---|---|
//! | before the claim is asked for | the future is dropped, and nothing has happened | |
//! | while `begin` is under way | the token is given up in the background, because the claim may have been granted | `claim::write_behind`, `BeginGuard` |
//! | while the handler runs | with `on_disconnect = finish` the future is spawned as a task of its worker and finishes; with `cancel` it is dropped, which frees the key | `run`, `CallFuture` |
//! | while the response is written to the store | the write goes on in the background | `claim::hold`, `HeldClaim` |
//! | while it reads a streamed response | with `finish` the stream is read on for `limits.drain_timeout`, and an event stream is completed without its body; with `cancel` it is dropped, which frees the key | `response::recording`, `OnClientGone` |

mod config;
mod decide;
mod detach;
pub mod guard;
mod nesting;
mod operation;
mod probe;
mod recorder;
mod request;
mod response;
mod run;
mod service;
mod wrap;

pub use self::{
    nesting::MakingService,
    response::AnswerBody,
    run::CallFuture,
    service::IdempotencyService,
    wrap::{ExemptIdempotencyKey, IdempotencyKey},
};
