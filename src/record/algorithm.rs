//! The algorithm of a record, as its second byte says it.

#[cfg(feature = "encryption")]
use super::UnreadableRecord;
use super::{Record, VERSION};

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

/// The bit in the algorithm of records that the client's key is needed for too.
const CLIENT: u8 = 0x80;

impl Record {
    /// Whether only the client's key, together with a key of the server, opens the record.
    pub(crate) fn needs_clients_key(&self) -> bool {
        matches!(self.0[..], [VERSION, code, ..] if code & CLIENT != 0)
    }
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
    pub(crate) const fn code(self) -> u8 {
        let cipher = match self.cipher {
            SealingAlgorithm::XChaCha20Poly1305 => 2,
            SealingAlgorithm::Aes256GcmSiv => 3,
        };
        if self.client { cipher | CLIENT } else { cipher }
    }

    pub(crate) const fn of(code: u8) -> Result<Self, UnreadableRecord> {
        let cipher = match code & !CLIENT {
            2 => SealingAlgorithm::XChaCha20Poly1305,
            3 => SealingAlgorithm::Aes256GcmSiv,
            _ => return Err(UnreadableRecord::Algorithm(code)),
        };
        Ok(Self { cipher, client: code & CLIENT != 0 })
    }

    /// The length of its nonces.
    pub(crate) const fn nonce(self) -> usize {
        match self.cipher {
            SealingAlgorithm::XChaCha20Poly1305 => 24,
            SealingAlgorithm::Aes256GcmSiv => 12,
        }
    }
}
