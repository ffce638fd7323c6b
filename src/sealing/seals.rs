//! The keys of one process, and their use for one cache.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    Encryption, Index, KeyError,
    nonce::Nonce,
    operation::Sealing,
    ring::{Place, Ring, is_sealed_step},
};
use crate::{
    key::{Fingerprint, Key, Principal, RecordId, digest::Digest},
    record::{Record, UnreadableRecord},
};

/// The keys of one process.
pub(crate) struct Seals {
    ring: Option<Ring>,
    pub(crate) index: Index,
    index_is_new: bool,
    accepts_unsealed: bool,
}

/// The keys, for the records of one cache.
#[derive(Clone)]
pub(crate) struct CacheSeals {
    seals: Arc<Seals>,
    namespace: Arc<str>,
    cache: Arc<str>,
}

/// A value that a store keeps, so that a start with another key is refused.
pub(crate) struct Check {
    /// Under which the store keeps it. No request has a record of this id.
    pub(crate) id: RecordId,
    /// `None`: there must be no value.
    pub(crate) value: Option<Fingerprint>,
    /// Whether another value is replaced.
    pub(crate) may_change: bool,
    /// Whether a store with records and without a value is refused.
    pub(crate) needs_empty_store: bool,
    /// The error when the store has another value.
    pub(crate) refusal: String,
}

impl Check {
    /// Scheme and target of the fingerprints of checks. Hashes of requests have no such bytes.
    const SCHEME: [u8; 2] = [0; 2];
    const TARGET: [u8; 8] = [0; 8];

    fn value(hash: [u8; 32]) -> Fingerprint {
        Fingerprint::new(Self::SCHEME, Self::TARGET, hash)
    }

    /// Whether a record with this fingerprint is the value of a check: also of a key that is not in the ring any more.
    pub(crate) fn has_made(fingerprint: &Fingerprint) -> bool {
        let (scheme, target, _) = fingerprint.parts();
        (*scheme, *target) == (Self::SCHEME, Self::TARGET)
    }
}

impl Seals {
    /// Reads the keys that the settings name, if they name any.
    ///
    /// # Errors
    /// The first entry whose key can't be read.
    pub(crate) fn read(settings: &Encryption) -> Result<Arc<Self>, KeyError> {
        let ring = Ring::read(settings)?;
        let wrong = |entry: &dyn fmt::Display, why: String| KeyError {
            setting: "encryption.index_key",
            entry: entry.to_string(),
            why,
        };
        let index = match &settings.index_key {
            Some(source) => {
                let key = source.read().map_err(|why| wrong(source, why))?;
                if ring.as_ref().is_some_and(|ring| ring.has(&key)) {
                    return Err(wrong(source, "one of `encryption.keys` is the same key".into()));
                }
                Some(key)
            }
            None => None,
        };
        Ok(Arc::new(Self {
            ring,
            index: Index::new(index.as_deref()),
            index_is_new: settings.index_key_is_new,
            accepts_unsealed: settings.accept_unsealed,
        }))
    }
}

impl CacheSeals {
    pub(crate) fn new(seals: &Arc<Seals>, namespace: &str, cache: &str) -> Self {
        Self { seals: seals.clone(), namespace: namespace.into(), cache: cache.into() }
    }

    /// Whether there are keys. Without any, the check that there were none before is left.
    pub(crate) fn are_set(&self) -> bool {
        self.seals.ring.is_some() || self.seals.index.key().is_some()
    }

    /// The facts that sealing needs of an operation. `None`: nothing is sealed.
    pub(crate) fn operation(&self, key: &Key, principal: &Principal) -> Option<Arc<Sealing>> {
        self.seals.ring.as_ref()?;
        Some(Arc::new(Sealing::new(key.as_str(), principal)))
    }

    fn place<'a>(&'a self, id: &'a RecordId) -> Place<'a> {
        Place { id, cache: &self.cache }
    }

    /// Seals a record. The record of an operation that is sealed again becomes the same bytes.
    pub(crate) fn seal(
        &self,
        id: &RecordId,
        record: &Record,
        operation: Option<&Sealing>,
    ) -> Result<Record, UnreadableRecord> {
        let Some(ring) = &self.seals.ring else { return Ok(record.clone()) };
        let seal = || {
            let nonce = fresh_nonce(ring)?;
            ring.seal(self.place(id), record, operation.map(Sealing::client), &nonce)
        };
        match operation {
            Some(operation) => operation.once(record, seal),
            None => seal(),
        }
    }

    /// Opens a record as a store has it.
    pub(crate) fn open(
        &self,
        id: &RecordId,
        record: &Record,
        operation: Option<&Sealing>,
    ) -> Result<Record, UnreadableRecord> {
        match (&self.seals.ring, record.sealed_parts()?) {
            (Some(ring), Some(sealed)) => ring.open(self.place(id), &sealed, operation.map(Sealing::client)),
            (None, Some(sealed)) => {
                Err(UnreadableRecord::Sealed { key: sealed.key, why: "`encryption.keys` is not set" })
            }
            (Some(_), None) if !self.seals.accepts_unsealed => Err(UnreadableRecord::Unsealed),
            (_, None) => Ok(record.clone()),
        }
    }

    /// Seals the result of a step. An empty one is none, and stays as it is.
    pub(crate) fn seal_step(
        &self,
        id: &RecordId,
        name: &str,
        result: &Bytes,
        operation: Option<&Sealing>,
    ) -> Result<Bytes, UnreadableRecord> {
        let Some(ring) = self.seals.ring.as_ref().filter(|_| !result.is_empty()) else { return Ok(result.clone()) };
        let nonce = fresh_nonce(ring)?;
        ring.seal_step(self.place(id), name, result, operation.map(Sealing::client), &nonce)
    }

    /// Opens the result of a step as a store has it.
    pub(crate) fn open_step(
        &self,
        id: &RecordId,
        name: &str,
        result: &Bytes,
        operation: Option<&Sealing>,
    ) -> Result<Bytes, UnreadableRecord> {
        match (&self.seals.ring, is_sealed_step(result)) {
            (Some(ring), true) => ring.open_step(self.place(id), name, result, operation.map(Sealing::client)),
            (None, true) => Err(UnreadableRecord::Sealed { key: 0, why: "`encryption.keys` is not set" }),
            (Some(_), false) if !self.seals.accepts_unsealed && !result.is_empty() => Err(UnreadableRecord::Unsealed),
            (_, false) => Ok(result.clone()),
        }
    }

    /// Whether results of steps are sealed.
    pub(crate) fn seals_steps(&self) -> bool {
        self.seals.ring.is_some()
    }

    /// The bytes that sealing adds to the result of a step.
    pub(crate) fn step_overhead(&self) -> usize {
        self.seals.ring.as_ref().map_or(0, Ring::step_overhead)
    }

    /// The values that the store of this cache keeps.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let Self { seals, namespace, cache } = self;
        let index = seals.index.key().map(|key| {
            let value = key.value(b"check", [&namespace.len().to_le_bytes(), namespace.as_bytes(), cache.as_bytes()]);
            Check::value(value)
        });
        let refusal = "`encryption.index_key` is not the one under which the records of this cache are found. \
                       With another one each of their keys would run again. If that is meant, and every process is stopped, \
                       set `encryption.index_key_is_new = true` for one start";
        let mut checks = vec![Check {
            id: self.check_id(b"index"),
            value: index,
            may_change: seals.index_is_new,
            needs_empty_store: !seals.index_is_new,
            refusal: refusal.into(),
        }];
        for (number, value) in seals.ring.iter().flat_map(Ring::checks) {
            checks.push(Check {
                id: self.check_id(&number.to_le_bytes()),
                value: Some(Check::value(value)),
                may_change: false,
                needs_empty_store: false,
                refusal: format!(
                    "key {number} of `encryption.keys` is not the key of that number that this cache has seen; another \
                     key needs another number"
                ),
            });
        }
        checks
    }

    fn check_id(&self, of: &[u8]) -> RecordId {
        let mut digest = Digest::new(b"check of a key");
        digest.part(self.namespace.as_bytes()).part(self.cache.as_bytes()).part(of);
        RecordId::from_bytes(digest.finish())
    }
}

fn fresh_nonce(ring: &Ring) -> Result<Nonce, UnreadableRecord> {
    Nonce::fresh(ring.algorithm()).map_err(|error| UnreadableRecord::Damaged(error.to_string().into()))
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals")
    }
}

impl fmt::Debug for CacheSeals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheSeals").field("cache", &self.cache).finish_non_exhaustive()
    }
}
