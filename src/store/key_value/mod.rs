//! A store out of two parts: a key-value storage and a lock.

mod composed;
pub(crate) mod lock;
pub(crate) mod storage;

pub use self::{
    composed::ComposedStore,
    lock::{Lock, ThreadLock},
    storage::Storage,
};
