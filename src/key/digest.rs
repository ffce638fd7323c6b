//! SHA-256 over lists of parts, and hexadecimal text.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// SHA-256 over length-prefixed parts that start with a domain name, so that no two different lists of parts hash
/// alike.
#[derive(Clone)]
pub(crate) struct Digest(Sha256);

impl Digest {
    pub(crate) fn new(domain: &[u8]) -> Self {
        Self(Sha256::new()).part(domain)
    }

    /// Adds one part, its length first. The length is LEB128: seven bits a byte, so most lengths take one byte.
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

    /// Adds the last part, in pieces. It needs no length, since nothing may follow it.
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

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Hex(bytes).to_string()
}

/// Shows bytes as lower-case hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Defines a type for a 32-byte hash.
macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The hash whose 32 bytes a store has kept.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the hash.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        /// All 64 hexadecimal digits.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", crate::key::digest::Hex(&self.0))
            }
        }

        /// The first 12 hexadecimal digits: enough to tell records apart in a log.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({}…)", stringify!($name), crate::key::digest::Hex(&self.0[..6]))
            }
        }
    };
}
pub(super) use hash_type;

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
}
