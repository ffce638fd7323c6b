//! The ids under which stores and ledgers have records.

use super::Mode;
use crate::{key::RecordId, sealing::Index};

/// Makes the id under which stores and ledgers have a record. The id from which keys for other services are derived is
/// another one with `mode = observe`, and with an index key.
#[derive(Clone, Debug)]
pub(crate) struct StoredIds {
    pub(crate) mode: Mode,
    pub(crate) index: Index,
}

impl StoredIds {
    #[inline]
    pub(crate) fn of(&self, id: RecordId) -> RecordId {
        self.index.id(self.mode.record_id(id))
    }
}
