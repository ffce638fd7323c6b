//! Putting an [`Idempotency`] together: settings, and parts of one's own under the names by which settings choose them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use actix_web::{dev::ServiceRequest, http::Method};
use parking_lot::Mutex;

use super::{
    Idempotency,
    idempotency::{PrincipalFn, Shared},
};
use crate::{
    claim::{Cache, in_flight::Operations},
    key::{BasicKeyEncoder, CanonicalJsonEncoder, DjangoKeyEncoder, KeyEncoder, Principal},
    observe::{
        metrics,
        report::{Listener, Watch},
    },
    policy::{Over, Policy, Rules},
    settings::{ConfigError, Methods, OnError, Settings, StorageSettings},
    store::{
        ComposedStore, Lock, MemoryLimits, MemoryStore, Storage, Store, ThreadLock,
        key_value::{lock::AnyLock, storage::AnyStorage},
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
/// let idempotency = Idempotency::builder().settings(settings).cache("reports", |cache| cache.max_entries = 1000).build()?;
/// # let _ = idempotency;
/// # Ok::<(), actix_idempotency::ConfigError>(())
/// ```
#[derive(Default)]
#[must_use = "nothing is made before `build`"]
pub struct Builder {
    settings: Settings,
    encoders: BTreeMap<String, Arc<dyn KeyEncoder>>,
    stores: BTreeMap<String, Arc<dyn Store>>,
    storages: BTreeMap<String, AnyStorage>,
    locks: BTreeMap<String, AnyLock>,
    principal: Option<PrincipalFn>,
    watch: Watch,
}

impl Builder {
    /// The settings; defaults otherwise. Call it before [`cache`](Self::cache).
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Declares a cache: `storage.*`, changed by `change`. Settings that already declare it are changed further.
    pub fn cache(mut self, name: impl Into<String>, change: impl FnOnce(&mut StorageSettings)) -> Self {
        let inherited = self.settings.storage.clone();
        change(self.settings.caches.entry(name.into()).or_insert(inherited));
        self
    }

    /// Tells `listener` what became of every governed request.
    pub fn listener(mut self, listener: impl Listener) -> Self {
        self.watch.add(Box::new(listener));
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

    /// Registers a key-value storage; `storage.class = NAME` chooses it, `lock.class` the lock it is combined with.
    pub fn storage(mut self, name: impl Into<String>, storage: impl Storage) -> Self {
        self.storages.insert(name.into(), AnyStorage(Arc::new(storage)));
        self
    }

    /// Registers a lock for custom storages; `lock.class = NAME` chooses it.
    pub fn lock(mut self, name: impl Into<String>, lock: impl Lock) -> Self {
        self.locks.insert(name.into(), AnyLock(Arc::new(lock)));
        self
    }

    /// Finds the principal where no `Principal` is in the request's extensions. `None`: the `Authorization` header
    /// stands in.
    pub fn principal(
        mut self,
        principal: impl Fn(&ServiceRequest) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        self.principal = Some(Arc::new(principal));
        self
    }

    /// Makes it. Nothing is connected to; [`Idempotency::check`] does that.
    ///
    /// # Errors
    /// [`ConfigError`] for settings that make no sense, and for names that nothing is registered under.
    pub fn build(self) -> Result<Idempotency, ConfigError> {
        self.settings.check()?;
        rules_of(&self.settings)?;
        self.lock_of_settings()?;
        warn_of_given_up_promises(&self.settings);
        let operations = Operations::new(self.settings.limits.max_in_flight);
        let caches =
            self.settings.cache_names().into_iter().filter_map(|name| Some((name, self.settings.cache(name)?)));
        let caches = caches
            .map(|(name, settings)| {
                let cache = Cache::new(name.to_owned(), self.store_of(name, settings)?, operations.clone());
                Ok((name.to_owned(), cache))
            })
            .collect::<Result<_, ConfigError>>()?;
        let encoder = self.encoder_of_settings()?;
        metrics::describe();
        let (settings, principal, brought) = (self.settings, self.principal, Mutex::default());
        let watch = Arc::new(self.watch);
        Ok(Idempotency::of(Shared { settings, encoder, caches, principal, operations, watch, brought }))
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

    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "only Redis shares names"))]
    fn store_of(&self, cache: &str, settings: &StorageSettings) -> Result<Arc<dyn Store>, ConfigError> {
        if let Some(store) = self.stores.get(&settings.class) {
            return Ok(store.clone());
        }
        if let Some(storage) = self.storages.get(&settings.class) {
            let lock = self.lock_of_settings()?;
            return Ok(Arc::new(ComposedStore::of(storage.clone(), lock, self.settings.lock.name.clone())));
        }
        match settings.class.as_str() {
            "memory" => Ok(Arc::new(MemoryStore::new(MemoryLimits {
                max_entries: settings.max_entries,
                max_bytes: settings.max_bytes,
                min_retention: settings.min_retention,
                max_response_body: settings.max_response_body,
                on_full: settings.on_full,
            }))),
            #[cfg(feature = "redis")]
            "redis" => Ok(Arc::new(crate::store::RedisStore::new(cache, settings)?)),
            #[cfg(not(feature = "redis"))]
            "redis" => Err(ConfigError::MissingFeature { setting: "storage.class", name: "redis", feature: "redis" }),
            name => {
                let registered = self.stores.keys().chain(self.storages.keys());
                Err(unknown_class("storage.class", name, &["memory", "redis"], registered))
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
                Ok(AnyLock(Arc::new(crate::store::RedisLock::new(self.settings.lock.location.clone(), timeout)?)))
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

/// The route rules of settings. They see the whole path.
pub(crate) fn rules_of(settings: &Settings) -> Result<Rules, ConfigError> {
    let list =
        |patterns: &'_ Vec<String>, policy| patterns.iter().map(move |p| (p.clone(), policy)).collect::<Vec<_>>();
    let mut all = list(&settings.exempt, Policy::Exempt);
    all.extend(list(&settings.optional, Policy::Optional));
    all.extend(list(&settings.manual, Policy::Manual));
    all.extend(list(&settings.required, Policy::Required));
    let mut rules = Rules::default();
    rules.add(all.iter().map(|(pattern, policy)| (pattern.as_str(), *policy)), Over::Whole)?;
    Ok(rules)
}

fn warn_of_given_up_promises(settings: &Settings) {
    if settings.is_observed() {
        tracing::warn!("mode = observe: every request runs, retries too; what would have become of it is only told");
    }
    if let Methods::List(methods) = &settings.methods {
        let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        for method in methods.iter().filter(|method| !known.contains(method)) {
            tracing::warn!(%method, "methods: not one of POST, PUT, PATCH and DELETE; is it meant?");
        }
    }
    if !settings.lock.enable {
        tracing::warn!("lock.enable = false: duplicates may run side by side");
    }
    let shared =
        settings.cache_names().into_iter().filter_map(|name| settings.cache(name)).find(|c| c.class != "memory");
    if let Some(cache) = shared
        && settings.lock.lease < cache.timeout * 4
    {
        tracing::warn!(
            lease = ?settings.lock.lease,
            timeout = ?cache.timeout,
            "lock.lease is less than four times storage.timeout: one slow call can cost a live owner its lease"
        );
    }
    if settings.lock.ttl.is_some() {
        tracing::warn!("lock.ttl is set: an operation that runs longer may be run again beside");
    }
    if settings.cache_names().iter().any(|name| settings.cache(name).is_some_and(|c| c.on_error == OnError::Run)) {
        tracing::warn!("storage.on_error = run: while the store can't answer, operations run unprotected");
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
