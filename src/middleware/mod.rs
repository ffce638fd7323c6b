//! The services that the wraps [`IdempotencyKey`] and [`ExemptIdempotencyKey`] make, and the way of a request through
//! them. Applications name these types seldom.
//!
//! # The way of a request
//!
//! 1. `service` finds out who governs the request. The innermost instance or guard that the request reaches does. An
//!    instance that may have others inside asks by a copy of the request first (`probe`), and before anything runs by the
//!    request itself: it puts a deferred payload in the place of the real one and calls its inner service, which in actix-web
//!    routes synchronously and runs nothing before its future is polled.
//! 2. `decide` reads key and body, asks the store, and decides: run, replay, refuse or pass. `admit` refuses a first run
//!    of a principal that begins too many.
//! 3. `run` calls the handler and catches its panics.
//! 4. `response::capture` stores the response before the client gets it, if its status says so (`response::keep`). A streamed
//!    response is copied by a task (`response::pump`); its client reads the copy (`response::recording`), whose end is
//!    withheld until the record is stored.
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
//! | before the claim is asked for | the future is dropped; its bytes and its place in flight are given back | |
//! | while it waits for another claim | the future is dropped, and the place among the waiters is free | `claim::wait` |
//! | while `begin` is under way | the token is given up in the background, because the claim may have been granted | `claim::write_behind`, `BeginGuard` |
//! | while the handler runs | with `on_disconnect = finish` the future is spawned as a task of its worker and finishes within what is left of `limits.max_run` ([`on_detach`](IdempotencyKey::on_detach) restores task-locals for it); with `cancel`, and in observe mode, it is dropped, which frees the key or marks the record as lost, as `on_unknown` says | `run`, `DetachableFuture` |
//! | while the response is written to the store, or the claim released | the future is spawned; where it is dropped, the write goes on in the background | `claim::hold`, `HeldClaim` |
//! | while it reads a streamed response | with `finish` the stream is copied on for `limits.drain_timeout`, and stored without its body when that is over; with `cancel` it is dropped as above. A stream that is stored already is dropped, and an event stream is completed without its body | `response::pump`, `response::recording` |

mod accepted;
mod admit;
mod config;
mod consult;
mod decide;
mod detach;
#[cfg(feature = "encryption")]
mod differences;
pub mod guard;
mod nesting;
mod operation;
mod plan;
mod probe;
mod reconcile;
mod recorder;
mod request;
mod response;
mod run;
mod service;
mod stored_answers;
mod streamed;
mod wrap;

pub(crate) use self::stored_answers::StoredAnswers;
pub use self::{
    nesting::MakingService,
    response::AnswerBody,
    run::CallFuture,
    service::IdempotencyService,
    wrap::{ExemptIdempotencyKey, IdempotencyKey},
};
