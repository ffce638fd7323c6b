//! Authenticated encryption of one part: a head, a body, or the result of a step.

use aes_gcm_siv::Aes256GcmSiv;
use chacha20poly1305::{
    AeadInPlace as _, KeyInit as _, XChaCha20Poly1305,
    aead::{self, generic_array::GenericArray},
};

use super::secret::Secret;
use crate::record::SealingAlgorithm;

/// The bytes that sealing adds to a part.
pub(super) const TAG: usize = 16;

/// A key, ready for one algorithm.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one call")]
pub(super) enum Cipher {
    XChaCha(XChaCha20Poly1305),
    GcmSiv(Aes256GcmSiv),
}

impl Cipher {
    pub(super) fn new(algorithm: SealingAlgorithm, key: &Secret) -> Self {
        let key = GenericArray::from_slice(key.as_bytes());
        match algorithm {
            SealingAlgorithm::XChaCha20Poly1305 => Self::XChaCha(XChaCha20Poly1305::new(key)),
            SealingAlgorithm::Aes256GcmSiv => Self::GcmSiv(Aes256GcmSiv::new(key)),
        }
    }

    /// Seals what `bytes` has from `at` on, and appends the tag.
    pub(super) fn seal(&self, nonce: &[u8], data: &[u8], bytes: &mut Vec<u8>, at: usize) -> Result<(), aead::Error> {
        let tag = match self {
            Self::XChaCha(cipher) => {
                cipher.encrypt_in_place_detached(GenericArray::from_slice(nonce), data, &mut bytes[at..])
            }
            Self::GcmSiv(cipher) => {
                cipher.encrypt_in_place_detached(GenericArray::from_slice(nonce), data, &mut bytes[at..])
            }
        }?;
        bytes.extend_from_slice(&tag);
        Ok(())
    }

    /// Appends to `bytes` what was sealed.
    pub(super) fn open(
        &self,
        nonce: &[u8],
        data: &[u8],
        sealed: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), aead::Error> {
        let (sealed, tag) = sealed.split_last_chunk::<TAG>().ok_or(aead::Error)?;
        let at = bytes.len();
        bytes.extend_from_slice(sealed);
        let (opened, tag) = (&mut bytes[at..], GenericArray::from_slice(tag));
        match self {
            Self::XChaCha(cipher) => {
                cipher.decrypt_in_place_detached(GenericArray::from_slice(nonce), data, opened, tag)
            }
            Self::GcmSiv(cipher) => {
                cipher.decrypt_in_place_detached(GenericArray::from_slice(nonce), data, opened, tag)
            }
        }
    }
}
