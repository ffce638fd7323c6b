#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod app;
mod claim;
mod client;
mod endpoints;
mod handler;
pub mod key;
pub mod middleware;
pub mod observe;
mod policy;
pub mod record;
pub mod settings;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

/// The pages of `docs/`, so that their code is compiled.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../docs/clients.md")]
    mod clients {}
    #[doc = include_str!("../docs/cookbook.md")]
    mod cookbook {}
    #[doc = include_str!("../docs/django.md")]
    mod django {}
}

pub use self::{
    app::{Builder, Idempotency},
    client::{cors, openapi, problem},
    handler::IdempotencyInfo,
    key::{BasicKeyEncoder, DjangoKeyEncoder, KeyEncoder, Principal},
    middleware::{ExemptIdempotencyKey, IdempotencyKey, StoreResponse, guard},
    policy::Policy,
    settings::{ConfigError, Settings},
    store::{Lock, Storage},
};
