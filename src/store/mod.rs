#![doc = include_str!("../docs/links.md")]
#![doc = ""]
#![doc = include_str!("../../docs/stores.md")]

pub(crate) mod background;
pub(crate) mod clock;
mod contract;
pub(crate) mod key_value;
pub mod lifecycle;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "redis")]
pub use self::redis::{RedisLock, RedisOptions, RedisStore};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteOptions, SqliteStore};
pub use self::{
    clock::Clock,
    contract::{
        Acquired, Begin, BeginRequest, Claim, Completion, Durability, Erased, Forgotten, Found, IfCompleted,
        Inspection, Location, LocationError, Moment, OnFull, OnUnknown, OwnerToken, RecordState, ReleaseAs, Renewal,
        Restore, Saved, SeenStep, StartupCheck, Step, Store, StoreError, StoreFuture, Wait,
    },
    key_value::{ComposedStore, Lock, Storage, ThreadLock},
    memory::{MemoryLimits, MemoryStore},
};
