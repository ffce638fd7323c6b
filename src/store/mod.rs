//! Where records are kept, and who may run.

pub(crate) mod clock;
mod contract;
pub(crate) mod key_value;
mod memory;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "redis")]
pub use self::redis::{RedisLock, RedisStore};
pub use self::{
    clock::Clock,
    contract::{
        Begin, BeginRequest, Claim, Completion, Fate, Forgotten, Inspection, Mode, OwnerToken, RecordState, Renewal,
        Store, StoreError, StoreFuture,
    },
    key_value::{ComposedStore, Lock, Storage, ThreadLock},
    memory::{MemoryLimits, MemoryStore},
};
