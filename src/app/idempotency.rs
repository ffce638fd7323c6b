//! What all workers of a process share: settings, encoder, caches, and the count of running operations.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, OnceLock},
};

use actix_web::dev::ServiceRequest;
use parking_lot::Mutex;

use super::Builder;
use crate::{
    claim::{Cache, background, in_flight::Operations},
    key::{KeyEncoder, Principal, RecordId, fingerprint::RecordIds},
    observe::report::Watch,
    settings::{ConfigError, Settings},
    store::{Forgotten, Inspection, Store, StoreError},
};

/// Finds the principal of a request; see [`Builder::principal`].
pub(crate) type PrincipalFn = Arc<dyn Fn(&ServiceRequest) -> Option<Principal> + Send + Sync>;

/// The singletons that every instance of the middleware in a process shares. Make it once, outside of the closure given
/// to `HttpServer::new`, and put it into app data; clones are the same one.
///
/// ```no_run
/// use actix_idempotency::{Idempotency, IdempotencyKey};
/// use actix_web::{App, HttpServer, web};
///
/// #[actix_web::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let idempotency = Idempotency::load().await?;
///     let signal = idempotency.shutdown_signal();
///     HttpServer::new(move || {
///         App::new().app_data(web::Data::new(idempotency.clone())).wrap(IdempotencyKey::default())
///     })
///     .shutdown_signal(signal)
///     .bind(("127.0.0.1", 8080))?
///     .run()
///     .await?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Idempotency(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) encoder: Arc<dyn KeyEncoder>,
    pub(crate) caches: BTreeMap<String, Arc<Cache>>,
    pub(crate) principal: Option<PrincipalFn>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) watch: Arc<Watch>,
    /// Over stores that wraps brought with them: one per store, whichever worker asks.
    pub(crate) brought: Mutex<Vec<Arc<Cache>>>,
}

impl Idempotency {
    /// From layered settings, its stores checked.
    ///
    /// # Errors
    /// [`ConfigError`] for everything that can be seen before the server listens.
    pub async fn load() -> Result<Self, ConfigError> {
        let idempotency = Self::builder().settings(Settings::load()?).build()?;
        idempotency.check().await?;
        Ok(idempotency)
    }

    /// With default settings and an empty memory store: for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::builder().build().expect("the defaults are sound")
    }

    /// For settings from code, and parts of your own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn of(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// What instances use that find no `web::Data<Idempotency>`: one for the whole process, from layered settings.
    pub(crate) fn of_process() -> Result<Self, Arc<ConfigError>> {
        static PROCESS: OnceLock<Result<Idempotency, Arc<ConfigError>>> = OnceLock::new();
        let make = || {
            tracing::warn!(
                "no `web::Data<Idempotency>` in app data: using one for the whole process, from layered settings"
            );
            let made = Self::builder().settings(Settings::load()?).build()?;
            // Nobody waits for the check: a request has come already.
            let checked = made.clone();
            if checked.0.caches.values().any(|cache| cache.store.leases()) {
                background::spawn(async move {
                    if let Err(error) = checked.check().await {
                        tracing::error!(%error, "a store did not pass its check");
                    }
                });
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

    /// Looks at every store: what can be seen before the server listens is an error here. [`load`](Self::load) does it.
    ///
    /// # Errors
    /// [`ConfigError::Store`] of the first cache whose store does not pass.
    pub async fn check(&self) -> Result<(), ConfigError> {
        for cache in self.0.caches.values() {
            let refused = |source| ConfigError::Store { cache: cache.name.clone(), source };
            cache.store.check().await.map_err(refused)?;
        }
        Ok(())
    }

    /// The cache of a name.
    pub(crate) fn cache(&self, name: &str) -> Result<&Arc<Cache>, ConfigError> {
        self.0.caches.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.0.caches.keys().map(String::as_str).collect();
            ConfigError::UnknownCache { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// For [`HttpServer::shutdown_signal`](actix_web::HttpServer::shutdown_signal): waits for SIGTERM or SIGINT, answers
    /// new protected requests `503 shutting-down`, and waits for running operations, those of lost connections included,
    /// up to `limits.drain_timeout` or a second signal. Then actix stops.
    pub fn shutdown_signal(&self) -> impl Future<Output = ()> + Send + 'static {
        let operations = self.0.operations.clone();
        let limit = self.0.settings.limits.drain_timeout;
        async move {
            termination().await;
            operations.close();
            let running = operations.running();
            tracing::info!(running, "shutting down: waiting for protected operations");
            tokio::select! {
                drained = operations.idle(limit) => warn_unless(drained, &operations),
                () = termination() => warn_unless(false, &operations),
            }
        }
    }

    /// For own signal handling: refuses new protected requests from the first poll on, and resolves when none run any
    /// more, at the latest after `limits.drain_timeout`.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let operations = self.0.operations.clone();
        let limit = self.0.settings.limits.drain_timeout;
        async move {
            operations.close();
            let drained = operations.idle(limit).await;
            warn_unless(drained, &operations);
        }
    }

    /// How many protected operations run now, writes behind included.
    #[must_use]
    pub fn running(&self) -> usize {
        self.0.operations.running()
    }

    /// The id of the record of `key`, for operators. Only where the encoder uses nothing but the key and `scope` is
    /// `principal`, as by default; otherwise find ids by [`list`](Self::list).
    #[must_use]
    pub fn record_id(&self, cache: &str, principal: &Principal, key: &str) -> RecordId {
        let namespace = self.0.settings.cache(cache).map_or("", |settings| &settings.namespace);
        RecordIds::new(namespace, cache).of(principal, key, None).in_mode(self.0.settings.mode)
    }

    /// What is known of a record.
    ///
    /// # Errors
    /// [`StoreError`] when the store can't answer; there is no cache of that name counts as that.
    pub async fn inspect(&self, cache: &str, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        self.operated(cache)?.store.inspect(id).await
    }

    /// Forgets a completed record, or one whose owner was lost, so that its key can be used again. A live claim stays. Say
    /// in your log who did it and why, as [`admin_scope`](Self::admin_scope) does.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn forget(&self, cache: &str, id: &RecordId) -> Result<Forgotten, StoreError> {
        self.operated(cache)?.store.forget(id).await
    }

    /// A page of records behind `after`, in the order of their ids: at most `limit`. An empty page is the end.
    ///
    /// # Errors
    /// As for [`inspect`](Self::inspect).
    pub async fn list(
        &self,
        cache: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Inspection>, StoreError> {
        self.operated(cache)?.store.list(after, limit).await
    }

    /// The cache over a store that a wrap brought with it.
    pub(crate) fn cache_of(&self, name: &str, store: &Arc<dyn Store>) -> Arc<Cache> {
        let mut brought = self.0.brought.lock();
        let known = brought.iter().find(|cache| cache.name == name && Arc::ptr_eq(&cache.store, store));
        if let Some(known) = known {
            return known.clone();
        }
        let cache = Cache::new(name.to_owned(), store.clone(), self.0.operations.clone());
        brought.push(cache.clone());
        cache
    }

    fn operated(&self, cache: &str) -> Result<&Arc<Cache>, StoreError> {
        self.cache(cache).map_err(StoreError::unavailable)
    }
}

fn warn_unless(drained: bool, operations: &Operations) {
    if !drained {
        tracing::warn!(running = operations.running(), "shutdown does not wait any longer: operations are cut off");
    }
}

/// SIGTERM or SIGINT.
async fn termination() {
    #[cfg(unix)]
    {
        use actix_web::rt::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = actix_web::rt::signal::ctrl_c() => return,
            }
        }
    }
    if actix_web::rt::signal::ctrl_c().await.is_err() {
        tracing::error!("no signals here: shut down by `drained()` instead");
        std::future::pending::<()>().await;
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .field("caches", &self.caches)
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}
