//! A request until its handler has it.

pub(super) mod accept_encoding;
mod body;
mod head;
mod pending;
mod synthetic;

use std::future::Ready;

use actix_web::Error;
use futures_util::future::{Either, LocalBoxFuture};

pub(super) use self::{
    body::{Announced, BodyLimits, RequestBody},
    head::HeadRef,
    pending::PendingRequest,
    synthetic::SyntheticRequests,
};

/// A result that is mostly known at once. Only a result that must be waited for is a future, in a box: the future of
/// every request is moved, and must stay small.
pub(super) type MaybeReady<'a, T> = Either<Ready<Result<T, Error>>, LocalBoxFuture<'a, Result<T, Error>>>;
