#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
mod background;
mod builder;
mod claim;
mod clock;
#[cfg(feature = "redis")]
mod connections;
pub mod cors;
mod encoder;
mod error;
mod fingerprint;
pub mod guard;
mod idempotency;
mod info;
mod key;
mod lock;
mod metrics;
mod middleware;
pub mod openapi;
mod operations;
mod policy;
mod principal;
pub mod problem;
mod record;
mod report;
mod settings;
mod storage;
mod store;
mod sync;
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
    builder::Builder,
    clock::Clock,
    encoder::{BasicKeyEncoder, CanonicalJsonEncoder, DjangoKeyEncoder, KeyEncoder, KeyRequest, RequestHeaders},
    error::ConfigError,
    fingerprint::{Fingerprint, ParseRecordIdError, RecordId},
    idempotency::Idempotency,
    info::IdempotencyInfo,
    key::{InvalidKey, Key, Syntax},
    lock::{Lock, ThreadLock},
    middleware::{
        AnswerBody, CallFuture, ExemptIdempotencyKey, Exempted, IdempotencyKey, IdempotencyService, Keyed,
        StoreResponse, Wrap,
    },
    policy::Policy,
    principal::Principal,
    record::{Record, StoredResponse, UnreadableRecord},
    report::{Listener, Outcome, Report},
    settings::{
        AtStart, Enforcement, Limits, Location, LockSettings, Methods, OnDisconnect, OnError, OnFull, OnUnknown,
        ParseStatusesError, Profile, Scope, Settings, SettingsLoader, Statuses, StorageSettings,
    },
    storage::Storage,
    store::{
        Begin, BeginRequest, Claim, Completion, ComposedStore, Fate, Forgotten, Inspection, MemoryLimits, MemoryStore,
        Mode, OwnerToken, RecordState, Renewal, Store, StoreError, StoreFuture,
    },
};
#[cfg(feature = "redis")]
pub use self::{lock::RedisLock, store::RedisStore};
