//! What can be wrong before a server listens.

use std::{fmt, path::PathBuf};

use crate::{policy::Policy, store::StoreError};

/// A mistake in the configuration. Each names what is wrong, where it was said, and what would be accepted.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A settings file can't be read or is no TOML.
    #[error("{layer}: {why}")]
    Layer {
        /// The file or the environment.
        layer: String,
        /// What its reader said.
        why: String,
    },
    /// The file named by `IDEMPOTENCY_KEY_FILE`, or in code, does not exist.
    #[error("the settings file {} does not exist", .0.display())]
    MissingFile(PathBuf),
    /// No setting has this name.
    #[error("{layer}: unknown setting `{name}`{hint}")]
    UnknownSetting {
        /// The name as it was written.
        name: String,
        /// The file or the environment variable.
        layer: String,
        /// `; did you mean …?`, or the names there are.
        hint: String,
    },
    /// A setting does not take this value.
    #[error("{layer}: setting `{setting}` can't be `{value}`; accepted: {accepted}")]
    InvalidValue {
        /// The setting.
        setting: String,
        /// The file, the environment variable or `code`.
        layer: String,
        /// The value as it was written.
        value: String,
        /// What would be accepted.
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
        /// The names that would do.
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
    #[error("no cache is named `{name}`; there are: {known}")]
    UnknownCache {
        /// The name.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// A path pattern that the router would refuse.
    #[error("route pattern `{pattern}` is malformed: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the router's parser said.
        why: String,
    },
    /// One pattern with two policies.
    #[error("route pattern `{pattern}` can't be both {first:?} and {second:?}")]
    Contradiction {
        /// The pattern.
        pattern: String,
        /// One policy.
        first: Policy,
        /// The other.
        second: Policy,
    },
    /// The store did not pass its check.
    #[error("cache `{cache}`: {source}{}", cause(.source))]
    Store {
        /// The cache.
        cache: String,
        /// What is wrong.
        source: StoreError,
    },
}

/// As `Display`: what a `main` prints that returns it.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The chain below a store's error, which says what a person can mend.
fn cause(error: &StoreError) -> String {
    let mut text = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some say their causes themselves.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
