//! Records in a key-value store of the application's own: the trait [`Storage`], to be combined with a
//! [`Lock`](super::Lock).

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::store::StoreError;

/// Gets and puts bytes under a name: the counterpart of Django's storage class.
///
/// Together with a [`Lock`](crate::store::Lock) it makes a [`ComposedStore`](crate::store::ComposedStore), which says
/// what such a combination can't promise. Registered with [`Builder::storage`](crate::Builder::storage) and chosen by
/// `storage.class`.
///
/// ```
/// use std::{collections::HashMap, sync::Mutex, time::Duration};
/// use actix_idempotency::{Storage, store::StoreError};
/// use bytes::Bytes;
///
/// #[derive(Default)]
/// struct Toy(Mutex<HashMap<String, Bytes>>);
///
/// impl Storage for Toy {
///     async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
///         Ok(self.0.lock().map_err(|e| StoreError::unavailable(e.to_string()))?.get(name).cloned())
///     }
///     async fn put(&self, name: &str, value: Bytes, _ttl: Duration) -> Result<(), StoreError> {
///         self.0.lock().map_err(|e| StoreError::unavailable(e.to_string()))?.insert(name.into(), value);
///         Ok(())
///     }
///     async fn remove(&self, name: &str) -> Result<bool, StoreError> {
///         Ok(self.0.lock().map_err(|e| StoreError::unavailable(e.to_string()))?.remove(name).is_some())
///     }
/// }
/// ```
pub trait Storage: Send + Sync + 'static {
    /// The value that was put under `name` and has not expired.
    fn get(&self, name: &str) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Keeps `value` under `name` for `ttl`. Replaces an earlier value.
    fn put(&self, name: &str, value: Bytes, ttl: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes the value under `name`. Whether there was one.
    fn remove(&self, name: &str) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// [`Storage`] as a trait object.
pub(crate) trait ErasedStorage: Send + Sync {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Bytes>>;
    fn put<'a>(&'a self, name: &'a str, value: Bytes, ttl: Duration) -> BoxFuture<'a, ()>;
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, bool>;
}

impl<S: Storage> ErasedStorage for S {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Bytes>> {
        Box::pin(Storage::get(self, name))
    }

    fn put<'a>(&'a self, name: &'a str, value: Bytes, ttl: Duration) -> BoxFuture<'a, ()> {
        Box::pin(Storage::put(self, name, value, ttl))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(Storage::remove(self, name))
    }
}

/// A [`Storage`] of any type.
#[derive(Clone)]
pub(crate) struct AnyStorage(pub(crate) Arc<dyn ErasedStorage>);

impl fmt::Debug for AnyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage")
    }
}
