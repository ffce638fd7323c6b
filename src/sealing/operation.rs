//! The facts that sealing needs of one operation.

use std::fmt;

use parking_lot::Mutex;

use super::secret::Secret;
use crate::{
    key::{Principal, digest::Digest},
    record::Record,
};

/// The facts that sealing needs of one operation: the client's part of the key, and the sealed record, so that a
/// completion that is repeated sends the same bytes.
pub(crate) struct Sealing {
    client: Secret,
    /// The record, and the same record sealed.
    sealed: Mutex<Option<(Record, Record)>>,
}

impl Sealing {
    /// The client's part is a hash of the key as it was parsed, and of the principal.
    pub(crate) fn new(key: &str, principal: &Principal) -> Self {
        let mut digest = Digest::new(b"sealing");
        digest.part(key.as_bytes());
        principal.add_to(&mut digest);
        Self { client: Secret::new(digest.finish()), sealed: Mutex::default() }
    }

    pub(super) const fn client(&self) -> &Secret {
        &self.client
    }

    /// The record as `seal` has sealed it first.
    pub(super) fn once<E>(&self, record: &Record, seal: impl FnOnce() -> Result<Record, E>) -> Result<Record, E> {
        let mut known = self.sealed.lock();
        if let Some((_, sealed)) = known.as_ref().filter(|(known, _)| known == record) {
            return Ok(sealed.clone());
        }
        let sealed = seal()?;
        *known = Some((record.clone(), sealed.clone()));
        Ok(sealed)
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealing")
    }
}
