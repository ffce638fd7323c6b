//! A store that is composed of two parts: a key-value storage and a lock.

mod composed;
mod lock;
mod storage;

pub use self::{
    composed::ComposedStore,
    lock::{Lock, ThreadLock},
    storage::Storage,
};
pub(crate) use self::{lock::AnyLock, storage::AnyStorage};
