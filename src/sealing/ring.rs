//! The key ring: the first key seals, all of them open.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Encryption, KeyError, SealingMode,
    cipher::{Cipher, TAG},
    index::mac,
    secret::Secret,
};
use crate::{
    key::RecordId,
    record::{Algorithm, Record, SealedParts, SealingAlgorithm, UnreadableRecord},
};

/// The keys of `encryption.keys`.
pub(super) struct Ring {
    /// Not empty.
    keys: Vec<RingKey>,
    algorithm: SealingAlgorithm,
    mode: SealingMode,
}

struct RingKey {
    id: u16,
    key: Arc<Secret>,
    /// The key of records with `mode = server`.
    server: Secret,
}

/// What a sealed part is. A part that is put in the place of another one does not open.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Head,
    Body,
    /// The result of the step of this name.
    Step(&'a str),
}

/// Where a sealed part belongs.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) id: &'a RecordId,
    pub(super) cache: &'a str,
}

/// The first byte of a sealed result of a step. No JSON begins with it.
const STEP: u8 = 0;

/// The bytes before the nonce of a sealed result: the byte `STEP`, the algorithm, the key.
const STEP_HEADER: usize = 4;

/// The most bytes that sealing adds to the result of a step.
pub(crate) const STEP_OVERHEAD: usize = STEP_HEADER + 24 + TAG;

/// Why a part does not open.
fn unopened(key: u16, why: &'static str) -> UnreadableRecord {
    UnreadableRecord::Sealed { key, why }
}

const ABSENT: &str = "that key is not in `encryption.keys`";
const WRONG: &str = "that key of `encryption.keys` does not open it: it was sealed by another key or for another record, or is \
                     damaged";
const CLIENTS: &str = "its client's idempotency key is needed too";

impl Ring {
    /// `None`: nothing is sealed.
    pub(super) fn read(settings: &Encryption) -> Result<Option<Self>, KeyError> {
        let keys = settings.keys.iter().map(|entry| {
            let key = entry.source.read().map_err(|why| KeyError {
                setting: "encryption.keys",
                entry: entry.to_string(),
                why,
            })?;
            Ok(RingKey { id: entry.id, server: key.derive(&[], b"actix-idempotency record"), key })
        });
        let keys = keys.collect::<Result<Vec<_>, KeyError>>()?;
        let ring = Self { keys, algorithm: settings.algorithm, mode: settings.mode };
        Ok((!ring.keys.is_empty()).then_some(ring))
    }

    /// The numbers of the keys, and a value of each by which a store tells whether it is the same key as before.
    pub(super) fn checks(&self) -> impl Iterator<Item = (u16, [u8; 32])> {
        self.keys.iter().map(|key| (key.id, mac(&key.key.derive(&[], b"actix-idempotency check"), b"check", &[])))
    }

    pub(super) fn has(&self, key: &Secret) -> bool {
        self.keys.iter().any(|one| *one.key == *key)
    }

    fn key(&self, id: u16) -> Result<&RingKey, UnreadableRecord> {
        self.keys.iter().find(|key| key.id == id).ok_or_else(|| unopened(id, ABSENT))
    }

    /// The key that new parts are sealed with.
    fn sealing(&self) -> (&RingKey, Algorithm) {
        (&self.keys[0], Algorithm { cipher: self.algorithm, client: self.mode == SealingMode::Client })
    }

    /// Seals head and body of a record apart. `nonce` has the length that the algorithm takes.
    pub(super) fn seal(
        &self,
        place: Place<'_>,
        record: &Record,
        client: Option<&Secret>,
        nonce: &[u8],
    ) -> Result<Record, UnreadableRecord> {
        let (key, algorithm) = self.sealing();
        let (head, body) = record.plain_parts()?;
        let cipher = key.cipher(algorithm, client)?;
        let mut bytes =
            Record::sealed_header(algorithm, key.id, nonce, head.len() + TAG, body.map_or(0, |b| b.len() + TAG));
        let failed = |_| UnreadableRecord::Damaged("a part is too large to be sealed".into());
        let at = bytes.len();
        bytes.extend_from_slice(head);
        cipher.seal(nonce, &data(algorithm, key.id, Kind::Head, place), &mut bytes, at).map_err(failed)?;
        if let Some(body) = body {
            let at = bytes.len();
            bytes.extend_from_slice(body);
            let data = data(algorithm, key.id, Kind::Body, place);
            cipher.seal(of_body(nonce).as_slice(nonce), &data, &mut bytes, at).map_err(failed)?;
        }
        Ok(Record::from_sealed(bytes.into()))
    }

    /// Opens a sealed record. A body that a store has given up stays given up.
    pub(super) fn open(
        &self,
        place: Place<'_>,
        sealed: &SealedParts<'_>,
        client: Option<&Secret>,
    ) -> Result<Record, UnreadableRecord> {
        let SealedParts { algorithm, key: id, nonce, head, body } = *sealed;
        let cipher = self.key(id)?.cipher(algorithm, client)?;
        let mut bytes = Record::opened_header(head.len().saturating_sub(TAG), body.len());
        cipher
            .open(nonce, &data(algorithm, id, Kind::Head, place), head, &mut bytes)
            .map_err(|_| unopened(id, WRONG))?;
        if !body.is_empty() {
            let data = data(algorithm, id, Kind::Body, place);
            let opened = cipher.open(of_body(nonce).as_slice(nonce), &data, body, &mut bytes);
            opened.map_err(|_| unopened(id, WRONG))?;
        }
        Record::from_opened(bytes.into())
    }

    /// Seals the result of a step.
    pub(super) fn seal_step(
        &self,
        place: Place<'_>,
        name: &str,
        result: &[u8],
        client: Option<&Secret>,
        nonce: &[u8],
    ) -> Result<Bytes, UnreadableRecord> {
        let (key, algorithm) = self.sealing();
        let mut bytes = Vec::with_capacity(STEP_OVERHEAD + result.len());
        bytes.extend([STEP, algorithm.code()]);
        bytes.extend(key.id.to_le_bytes());
        bytes.extend_from_slice(nonce);
        let at = bytes.len();
        bytes.extend_from_slice(result);
        let data = data(algorithm, key.id, Kind::Step(name), place);
        let sealed = key.cipher(algorithm, client)?.seal(nonce, &data, &mut bytes, at);
        sealed.map_err(|_| UnreadableRecord::Damaged("a step is too large to be sealed".into()))?;
        Ok(bytes.into())
    }

    /// Opens the result of a step.
    pub(super) fn open_step(
        &self,
        place: Place<'_>,
        name: &str,
        sealed: &[u8],
        client: Option<&Secret>,
    ) -> Result<Bytes, UnreadableRecord> {
        let short = || UnreadableRecord::Damaged("too short for a sealed step".into());
        let (&[_, code, low, high], rest) = sealed.split_first_chunk::<STEP_HEADER>().ok_or_else(short)?;
        let (algorithm, id) = (Algorithm::of(code)?, u16::from_le_bytes([low, high]));
        let (nonce, sealed) = rest.split_at_checked(algorithm.nonce()).ok_or_else(short)?;
        let mut bytes = Vec::with_capacity(sealed.len());
        let data = data(algorithm, id, Kind::Step(name), place);
        let opened = self.key(id)?.cipher(algorithm, client)?.open(nonce, &data, sealed, &mut bytes);
        opened.map_err(|_| unopened(id, WRONG))?;
        Ok(bytes.into())
    }

    /// A fresh nonce.
    pub(super) fn nonce(&self) -> Result<Nonce, getrandom::Error> {
        let mut nonce = Nonce { bytes: [0; 24], length: self.sealing().1.nonce() };
        getrandom::fill(&mut nonce.bytes[..nonce.length])?;
        Ok(nonce)
    }
}

/// Whether the result of a step is sealed.
pub(super) fn is_sealed_step(result: &[u8]) -> bool {
    result.first() == Some(&STEP)
}

impl RingKey {
    fn cipher(&self, algorithm: Algorithm, client: Option<&Secret>) -> Result<Cipher, UnreadableRecord> {
        if !algorithm.client {
            return Ok(Cipher::new(algorithm.cipher, &self.server));
        }
        let client = client.ok_or_else(|| unopened(self.id, CLIENTS))?;
        let key = self.key.derive(client.as_bytes(), b"actix-idempotency client's record");
        Ok(Cipher::new(algorithm.cipher, &key))
    }
}

/// A nonce of 12 or 24 bytes.
pub(super) struct Nonce {
    bytes: [u8; 24],
    length: usize,
}

impl Nonce {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn as_slice<'a>(&'a self, of: &[u8]) -> &'a [u8] {
        &self.bytes[..of.len()]
    }
}

/// The nonce of a body: that of its head, with the last bit turned.
fn of_body(nonce: &[u8]) -> Nonce {
    let mut bytes = [0; 24];
    bytes[..nonce.len()].copy_from_slice(nonce);
    bytes[nonce.len() - 1] ^= 1;
    Nonce { bytes, length: nonce.len() }
}

/// The version of the data below.
const FORMAT: u8 = 1;

/// The data that a part is bound to: the header, the kind, the step, the record and the cache.
fn data(algorithm: Algorithm, key: u16, kind: Kind<'_>, place: Place<'_>) -> Vec<u8> {
    let (kind, name) = match kind {
        Kind::Head => (1, ""),
        Kind::Body => (2, ""),
        Kind::Step(name) => (3, name),
    };
    let mut data = Vec::with_capacity(8 + name.len() + 32 + place.cache.len());
    data.extend([FORMAT, algorithm.code(), kind]);
    data.extend(key.to_le_bytes());
    // Names of steps have at most 16 KiB.
    data.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(place.id.as_bytes());
    data.extend_from_slice(place.cache.as_bytes());
    data
}
