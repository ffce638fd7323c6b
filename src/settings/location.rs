//! Where a server is.

use std::fmt;

/// A host, host:port or URL; settings `storage.location` and `lock.location`.
///
/// It may hold a password, so it is shown without.
///
/// ```
/// use actix_idempotency::settings::Location;
///
/// let location = Location::from("redis://app:secret@10.0.0.7:6379/0?pass=secret");
/// assert_eq!(location.to_string(), "redis://…@10.0.0.7:6379/0?…");
/// assert_eq!(location.as_str(), "redis://app:secret@10.0.0.7:6379/0?pass=secret");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Location(String);

impl Location {
    /// All of it, password included.
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
