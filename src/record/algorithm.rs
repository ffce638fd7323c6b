//! The algorithm of a record, as its second byte says it.

#[cfg(feature = "encryption")]
use super::UnreadableRecord;

/// The algorithm that seals; setting `encryption.algorithm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealingAlgorithm {
    /// XChaCha20-Poly1305, with random nonces of 192 bits: for processors without AES.
    XChaCha20Poly1305,
    /// AES-256-GCM-SIV, whose nonces may repeat.
    #[default]
    Aes256GcmSiv,
}

/// The algorithm of a sealed record.
#[cfg(feature = "encryption")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithm {
    pub(crate) cipher: SealingAlgorithm,
    /// Whether the client's key is needed too.
    pub(crate) client: bool,
}

#[cfg(feature = "encryption")]
impl Algorithm {
    /// The bit of records that need the client's key too.
    const CLIENT: u8 = 0x80;

    pub(crate) const fn code(self) -> u8 {
        let cipher = match self.cipher {
            SealingAlgorithm::XChaCha20Poly1305 => 2,
            SealingAlgorithm::Aes256GcmSiv => 3,
        };
        if self.client { cipher | Self::CLIENT } else { cipher }
    }

    pub(crate) const fn of(code: u8) -> Result<Self, UnreadableRecord> {
        let cipher = match code & !Self::CLIENT {
            2 => SealingAlgorithm::XChaCha20Poly1305,
            3 => SealingAlgorithm::Aes256GcmSiv,
            _ => return Err(UnreadableRecord::Algorithm(code)),
        };
        Ok(Self { cipher, client: code & Self::CLIENT != 0 })
    }

    /// The length of its nonces.
    pub(crate) const fn nonce(self) -> usize {
        match self.cipher {
            SealingAlgorithm::XChaCha20Poly1305 => 24,
            SealingAlgorithm::Aes256GcmSiv => 12,
        }
    }
}
