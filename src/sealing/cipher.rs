//! Authenticated encryption of one part: a head, a body, or the result of a step.

use aes_gcm_siv::Aes256GcmSiv;
use chacha20poly1305::{
    AeadInOut as _, KeyInit as _, XChaCha20Poly1305,
    aead::{self, array::Array},
};

use super::secret::Secret;
use crate::record::SealingAlgorithm;

/// The bytes that sealing adds to a part.
pub(super) const TAG: usize = 16;

/// A key, ready for one algorithm.
#[expect(clippy::large_enum_variant, reason = "a ring has few, and others live on the stack for one call")]
pub(super) enum Cipher {
    XChaCha(XChaCha20Poly1305),
    GcmSiv(Aes256GcmSiv),
}

impl Cipher {
    pub(super) fn new(algorithm: SealingAlgorithm, key: &Secret) -> Self {
        let key = <&Array<u8, _>>::from(key.as_bytes());
        match algorithm {
            SealingAlgorithm::XChaCha20Poly1305 => Self::XChaCha(XChaCha20Poly1305::new(key)),
            SealingAlgorithm::Aes256GcmSiv => Self::GcmSiv(Aes256GcmSiv::new(key)),
        }
    }

    /// Appends `plain` to `bytes`, sealed and with its tag.
    pub(super) fn seal(&self, nonce: &[u8], data: &[u8], plain: &[u8], bytes: &mut Vec<u8>) -> Result<(), aead::Error> {
        let at = bytes.len();
        bytes.extend_from_slice(plain);
        let part = (&mut bytes[at..]).into();
        let tag = match self {
            Self::XChaCha(cipher) => cipher.encrypt_inout_detached(fixed(nonce)?, data, part),
            Self::GcmSiv(cipher) => cipher.encrypt_inout_detached(fixed(nonce)?, data, part),
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
        let (part, tag) = ((&mut bytes[at..]).into(), tag.into());
        match self {
            Self::XChaCha(cipher) => cipher.decrypt_inout_detached(fixed(nonce)?, data, part, tag),
            Self::GcmSiv(cipher) => cipher.decrypt_inout_detached(fixed(nonce)?, data, part, tag),
        }
    }
}

/// A nonce as the algorithm takes it. One of another length does not fit.
fn fixed<N: aead::array::ArraySize>(nonce: &[u8]) -> Result<&Array<u8, N>, aead::Error> {
    nonce.try_into().map_err(|_| aead::Error)
}
