//! SHA-256 over lists of parts, and hexadecimal text.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// SHA-256 over length-prefixed parts that start with a domain name, so that no two different lists of parts hash
/// alike.
///
/// Short parts are gathered before they are hashed, because each call of the hash function costs more than a short
/// part.
#[derive(Clone)]
pub(crate) struct Digest {
    hasher: Sha256,
    gathered: [u8; GATHER],
    length: usize,
}

const GATHER: usize = 128;

impl Digest {
    #[inline]
    pub(crate) fn new(domain: &[u8]) -> Self {
        let mut digest = Self { hasher: Sha256::new(), gathered: [0; GATHER], length: 0 };
        digest.part(domain);
        digest
    }

    /// Adds one part, its length first. The length is LEB128: seven bits a byte, so most lengths take one byte.
    #[inline]
    pub(crate) fn part(&mut self, part: &[u8]) -> &mut Self {
        let [length, ..] = part.len().to_le_bytes();
        if part.len() > 0x7f {
            return self.long_part(part);
        }
        if self.length + part.len() >= GATHER {
            self.flush();
        }
        if let Some([first, rest @ ..]) = self.gathered.get_mut(self.length..=self.length + part.len()) {
            *first = length;
            rest.copy_from_slice(part);
            self.length += 1 + part.len();
        }
        self
    }

    #[cold]
    fn long_part(&mut self, part: &[u8]) -> &mut Self {
        let mut length = part.len();
        while length > 0x7f {
            self.write(&[0x80 | length.to_le_bytes()[0]]);
            length >>= 7;
        }
        self.write(&[length.to_le_bytes()[0]]);
        self.write(part);
        self
    }

    /// Adds the last part, in pieces. It needs no length, since nothing may follow it.
    pub(crate) fn rest<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> &mut Self {
        for piece in pieces {
            self.write(piece);
        }
        self
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if let Some(room) = self.gathered[self.length..].get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.length += bytes.len();
        } else {
            self.flush();
            self.hasher.update(bytes);
        }
    }

    fn flush(&mut self) {
        self.hasher.update(&self.gathered[..self.length]);
        self.length = 0;
    }

    /// The hash. Call once.
    pub(crate) fn finish(&mut self) -> [u8; 32] {
        self.flush();
        self.hasher.finalize_reset().into()
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    // Each step of an operation has a key of 64 digits; formatting them one by one would cost most of its time.
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
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
        let digest = |parts: &[&[u8]]| {
            let mut digest = Digest::new(b"t");
            for part in parts {
                digest.part(part);
            }
            digest.finish()
        };
        assert_ne!(digest(&[b"a/api", b"/orders"]), digest(&[b"a", b"/api/orders"]));
        assert_ne!(digest(&[b"", b"a"]), digest(&[b"a", b""]));
        assert_ne!(Digest::new(b"t").rest([&b"a"[..]]).finish(), Digest::new(b"t").part(b"a").finish());
    }

    #[test]
    fn how_parts_are_gathered_does_not_change_the_hash() {
        let (long, short) = ([7; 300], [8; 100]);
        let mut plain = Sha256::new();
        plain.update([1, b't', 0xac, 2]);
        plain.update(long);
        plain.update([100]);
        plain.update(short);
        plain.update([100]);
        plain.update(short);
        let plain: [u8; 32] = plain.finalize().into();
        assert_eq!(Digest::new(b"t").part(&long).part(&short).part(&short).finish(), plain);
    }
}
