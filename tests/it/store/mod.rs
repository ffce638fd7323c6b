//! Stores: the suites that every store must pass, the properties of single stores, and custom parts.

#[cfg(feature = "testing")]
mod acceptance;
#[cfg(feature = "testing")]
mod broken_stores;
mod composed;
pub(crate) mod custom_parts;
mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod shares;
pub(crate) mod sqlite;
