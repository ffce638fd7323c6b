//! A store that has sealed records only, without a server around it.

use std::sync::Arc;

use crate::{
    claim::Sealed,
    sealing::{CacheSeals, Seals},
    settings::{ConfigError, Encryption},
    store::Store,
};

/// The store as the middleware uses it with these keys: it gets sealed records and steps, and gives opened ones. For tests
/// of a store with [`accept_store`](super::accept_store), and of what is found in it.
///
/// # Errors
/// [`ConfigError::Key`] for a key that can't be read, and [`ConfigError::Combination`] without any.
pub fn sealed_store(store: impl Store, encryption: &Encryption) -> Result<impl Store, ConfigError> {
    encryption.check().map_err(ConfigError::Combination)?;
    let seals = CacheSeals::new(&Seals::read(encryption)?, "", "default");
    if !seals.are_set() {
        return Err(ConfigError::Combination("`encryption.keys` is empty".into()));
    }
    Ok(Sealed::new(Arc::new(store), seals))
}
