//! The address of a server, which may hold a password.

use std::fmt;

/// A host, host:port or URL; settings `storage.location` and `lock.location`.
///
/// An address may hold a password. `Display` and `Debug` leave it out.
///
/// ```
/// use actix_idempotency::store::Location;
///
/// let location = Location::from("redis://app:secret@10.0.0.7:6379/0?pass=secret");
/// assert_eq!(location.to_string(), "redis://…@10.0.0.7:6379/0?…");
/// assert_eq!(location.as_str(), "redis://app:secret@10.0.0.7:6379/0?pass=secret");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Location(String);

impl Location {
    /// The whole address, password included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Location {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, query) = self.0.split_once('?').map_or((self.0.as_str(), ""), |(address, _)| (address, "?…"));
        let (scheme, rest) = match address.find("://") {
            Some(at) => address.split_at(at + 3),
            None => ("", address),
        };
        match rest.rfind('@') {
            Some(at) => write!(f, "{scheme}…{}{query}", &rest[at..]),
            None => write!(f, "{scheme}{rest}{query}"),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Why a location can't be used. Shows the location without its password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{location}` is no host, host:port or redis:// URL: {why}")]
#[non_exhaustive]
pub struct LocationError {
    /// The location.
    pub location: Location,
    /// The reason.
    pub why: String,
}

impl LocationError {
    /// This location can't be used.
    #[cfg(feature = "redis")]
    pub(crate) fn new(location: &Location, why: impl fmt::Display) -> Self {
        Self { location: location.clone(), why: why.to_string() }
    }
}
