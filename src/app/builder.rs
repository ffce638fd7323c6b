//! Builds an [`Idempotency`]: from settings, and from parts of the application's own, registered under the names by
//! which settings choose them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use actix_web::{HttpResponse, dev::ServiceRequest};
use parking_lot::Mutex;

use super::{
    Idempotency,
    idempotency::{PrincipalFn, Shared},
    promises::warn_of_given_up_promises,
};
#[cfg(feature = "encryption")]
use crate::sealing::{CacheSeals, Seals};
#[cfg(feature = "redis")]
use crate::store::{RedisLock, RedisOptions, RedisStore};
#[cfg(feature = "sqlite")]
use crate::store::{SqliteOptions, SqliteStore};
use crate::{
    claim::{Caught, FirstRuns, InFlight, StoreHandle},
    client::problem::{Refusal, RefusalFn},
    key::{BasicKeyEncoder, CanonicalJsonEncoder, DjangoKeyEncoder, KeyEncoder, Principal},
    observe::{Listener, Observers, metrics},
    settings::{CacheOverrides, ConfigError, Settings, StorageSettings},
    store::{
        ComposedStore, Lock, MemoryLimits, MemoryStore, Storage, Store, ThreadLock,
        key_value::{AnyLock, AnyStorage},
    },
};

/// Makes an [`Idempotency`].
///
/// ```
/// use actix_idempotency::{Idempotency, Settings};
/// use std::time::Duration;
///
/// let mut settings = Settings::ietf();
/// settings.storage.ttl = Duration::from_secs(3600);
/// let builder = Idempotency::builder().settings(settings);
/// let idempotency = builder.cache("reports", |cache| cache.max_entries = 1000).build()?;
/// # let _ = idempotency;
/// # Ok::<(), actix_idempotency::ConfigError>(())
/// ```
#[derive(Default)]
#[must_use = "nothing is made before `build`"]
pub struct Builder {
    settings: Settings,
    caches: Vec<(String, CacheOverrides)>,
    encoders: BTreeMap<String, Arc<dyn KeyEncoder>>,
    stores: BTreeMap<String, Arc<dyn Store>>,
    storages: BTreeMap<String, AnyStorage>,
    locks: BTreeMap<String, AnyLock>,
    principal: Option<PrincipalFn>,
    observers: Observers,
    refusal: Option<RefusalFn>,
}

impl Builder {
    /// Sets the settings. Default: `Settings::default()`.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Declares a cache: it has the settings `storage.*`, changed by `change`. A cache that the settings declare
    /// already is changed further. `change` is called when the `Idempotency` is built, perhaps more than once.
    pub fn cache(
        mut self,
        name: impl Into<String>,
        change: impl Fn(&mut StorageSettings) + Send + Sync + 'static,
    ) -> Self {
        self.caches.push((name.into(), CacheOverrides::new().with(change)));
        self
    }

    /// Gives refusals another shape: `shape` gets what is to be said, and the response with problem details, and returns the
    /// response for the client.
    ///
    /// ```
    /// use actix_idempotency::{Idempotency, problem::Refusal};
    /// use actix_web::HttpResponse;
    ///
    /// let idempotency = Idempotency::builder().refusal(|refusal: &Refusal<'_>, response: HttpResponse| {
    ///     let body = format!(r#"{{"error":"{}"}}"#, refusal.name.unwrap_or("failed"));
    ///     response.set_body(body).map_into_boxed_body()
    /// });
    /// # let _ = idempotency;
    /// ```
    pub fn refusal(
        mut self,
        shape: impl Fn(&Refusal<'_>, HttpResponse) -> HttpResponse + Send + Sync + 'static,
    ) -> Self {
        self.refusal = Some(Arc::new(shape));
        self
    }

    /// Reports the outcome of every governed request to `listener`.
    pub fn listener(mut self, listener: impl Listener) -> Self {
        self.observers.add(Box::new(listener));
        self
    }

    /// Registers an encoder; `encoder = NAME` chooses it.
    pub fn encoder(mut self, name: impl Into<String>, encoder: impl KeyEncoder) -> Self {
        self.encoders.insert(name.into(), Arc::new(encoder));
        self
    }

    /// Registers a store that decides atomically by itself; `storage.class = NAME` chooses it.
    pub fn store(mut self, name: impl Into<String>, store: impl Store) -> Self {
        self.stores.insert(name.into(), Arc::new(store));
        self
    }

    /// Registers a key-value storage; `storage.class = NAME` chooses it, and `lock.class` chooses the lock that it is
    /// combined with.
    pub fn storage(mut self, name: impl Into<String>, storage: impl Storage) -> Self {
        self.storages.insert(name.into(), AnyStorage(Arc::new(storage)));
        self
    }

    /// Registers a lock for custom storages; `lock.class = NAME` chooses it.
    pub fn lock(mut self, name: impl Into<String>, lock: impl Lock) -> Self {
        self.locks.insert(name.into(), AnyLock(Arc::new(lock)));
        self
    }

    /// Finds the principal where no `Principal` is in the request's extensions. When it returns `None`, a hash of the
    /// credentials stands in.
    pub fn principal(
        mut self,
        principal: impl Fn(&ServiceRequest) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        self.principal = Some(Arc::new(principal));
        self
    }

    /// Builds the `Idempotency`. Connects to nothing; [`Idempotency::check`] does.
    ///
    /// # Errors
    /// [`ConfigError`] for settings that make no sense, and for names under which nothing is registered.
    pub fn build(mut self) -> Result<Idempotency, ConfigError> {
        for (name, overrides) in std::mem::take(&mut self.caches) {
            self.settings.override_cache(&name, overrides);
        }
        self.settings.check()?;
        self.settings.rules()?;
        self.lock_of_settings()?;
        warn_of_given_up_promises(&self.settings, None);
        #[cfg(not(feature = "encryption"))]
        if let Some(setting) = self.settings.encryption.first_set() {
            return Err(ConfigError::MissingFeature { setting, name: "encryption", feature: "encryption" });
        }
        #[cfg(feature = "encryption")]
        let seals = Seals::read(&self.settings.encryption)?;
        let in_flight = InFlight::new(&self.settings.limits);
        let first_runs = FirstRuns::new(self.settings.limits.fresh_per_principal);
        let caches = self.settings.all_caches().into_iter();
        let stores = caches
            .map(|(name, settings)| {
                let store = self.store_of(&name, &settings)?;
                #[cfg(feature = "encryption")]
                let handle = {
                    let seals = CacheSeals::new(&seals, &settings.namespace, &name);
                    StoreHandle::sealed(name.clone(), store, in_flight.clone(), seals)
                };
                #[cfg(not(feature = "encryption"))]
                let handle = StoreHandle::new(name.clone(), store, in_flight.clone());
                Ok((name, handle))
            })
            .collect::<Result<_, ConfigError>>()?;
        let encoder = self.encoder_of_settings()?;
        metrics::describe();
        let (settings, principal, brought) = (self.settings, self.principal, Mutex::default());
        let (observers, refusal) = (Arc::new(self.observers), self.refusal);
        let ledgers = Mutex::default();
        Ok(Idempotency::of(Shared {
            settings,
            encoder,
            stores,
            principal,
            in_flight,
            first_runs,
            observers,
            refusal,
            brought,
            ledgers,
            #[cfg(feature = "encryption")]
            index: seals.index.clone(),
            #[cfg(not(feature = "encryption"))]
            index: crate::sealing::Index::default(),
            #[cfg(feature = "encryption")]
            seals,
        }))
    }

    fn encoder_of_settings(&self) -> Result<Arc<dyn KeyEncoder>, ConfigError> {
        let name = &self.settings.encoder;
        if let Some(registered) = self.encoders.get(name) {
            return Ok(registered.clone());
        }
        match name.as_str() {
            "basic" => Ok(Arc::new(BasicKeyEncoder)),
            "django" => Ok(Arc::new(DjangoKeyEncoder)),
            "canonical-json" => Ok(Arc::new(CanonicalJsonEncoder)),
            _ => Err(unknown_class("encoder", name, &["basic", "django", "canonical-json"], self.encoders.keys())),
        }
    }

    /// The one list of built-in store classes.
    #[cfg_attr(
        not(any(feature = "redis", feature = "sqlite")),
        expect(unused_variables, reason = "only stores outside of the process use the name of the cache")
    )]
    fn store_of(&self, cache: &str, settings: &StorageSettings) -> Result<Arc<dyn Store>, ConfigError> {
        if let Some(store) = self.stores.get(&settings.class) {
            return Ok(Arc::new(Caught(store.clone())));
        }
        if let Some(storage) = self.storages.get(&settings.class) {
            let lock = self.lock_of_settings()?;
            let store = ComposedStore::of(storage.clone(), lock, self.settings.lock.name.clone());
            return Ok(Arc::new(Caught(Arc::new(store))));
        }
        match settings.class.as_str() {
            "memory" => Ok(Arc::new(MemoryStore::new(MemoryLimits {
                max_entries: settings.max_entries,
                max_bytes: settings.max_bytes,
                min_retention: settings.min_retention,
                max_response_body: settings.max_response_body,
                principal_share: self.settings.limits.principal_share,
                on_full: settings.on_full,
            }))),
            #[cfg(feature = "redis")]
            "redis" => {
                let mut options = RedisOptions::new(settings.location.clone());
                options.timeout = settings.timeout;
                options.namespace.clone_from(&settings.namespace);
                cache.clone_into(&mut options.cache);
                options.replicas = settings.replicas;
                options.on_evicting = settings.on_evicting;
                options.on_unreachable = settings.on_unreachable;
                let is_inherited = settings.location == self.settings.storage.location;
                let setting = if is_inherited { "storage.location".into() } else { format!("caches.{cache}.location") };
                let refused = |source| ConfigError::Location { setting, source };
                Ok(Arc::new(RedisStore::new(options).map_err(refused)?))
            }
            #[cfg(not(feature = "redis"))]
            "redis" => Err(ConfigError::MissingFeature { setting: "storage.class", name: "redis", feature: "redis" }),
            #[cfg(feature = "sqlite")]
            "sqlite" => {
                // The default is the address of a Redis.
                let is_default = settings.location == Settings::default().storage.location;
                let file = if is_default { "idempotency.db" } else { settings.location.as_str() };
                let mut options = SqliteOptions::new(file);
                options.durability = settings.durability;
                options.lease = self.settings.lock.lease;
                options.timeout = settings.timeout;
                options.namespace.clone_from(&settings.namespace);
                cache.clone_into(&mut options.cache);
                options.max_entries = settings.max_entries;
                options.max_bytes = settings.max_bytes;
                options.min_retention = settings.min_retention;
                options.on_full = settings.on_full;
                options.on_unreachable = settings.on_unreachable;
                let refused = |source| ConfigError::Store { cache: cache.to_owned(), source };
                Ok(Arc::new(SqliteStore::new(&options).map_err(refused)?))
            }
            #[cfg(not(feature = "sqlite"))]
            "sqlite" => {
                Err(ConfigError::MissingFeature { setting: "storage.class", name: "sqlite", feature: "sqlite" })
            }
            name => {
                let registered = self.stores.keys().chain(self.storages.keys());
                Err(unknown_class("storage.class", name, &["memory", "redis", "sqlite"], registered))
            }
        }
    }

    fn lock_of_settings(&self) -> Result<AnyLock, ConfigError> {
        let name = &self.settings.lock.class;
        if let Some(registered) = self.locks.get(name) {
            return Ok(registered.clone());
        }
        match name.as_str() {
            "auto" | "thread" => Ok(AnyLock(Arc::new(ThreadLock::default()))),
            #[cfg(feature = "redis")]
            "redis" => {
                let timeout = self.settings.storage.timeout;
                let lock = RedisLock::new(self.settings.lock.location.clone(), timeout);
                let refused = |source| ConfigError::Location { setting: "lock.location".into(), source };
                Ok(AnyLock(Arc::new(lock.map_err(refused)?)))
            }
            #[cfg(not(feature = "redis"))]
            "redis" => Err(ConfigError::MissingFeature { setting: "lock.class", name: "redis", feature: "redis" }),
            _ => Err(unknown_class("lock.class", name, &["auto", "thread", "redis"], self.locks.keys())),
        }
    }
}

fn unknown_class<'a>(
    setting: &'static str,
    name: &str,
    built_in: &[&'a str],
    registered: impl Iterator<Item = &'a String>,
) -> ConfigError {
    let mut known: Vec<&str> = built_in.to_vec();
    known.extend(registered.map(String::as_str));
    ConfigError::UnknownClass { setting, name: name.to_owned(), known: known.join(", ") }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(not(all(feature = "encryption", feature = "redis", feature = "sqlite")))]
    use super::*;

    /// The error of a build without the feature, for the setting that needs it.
    #[cfg(not(all(feature = "encryption", feature = "redis", feature = "sqlite")))]
    #[track_caller]
    fn needs(feature: &str, setting: &str, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::default();
        change(&mut settings);
        let error = Builder::default().settings(settings).build().unwrap_err().to_string();
        for what in [setting, &format!("`{feature}`")] {
            assert!(error.contains(what), "{error}");
        }
    }

    #[cfg(not(feature = "encryption"))]
    #[test]
    fn no_key_is_passed_over_without_the_feature() {
        let keys = || vec!["1:env:NO_SUCH_KEY_HERE".parse().unwrap()];
        needs("encryption", "encryption.keys", |s| s.encryption.keys = keys());
        needs("encryption", "encryption.index_key", |s| s.encryption.index_key = "env:A".parse().ok());
        needs("encryption", "encryption.keys", |s| {
            (s.encryption.keys, s.encryption.accept_unsealed) = (keys(), true);
        });
    }

    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_store_on_redis_needs_the_feature() {
        needs("redis", "storage.class", |s| s.storage.class = "redis".into());
    }

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn a_store_in_a_file_needs_the_feature() {
        needs("sqlite", "storage.class", |s| s.storage.class = "sqlite".into());
    }
}
