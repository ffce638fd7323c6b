//! The settings `storage.*` that a cache overrides.

use std::{fmt, sync::Arc};

use super::{Settings, StorageSettings};

/// The settings that a cache does not share with `storage.*`.
///
/// Overrides are applied when an `Idempotency` is built, so a change of `settings.storage` reaches every cache that does not
/// override it, whichever came first.
///
/// ```
/// use actix_idempotency::settings::{CacheOverrides, Settings};
/// use std::time::Duration;
///
/// let mut settings = Settings::default();
/// let reports = CacheOverrides::new().with(|storage| storage.ttl = Duration::from_secs(3600));
/// settings.caches.insert("reports".into(), reports);
/// settings.storage.namespace = "billing".into();
///
/// let reports = settings.cache("reports").unwrap();
/// assert_eq!((reports.ttl.as_secs(), reports.namespace.as_str()), (3600, "billing"));
/// ```
#[derive(Clone, Default)]
pub struct CacheOverrides(Vec<Override>);

type Override = Arc<dyn Fn(&mut StorageSettings) + Send + Sync>;

impl CacheOverrides {
    /// Overrides nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Overrides what `change` changes, after the overrides so far.
    #[must_use]
    pub fn with(mut self, change: impl Fn(&mut StorageSettings) + Send + Sync + 'static) -> Self {
        self.0.push(Arc::new(change));
        self
    }
}

impl Settings {
    /// The settings of a cache: `storage.*` with its overrides. `None`: no such cache is declared; `default` always is.
    /// Names are compared without case.
    #[must_use]
    pub fn cache(&self, name: &str) -> Option<StorageSettings> {
        let declared = self.caches.iter().find(|(declared, _)| declared.eq_ignore_ascii_case(name));
        if declared.is_none() && !name.eq_ignore_ascii_case("default") {
            return None;
        }
        let mut storage = self.storage.clone();
        for change in declared.map_or(&[][..], |(_, overrides)| &overrides.0) {
            change(&mut storage);
        }
        // Only in `storage`: which cache a wrap uses that names none.
        storage.cache_name.clone_from(&self.storage.cache_name);
        Some(storage)
    }

    /// The names of all caches, in lower case.
    #[must_use]
    pub fn cache_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.caches.keys().map(|name| name.to_ascii_lowercase()).collect();
        if !names.iter().any(|name| name == "default") {
            names.push("default".to_owned());
        }
        names
    }

    /// Declares a cache, or overrides more of one that is declared.
    pub(crate) fn override_cache(&mut self, name: &str, more: CacheOverrides) {
        let declared = self.caches.keys().find(|declared| declared.eq_ignore_ascii_case(name)).cloned();
        self.caches.entry(declared.unwrap_or_else(|| name.to_owned())).or_default().0.extend(more.0);
    }

    /// All caches with their settings.
    pub(crate) fn all_caches(&self) -> Vec<(String, StorageSettings)> {
        self.cache_names().into_iter().filter_map(|name| Some((name.clone(), self.cache(&name)?))).collect()
    }
}

impl fmt::Debug for CacheOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheOverrides({})", self.0.len())
    }
}
