//! Mistakes in the configuration, which are found before the server listens.

use std::{fmt, path::PathBuf};

use crate::{
    policy::PatternError,
    sealing::KeyError,
    store::{LocationError, StoreError},
};

/// A mistake in the configuration. Each error names the setting, the layer that set it, and what would be accepted.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A settings file can't be read or is not TOML.
    #[error("{layer}: {why}")]
    Layer {
        /// The file or the environment.
        layer: String,
        /// The reason.
        why: String,
    },
    /// The file named by `IDEMPOTENCY_KEY_FILE`, or in code, does not exist.
    #[error("the settings file {} does not exist", .0.display())]
    MissingFile(PathBuf),
    /// No setting has this name.
    #[error("{layer}: unknown setting `{name}`{hint}")]
    UnknownSetting {
        /// The name as the layer has it.
        name: String,
        /// The file or the environment variable.
        layer: String,
        /// Which names there are.
        hint: String,
    },
    /// A setting does not accept this value.
    #[error("{layer}: setting `{setting}` can't be `{value}`; accepted: {accepted}")]
    InvalidValue {
        /// The setting.
        setting: String,
        /// The file, the environment variable or `code`.
        layer: String,
        /// The value as the layer has it.
        value: String,
        /// The values that would be accepted.
        accepted: String,
    },
    /// Two settings that make no sense together.
    #[error("settings contradict each other: {0}")]
    Combination(String),
    /// A class (store, storage, lock or encoder) that is neither built in nor registered.
    #[error("setting `{setting}`: no class is named `{name}`; there are: {known}")]
    UnknownClass {
        /// The setting.
        setting: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A class whose cargo feature is off.
    #[error("setting `{setting}`: `{name}` needs the cargo feature `{feature}`")]
    MissingFeature {
        /// The setting.
        setting: &'static str,
        /// The class.
        name: &'static str,
        /// The feature.
        feature: &'static str,
    },
    /// A cache that no `caches.NAME` declares.
    #[error("no cache is named `{name}` (`storage.cache_name`, or the cache of a wrap); there are: {known}")]
    UnknownCache {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A route pattern that the router would refuse, or that has two policies.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The address of a server can't be used.
    #[error("setting `{setting}`: {source}")]
    Location {
        /// The setting.
        setting: String,
        /// The reason.
        source: LocationError,
    },
    /// A key of `encryption.*` can't be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store did not pass its check.
    #[error("cache `{cache}`: {source}{}", cause(.source))]
    Store {
        /// The cache.
        cache: String,
        /// The reason.
        source: StoreError,
    },
}

/// As `Display`, because a `main` that returns the error prints it by `Debug`.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The sources of a store's error, which name what a person can mend.
fn cause(error: &StoreError) -> String {
    let mut text = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some errors repeat the text of their source.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
