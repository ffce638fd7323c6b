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
        let (scheme, rest) = match self.0.find("://") {
            Some(at) => self.0.split_at(at + 3),
            None => ("", self.0.as_str()),
        };
        let at = rest.rfind('@');
        // A `?` before an `@` belongs to a password, or the `@` to one in the query. Nothing tells which.
        if rest.find('?').is_some_and(|question| at.is_some_and(|at| question < at)) {
            return write!(f, "{scheme}…");
        }
        // A password may have any other character in it, so all before the last `@` is left out.
        let (hidden, address) = at.map_or(("", rest), |at| ("…", &rest[at..]));
        let (address, query) = address.split_once('?').map_or((address, ""), |(address, _)| (address, "?…"));
        write!(f, "{scheme}{hidden}{address}{query}")
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
