//! A request until its handler has it.

pub(super) mod accept_encoding;
mod body;
mod head;
mod pending;
mod synthetic;
mod upload;

pub(super) use self::{
    body::{Announced, BodyLimits, RequestBody},
    head::{HeadRef, RequestHead},
    pending::PendingRequest,
    synthetic::SyntheticRequests,
    upload::{Unsettled, Upload},
};
