//! What a client sent to name its operation, and the hashes that are made of it.

mod client_key;
pub(crate) mod encoder;
pub(crate) mod fingerprint;
mod principal;

pub use self::{
    client_key::{InvalidKey, Key, Syntax},
    encoder::{BasicKeyEncoder, CanonicalJsonEncoder, DjangoKeyEncoder, KeyEncoder, KeyRequest, RequestHeaders},
    fingerprint::{Fingerprint, ParseRecordIdError, RecordId},
    principal::Principal,
};
