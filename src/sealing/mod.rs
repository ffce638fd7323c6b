//! Seals what stores and ledgers keep: records and results of steps, and the hashes by which they are found.
//!
//! Only [`ring`] rotates. The ids of records, and the keys that handlers derive from them, have nothing to do with the
//! keys of the ring: a rotated key that moved an id would run a live operation again.

#[cfg(feature = "encryption")]
mod cipher;
mod entry;
mod index;
#[cfg(feature = "encryption")]
mod mac;
#[cfg(feature = "encryption")]
mod nonce;
#[cfg(feature = "encryption")]
mod operation;
#[cfg(feature = "encryption")]
mod pairs;
#[cfg(feature = "encryption")]
mod ring;
#[cfg(feature = "encryption")]
mod seals;
mod secret;
#[cfg(all(test, feature = "encryption"))]
mod tests;

pub use self::entry::{Encryption, KeyError, ParseKeyError, SealingKey, SealingMode, SecretSource};
pub(crate) use self::index::Index;
#[cfg(feature = "encryption")]
pub(crate) use self::{
    operation::Sealing,
    ring::STEP_OVERHEAD,
    seals::{CacheSeals, Check, Seals},
};
