//! Stores: the suites that every store must pass, the properties of single stores, and custom parts.

#[cfg(feature = "testing")]
mod acceptance;
pub(crate) mod custom_parts;
mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
