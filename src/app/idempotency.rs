//! The parts that all workers of a process share: settings, encoder, stores, and the count of operations in flight.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use actix_web::dev::ServiceRequest;
use parking_lot::Mutex;

use super::Builder;
#[cfg(feature = "encryption")]
use crate::sealing::{CacheSeals, Seals};
use crate::{
    claim::{Caught, FirstRuns, InFlight, StoreHandle, at_most_a_century},
    client::problem::RefusalFn,
    key::{KeyEncoder, Principal},
    ledger::AnyLedger,
    observe::Observers,
    sealing::Index,
    settings::{ConfigError, Mode, Settings, StoredIds},
    store::Store,
};

/// Finds the principal of a request; see [`Builder::principal`].
pub(crate) type PrincipalFn = Arc<dyn Fn(&ServiceRequest) -> Option<Principal> + Send + Sync>;

/// The singletons that every wrap of a process shares. Make it once, outside of the closure given to `HttpServer::new`.
/// Clones share everything.
///
/// Give it to the wraps with [`using`](crate::IdempotencyKey::using), so that a mistake at a wrap stops the server from
/// starting; or put it into app data as `web::Data<Idempotency>`, where wraps look for it at their first request.
///
/// ```no_run
/// use actix_idempotency::{Idempotency, IdempotencyKey};
/// use actix_web::{App, HttpServer};
///
/// #[actix_web::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let idempotency = Idempotency::load().await?;
///     let signal = idempotency.shutdown_signal();
///     HttpServer::new(move || App::new().wrap(IdempotencyKey::default().using(&idempotency)))
///         .shutdown_signal(signal)
///         .bind(("127.0.0.1", 8080))?
///         .run()
///         .await?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Idempotency(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) encoder: Arc<dyn KeyEncoder>,
    /// The stores, by the name of their cache.
    pub(crate) stores: BTreeMap<String, Arc<StoreHandle>>,
    pub(crate) principal: Option<PrincipalFn>,
    pub(crate) in_flight: Arc<InFlight>,
    /// `limits.fresh_per_principal`. `None`: there is no bound.
    pub(crate) first_runs: Option<Arc<FirstRuns>>,
    pub(crate) observers: Arc<Observers>,
    /// The shape of refusals.
    pub(crate) refusal: Option<RefusalFn>,
    /// The stores that wraps brought with them: one handle per store, whichever worker asks.
    pub(crate) brought: Mutex<Vec<Brought>>,
    /// The ledgers of wraps, by the name of their cache: one of each, whichever worker asks.
    pub(crate) ledgers: Mutex<Vec<(String, AnyLedger)>>,
    /// `encryption.index_key`.
    pub(crate) index: Index,
    /// The keys of `encryption.*`.
    #[cfg(feature = "encryption")]
    pub(crate) seals: Arc<Seals>,
}

/// A store that a wrap brought with it.
type Brought = (Arc<dyn Store>, Arc<StoreHandle>);

impl Idempotency {
    /// Reads layered settings, builds, and checks the stores.
    ///
    /// # Errors
    /// [`ConfigError`] for every mistake that can be seen before the server listens.
    pub async fn load() -> Result<Self, ConfigError> {
        let idempotency = Self::builder().settings(Settings::load()?).build()?;
        idempotency.check().await?;
        Ok(idempotency)
    }

    /// Default settings and an empty memory store, for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::builder().build().expect("the defaults are sound")
    }

    /// A builder for settings from code, and for stores, encoders and listeners of the application's own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn of(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// The `Idempotency` of wraps that were given none and find no `web::Data<Idempotency>`: one for the whole process,
    /// from layered settings.
    pub(crate) fn of_process() -> Result<Self, Arc<ConfigError>> {
        static PROCESS: OnceLock<Result<Idempotency, Arc<ConfigError>>> = OnceLock::new();
        let make = || {
            tracing::warn!(
                "no `web::Data<Idempotency>` in app data: using one for the whole process, from layered settings"
            );
            let made = Self::builder().settings(Settings::load()?).build()?;
            // A request has arrived already, so the check runs in the background.
            let checked = made.clone();
            if let Some(handle) = made.0.stores.values().find(|handle| !handle.store.answers_at_once()) {
                let check = async move {
                    if let Err(error) = checked.check().await {
                        tracing::error!(%error, "a store did not pass its check");
                    }
                };
                handle.background.spawn(check);
            }
            Ok(made)
        };
        PROCESS.get_or_init(|| make().map_err(Arc::new)).clone()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Checks every store before the server listens. [`load`](Self::load) does this itself.
    ///
    /// # Errors
    /// [`ConfigError::Store`] of the first cache whose store does not pass.
    pub async fn check(&self) -> Result<(), ConfigError> {
        for handle in self.0.stores.values() {
            let refused = |source| ConfigError::Store { cache: handle.name.clone(), source };
            handle.store.check().await.map_err(refused)?;
        }
        Ok(())
    }

    /// The keys, for the records of a cache.
    #[cfg(feature = "encryption")]
    fn cache_seals(&self, cache: &str) -> CacheSeals {
        let namespace = self.0.settings.cache(cache).map_or_else(String::new, |settings| settings.namespace);
        CacheSeals::new(&self.0.seals, &namespace, cache)
    }

    /// The ids under which stores and ledgers have records.
    pub(crate) fn stored_ids(&self, mode: Mode) -> StoredIds {
        StoredIds { mode, index: self.0.index.clone() }
    }

    /// The store of a cache.
    pub(crate) fn cache(&self, name: &str) -> Result<&Arc<StoreHandle>, ConfigError> {
        self.0.stores.get(&name.to_ascii_lowercase()).ok_or_else(|| {
            let known: Vec<&str> = self.0.stores.keys().map(String::as_str).collect();
            ConfigError::UnknownCache { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The handle of a store that a wrap brought with it.
    pub(crate) fn handle_of(&self, name: &str, store: &Arc<dyn Store>) -> Arc<StoreHandle> {
        let mut brought = self.0.brought.lock();
        let known = brought.iter().find(|(known, handle)| handle.name == name && Arc::ptr_eq(known, store));
        if let Some((_, handle)) = known {
            return handle.clone();
        }
        let caught = Arc::new(Caught(store.clone()));
        #[cfg(feature = "encryption")]
        let handle = StoreHandle::sealed(name.to_owned(), caught, self.0.in_flight.clone(), self.cache_seals(name));
        #[cfg(not(feature = "encryption"))]
        let handle = StoreHandle::new(name.to_owned(), caught, self.0.in_flight.clone());
        brought.push((store.clone(), handle.clone()));
        handle
    }
}

impl Idempotency {
    /// The ledger of a wrap. The first that is given under a name stands for all.
    pub(crate) fn ledger_of(&self, cache: &str, ledger: &AnyLedger, settings: &Settings) -> AnyLedger {
        let mut ledgers = self.0.ledgers.lock();
        let known = ledgers.iter().map(|(_, known)| known).find(|known| known.is_same(ledger)).cloned();
        let ledger = known.unwrap_or_else(|| {
            ledger.look_after();
            ledger.clone()
        });
        ledger.is_used_for(at_most_a_century(settings.limits.max_run));
        if !ledgers.iter().any(|(name, known)| name == cache && known.is_same(&ledger)) {
            ledgers.push((cache.to_owned(), ledger.clone()));
        }
        drop(ledgers);
        #[cfg(feature = "encryption")]
        let ledger = ledger.sealed(self.cache_seals(cache));
        ledger
    }

    /// The ledgers of the wraps that use a cache.
    pub(super) fn ledgers(&self, cache: &str) -> Vec<AnyLedger> {
        let ledgers = self.0.ledgers.lock();
        let of_cache =
            ledgers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(cache)).map(|(_, ledger)| ledger.clone());
        #[cfg(feature = "encryption")]
        let of_cache = of_cache.map(|ledger| ledger.sealed(self.cache_seals(&cache.to_ascii_lowercase())));
        of_cache.collect()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .field("stores", &self.stores)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}
