//! How a client names its operation, and the hashes that are made of it.
//!
//! A [`Key`] is what the client sends. A [`KeyEncoder`] makes two things of a request: the encoded key, which together
//! with the [`Principal`] gives the [`RecordId`] under which the record is found; and the [`Fingerprint`], which must
//! be the same when the key comes again.

mod client_key;
mod comparison;
mod content_digest;
pub(crate) mod digest;
mod encoder;
mod fingerprint;
mod principal;
pub(crate) mod record_id;
mod sources;
mod structured_field;

#[cfg(all(test, feature = "encryption"))]
pub(crate) use self::encoder::MOST_LEAVES;
#[cfg(feature = "encryption")]
pub(crate) use self::encoder::{Leaf, leaves};
pub(crate) use self::{
    client_key::header_name,
    comparison::{Comparison, pointer},
    content_digest::content_digest,
    encoder::{is_json, streamed_fingerprint},
    sources::Sources,
};
pub use self::{
    client_key::{InvalidKey, Key, Syntax},
    encoder::{BasicKeyEncoder, CanonicalJsonEncoder, DjangoKeyEncoder, KeyEncoder, KeyRequest, RequestHeaders},
    fingerprint::{Fingerprint, Match},
    principal::{Principal, PrincipalTag},
    record_id::{ParseRecordIdError, RecordId},
};
