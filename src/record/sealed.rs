//! The format of a sealed record. The keys are elsewhere: [`sealing`](crate::sealing) opens what this module takes apart.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version: 2 |
//! | 1 | algorithm: 2 is XChaCha20-Poly1305, 3 is AES-256-GCM-SIV; the highest bit: the client's key is needed too |
//! | 2 | number of the key, little-endian |
//! | 24 or 12 | nonce of the head; that of the body has its last bit turned |
//! | 4 | length of the sealed head, little-endian |
//! | … | head, sealed, with its tag of 16 bytes |
//! | … | body, sealed, with its tag of 16 bytes; or nothing |

use bytes::Bytes;

use super::{Algorithm, HEADER, PLAIN, Record, UNCHECKED, UnreadableRecord, VERSION, damaged};

/// The bytes before the nonce.
const BEFORE_NONCE: usize = 4;

/// A sealed record, taken apart.
#[derive(Clone, Copy)]
pub(crate) struct SealedParts<'a> {
    pub(crate) algorithm: Algorithm,
    /// The number of the key.
    pub(crate) key: u16,
    pub(crate) nonce: &'a [u8],
    pub(crate) head: &'a [u8],
    /// Empty: there is none, or it was given up.
    pub(crate) body: &'a [u8],
}

impl Record {
    /// Takes a sealed record apart. `None`: the record is not sealed.
    pub(crate) fn sealed_parts(&self) -> Result<Option<SealedParts<'_>>, UnreadableRecord> {
        let (code, key) = match self.0[..] {
            [VERSION, UNCHECKED | PLAIN, ..] => return Ok(None),
            [VERSION, code, low, high, ..] => (code, u16::from_le_bytes([low, high])),
            _ => return Err(UnreadableRecord::Version(self.0.first().copied())),
        };
        let algorithm = Algorithm::of(code)?;
        let short = || damaged("too short for a sealed record");
        let (nonce, rest) = self.0[BEFORE_NONCE..].split_at_checked(algorithm.nonce()).ok_or_else(short)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (head, body) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(short)?;
        Ok(Some(SealedParts { algorithm, key, nonce, head, body }))
    }

    /// The bytes of head and body. `None`: the body was never kept, or was given up.
    pub(crate) fn plain_parts(&self) -> Result<(&[u8], Option<&[u8]>), UnreadableRecord> {
        let opened = self.open()?;
        let body = opened.has_body().then_some(opened.body_bytes);
        Ok((opened.head_bytes, body))
    }

    /// The beginning of a sealed record, with room for the parts, whose lengths are those of the sealed ones.
    pub(crate) fn sealed_header(algorithm: Algorithm, key: u16, nonce: &[u8], head: usize, body: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BEFORE_NONCE + nonce.len() + 4 + head + body);
        bytes.extend([VERSION, algorithm.code()]);
        bytes.extend(key.to_le_bytes());
        bytes.extend_from_slice(nonce);
        // A head is far smaller than 4 GiB: actix-web limits header sections.
        bytes.extend(u32::try_from(head).unwrap_or(u32::MAX).to_le_bytes());
        bytes
    }

    /// A record whose parts were sealed behind a [header](Self::sealed_header).
    pub(crate) const fn from_sealed(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The beginning of a record whose parts are opened. `head`: the length of the head. `body`: room for the body.
    pub(crate) fn opened_header(head: usize, body: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + head + body);
        bytes.extend([VERSION, UNCHECKED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(u32::try_from(head).unwrap_or(u32::MAX).to_le_bytes());
        bytes
    }

    /// A record whose parts were opened behind a [header](Self::opened_header).
    pub(crate) fn from_opened(bytes: Bytes) -> Result<Self, UnreadableRecord> {
        let record = Self(bytes);
        record.response()?;
        Ok(record)
    }

    /// The length of the record without its body. `None`: it is not sealed.
    pub(super) fn sealed_length_without_body(&self) -> Option<usize> {
        let parts = self.sealed_parts().ok()??;
        Some(self.0.len() - parts.body.len())
    }
}
