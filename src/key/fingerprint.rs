//! Hashes that find a record and check that a key is used for one operation only.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Principal;
use crate::settings::Enforcement;

/// SHA-256 over length-prefixed parts behind a domain name, so that no two different lists of parts read the same.
#[derive(Clone)]
pub(crate) struct Digest(Sha256);

impl Digest {
    pub(crate) fn new(domain: &[u8]) -> Self {
        Self(Sha256::new()).part(domain)
    }

    /// Its length goes before it, in seven bits a byte: most lengths take one.
    pub(crate) fn part(mut self, part: &[u8]) -> Self {
        let mut length = part.len();
        while length > 0x7f {
            self.0.update([0x80 | length.to_le_bytes()[0]]);
            length >>= 7;
        }
        self.0.update([length.to_le_bytes()[0]]);
        if !part.is_empty() {
            self.0.update(part);
        }
        self
    }

    /// The last part, in pieces. Needs no length: nothing may follow it.
    pub(crate) fn rest<'a>(mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        for piece in pieces {
            self.0.update(piece);
        }
        self
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its 32 bytes, as a store kept them.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// All 64 hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        /// Shortened: enough to tell records apart in a log.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("…)")
            }
        }
    };
}

hash_type! {
    /// Finds a record: SHA-256 over namespace, cache, principal and encoded key (and, with `scope = endpoint`, method
    /// and path). A client's key itself never becomes part of a store's key.
    RecordId
}

hash_type! {
    /// What the operation is: SHA-256 over everything of a request that must be the same when its key is used again.
    Fingerprint
}

/// The ids of the records of one cache: their hashes begin alike.
pub(crate) struct RecordIds(Digest);

impl RecordIds {
    pub(crate) fn new(namespace: &str, cache: &str) -> Self {
        Self(Digest::new(b"id").part(namespace.as_bytes()).part(cache.as_bytes()))
    }

    /// Where a record is found. `endpoint`: method and path, with `scope = endpoint`.
    pub(crate) fn of(&self, principal: &Principal, encoded: &str, endpoint: Option<(&str, &str)>) -> RecordId {
        let mut digest = principal.add_to(self.0.clone()).part(encoded.as_bytes());
        if let Some((method, path)) = endpoint {
            digest = digest.part(method.as_bytes()).part(path.as_bytes());
        }
        RecordId(digest.finish())
    }
}

impl RecordId {
    /// What is only observed is kept apart: it never becomes the answer to anybody.
    pub(crate) fn in_mode(self, mode: Enforcement) -> Self {
        match mode {
            Enforcement::Enforce => self,
            Enforcement::Observe => Self::from_bytes(Digest::new(b"observed").part(self.as_bytes()).finish()),
        }
    }
}

impl std::str::FromStr for RecordId {
    type Err = ParseRecordIdError;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(ParseRecordIdError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ParseRecordIdError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseRecordIdError)?;
        }
        Ok(Self(bytes))
    }
}

/// Not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record id is 64 hexadecimal digits")]
pub struct ParseRecordIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        let digest = |parts: &[&[u8]]| parts.iter().fold(Digest::new(b"t"), |d, p| d.part(p)).finish();
        assert_ne!(digest(&[b"a/api", b"/orders"]), digest(&[b"a", b"/api/orders"]));
        assert_ne!(digest(&[b"", b"a"]), digest(&[b"a", b""]));
        assert_ne!(Digest::new(b"t").rest([&b"a"[..]]).finish(), Digest::new(b"t").part(b"a").finish());
    }

    #[test]
    fn a_record_id_reads_back_from_its_text() {
        let id = RecordId(Digest::new(b"t").finish());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<RecordId>().is_err());
        assert!("é".repeat(32).parse::<RecordId>().is_err());
    }
}
