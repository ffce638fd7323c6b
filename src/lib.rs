#![doc = include_str!("docs/links.md")]
#![doc = ""]
#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// The folders, from the top floor to the ground. A folder names only folders below it, which `cargo xtask folders`
// checks. `docs/architecture.md` describes each.

#[cfg(feature = "testing")]
pub mod testing;

// What does an application mount? The operators' page.
mod endpoints;
// What happens to a request?
pub mod middleware;
// What do all workers share, and how is it built and shut down?
mod app;
// How does a request get a claim, wait for one, hold it and end it?
mod claim;
// What does a handler see and say?
mod handler;
// How are a handler's rows and its answer committed together?
pub mod ledger;
// What does a client see? Refusals, OpenAPI, CORS.
mod client;
// What can be set?
pub mod settings;
// Where are records kept, and which request may run?
pub mod store;
// Who hears what became of a request?
pub mod observe;
// How is it hidden from whoever reads a store?
mod sealing;
// How is a response kept?
pub mod record;
// What names an operation? Key, principal, fingerprint, record id.
pub mod key;
// Does a route require a key?
mod policy;

#[cfg(any(doc, doctest))]
pub mod docs;

pub use self::{
    app::{Builder, Idempotency},
    client::{cors, openapi, problem},
    endpoints::OperationsScope,
    handler::{IdempotencyInfo, KeepFor, ResponseExt, StoreOverride, lost, steps},
    key::{BasicKeyEncoder, DjangoKeyEncoder, KeyEncoder, Principal},
    middleware::{ExemptIdempotencyKey, IdempotencyKey, guard},
    policy::Policy,
    settings::{ConfigError, Settings},
    store::{Lock, Storage},
};
