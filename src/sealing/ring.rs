//! The key ring: the first key seals, all of them open.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Encryption, KeyError, SealingMode,
    cipher::{Cipher, TAG},
    mac::{Mac, derive},
    nonce::Nonce,
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
    /// The key of records with `mode = server`, for each algorithm.
    server: [Cipher; 2],
}

/// The kind of a sealed part. A part that is put in the place of another one does not open.
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
            let server = derive(&key, &[], b"actix-idempotency record");
            let server = [SealingAlgorithm::XChaCha20Poly1305, SealingAlgorithm::Aes256GcmSiv]
                .map(|algorithm| Cipher::new(algorithm, &server));
            Ok(RingKey { id: entry.id, key, server })
        });
        let keys = keys.collect::<Result<Vec<_>, KeyError>>()?;
        let ring = Self { keys, algorithm: settings.algorithm, mode: settings.mode };
        Ok((!ring.keys.is_empty()).then_some(ring))
    }

    /// The numbers of the keys, and a value of each by which a store tells whether it is the same key as before.
    pub(super) fn checks(&self) -> impl Iterator<Item = (u16, [u8; 32])> {
        self.keys.iter().map(|key| {
            let check = Mac::new(derive(&key.key, &[], b"actix-idempotency check").as_bytes());
            (key.id, check.value(b"check", [&[]; 3]))
        })
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

    /// The algorithm that seals.
    pub(super) const fn algorithm(&self) -> SealingAlgorithm {
        self.algorithm
    }

    /// The bytes that sealing adds to the result of a step.
    pub(super) const fn step_overhead(&self) -> usize {
        STEP_HEADER + Algorithm { cipher: self.algorithm, client: false }.nonce() + TAG
    }

    /// Seals head and body of a record apart.
    pub(super) fn seal(
        &self,
        place: Place<'_>,
        record: &Record,
        client: Option<&Secret>,
        nonce: &Nonce,
    ) -> Result<Record, UnreadableRecord> {
        let (key, algorithm) = self.sealing();
        let (head, body) = record.plain_parts()?;
        let cipher = key.cipher(algorithm, client)?;
        let (head_length, body_length) = (head.len() + TAG, body.map_or(0, |body| body.len() + TAG));
        let mut bytes = Record::sealed_header(algorithm, key.id, nonce.as_bytes(), head_length, body_length);
        let failed = |_| UnreadableRecord::Damaged("a part is too large to be sealed".into());
        let mut data = Data::new(algorithm, key.id, Kind::Head, place);
        cipher.get().seal(nonce.as_bytes(), data.as_bytes(), head, &mut bytes).map_err(failed)?;
        if let Some(body) = body {
            let sealed = cipher.get().seal(nonce.of_body().as_bytes(), data.of_body(), body, &mut bytes);
            sealed.map_err(failed)?;
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
        let mut data = Data::new(algorithm, id, Kind::Head, place);
        let mut opened = cipher.get().open(nonce, data.as_bytes(), head, &mut bytes);
        if opened.is_ok() && !body.is_empty() {
            let nonce = Nonce::known(nonce).of_body();
            opened = cipher.get().open(nonce.as_bytes(), data.of_body(), body, &mut bytes);
        }
        opened.map_err(|_| unopened(id, WRONG))?;
        Record::from_opened(bytes.into())
    }

    /// Seals the result of a step.
    pub(super) fn seal_step(
        &self,
        place: Place<'_>,
        name: &str,
        result: &[u8],
        client: Option<&Secret>,
        nonce: &Nonce,
    ) -> Result<Bytes, UnreadableRecord> {
        let (key, algorithm) = self.sealing();
        let mut bytes = Vec::with_capacity(STEP_OVERHEAD + result.len());
        bytes.extend([STEP, algorithm.code()]);
        bytes.extend(key.id.to_le_bytes());
        bytes.extend_from_slice(nonce.as_bytes());
        let data = Data::new(algorithm, key.id, Kind::Step(name), place);
        let cipher = key.cipher(algorithm, client)?;
        let sealed = cipher.get().seal(nonce.as_bytes(), data.as_bytes(), result, &mut bytes);
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
        let data = Data::new(algorithm, id, Kind::Step(name), place);
        let cipher = self.key(id)?.cipher(algorithm, client)?;
        let opened = cipher.get().open(nonce, data.as_bytes(), sealed, &mut bytes);
        opened.map_err(|_| unopened(id, WRONG))?;
        Ok(bytes.into())
    }
}

/// Whether the result of a step is sealed.
pub(super) fn is_sealed_step(result: &[u8]) -> bool {
    result.first() == Some(&STEP)
}

impl RingKey {
    fn cipher(&self, algorithm: Algorithm, client: Option<&Secret>) -> Result<Ready<'_>, UnreadableRecord> {
        if !algorithm.client {
            let [xchacha, gcm_siv] = &self.server;
            return Ok(Ready::Servers(match algorithm.cipher {
                SealingAlgorithm::XChaCha20Poly1305 => xchacha,
                SealingAlgorithm::Aes256GcmSiv => gcm_siv,
            }));
        }
        let client = client.ok_or_else(|| unopened(self.id, CLIENTS))?;
        let key = derive(&self.key, client.as_bytes(), b"actix-idempotency client's record");
        Ok(Ready::Clients(Cipher::new(algorithm.cipher, &key)))
    }
}

/// The cipher of a record.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one call")]
enum Ready<'a> {
    /// The cipher of every record that this key seals (`mode = server`).
    Servers(&'a Cipher),
    /// The cipher of this record alone (`mode = client`).
    Clients(Cipher),
}

impl Ready<'_> {
    const fn get(&self) -> &Cipher {
        match self {
            Self::Servers(cipher) => cipher,
            Self::Clients(cipher) => cipher,
        }
    }
}

/// The data that a part is bound to: the header, the kind, the step, the record and the cache.
struct Data(Vec<u8>);

impl Data {
    /// The version of the data.
    const FORMAT: u8 = 1;

    /// Where the kind is.
    const KIND: usize = 2;

    fn new(algorithm: Algorithm, key: u16, kind: Kind<'_>, place: Place<'_>) -> Self {
        let name = if let Kind::Step(name) = kind { name } else { "" };
        let mut data = Vec::with_capacity(9 + name.len() + 32 + place.cache.len());
        data.extend([Self::FORMAT, algorithm.code(), kind.code()]);
        data.extend(key.to_le_bytes());
        // Names of steps have at most 16 KiB.
        data.extend(u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(place.id.as_bytes());
        data.extend_from_slice(place.cache.as_bytes());
        Self(data)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The data of the body of the same record.
    fn of_body(&mut self) -> &[u8] {
        self.0[Self::KIND] = Kind::Body.code();
        &self.0
    }
}

impl Kind<'_> {
    const fn code(self) -> u8 {
        match self {
            Self::Head => 1,
            Self::Body => 2,
            Self::Step(_) => 3,
        }
    }
}
