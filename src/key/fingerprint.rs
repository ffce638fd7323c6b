//! The fingerprint: the operation that a request asks for, as a hash.

use std::fmt;

use super::digest::{Digest, Hex};

/// Identifies the operation that a request asks for. It must be equal when a key is used again.
///
/// | bytes | meaning |
/// |---|---|
/// | 2 | scheme: a hash of the encoder and of the settings that shape its digest |
/// | 8 | target: a hash of method and path |
/// | 32 | digest: SHA-256 over everything that the encoder compares ([`KeyEncoder::fingerprint`](super::KeyEncoder::fingerprint)) |
///
/// Digests of two schemes say nothing about each other. So that a deploy which changes a setting does not turn live
/// keys into mismatches, fingerprints of two schemes count as equal when their targets are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; Self::LENGTH]);

impl Fingerprint {
    /// The length in bytes.
    pub const LENGTH: usize = 42;

    /// A fingerprint of its parts.
    #[must_use]
    pub fn new(scheme: [u8; 2], target: [u8; 8], digest: [u8; 32]) -> Self {
        let mut bytes = [0; Self::LENGTH];
        bytes[..2].copy_from_slice(&scheme);
        bytes[2..10].copy_from_slice(&target);
        bytes[10..].copy_from_slice(&digest);
        Self(bytes)
    }

    /// Scheme, target and digest.
    #[cfg(feature = "encryption")]
    pub(crate) fn parts(&self) -> (&[u8; 2], &[u8; 8], &[u8; 32]) {
        let (scheme, rest) = self.0.split_first_chunk().expect("42 bytes");
        let (target, digest) = rest.split_first_chunk().expect("40 bytes");
        (scheme, target, digest.try_into().expect("32 bytes"))
    }

    /// The hash of a scheme's description.
    pub(crate) fn scheme_of(description: &str) -> [u8; 2] {
        let [a, b, ..] = Digest::new(b"scheme").part(description.as_bytes()).finish();
        [a, b]
    }

    /// The hash of method and path.
    #[inline]
    pub(crate) fn target_of(method: &str, path: &str) -> [u8; 8] {
        let hash = Digest::new(b"target").part(method.as_bytes()).part(path.as_bytes()).finish();
        *hash.first_chunk().expect("a hash has 32 bytes")
    }

    /// The fingerprint whose bytes a store has kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes of the fingerprint.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Compares with another fingerprint of the same key.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Match {
        if self.0 == other.0 {
            Match::Same
        } else if self.0[..2] != other.0[..2] && self.0[2..10] == other.0[2..10] {
            Match::OtherScheme
        } else {
            Match::Mismatch
        }
    }
}

/// The result of comparing two fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The same operation.
    Same,
    /// Schemes differ, and method and path are equal: it counts as the same operation.
    OtherScheme,
    /// Another operation.
    Mismatch,
}

impl Match {
    /// Whether it counts as the same operation.
    #[must_use]
    pub const fn is_same(self) -> bool {
        matches!(self, Self::Same | Self::OtherScheme)
    }
}

/// All hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Hex(&self.0))
    }
}

/// Scheme, and the first digits of target and digest.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({}-{}…-{}…)", Hex(&self.0[..2]), Hex(&self.0[2..5]), Hex(&self.0[10..13]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_of_two_schemes_are_equal_when_their_targets_are() {
        let of = |scheme, target, digest| Fingerprint::new([scheme; 2], [target; 8], [digest; 32]);
        let first = of(1, 1, 1);
        assert_eq!(first.compare(&of(1, 1, 1)), Match::Same);
        assert_eq!(first.compare(&of(1, 1, 2)), Match::Mismatch);
        assert_eq!(first.compare(&of(1, 2, 1)), Match::Mismatch);
        assert_eq!(first.compare(&of(2, 1, 2)), Match::OtherScheme);
        assert_eq!(first.compare(&of(2, 1, 1)), Match::OtherScheme);
        assert_eq!(first.compare(&of(2, 2, 1)), Match::Mismatch, "a key that is sent to another path is refused");
    }

    /// A changed byte would take every live key of a shared store for another operation.
    #[test]
    fn schemes_and_targets_stay_as_they_are() {
        assert_eq!(Hex(&Fingerprint::target_of("POST", "/payments")).to_string(), "1828140d4aa1cc60");
        assert_eq!(Hex(&Fingerprint::scheme_of("basic")).to_string(), "8a02");
    }
}
