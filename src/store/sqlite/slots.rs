//! The bytes of a slot in a row.

use rusqlite::{CachedStatement, OptionalExtension as _};

use super::{
    connection::{damaged, store_error},
    sessions::SessionId,
};
use crate::store::{StoreError, lifecycle::Slot};

/// A slot as it is in the file.
pub(super) struct Kept {
    pub(super) slot: Slot,
    pub(super) session: Option<SessionId>,
    /// Since when nobody holds an unfinished record.
    pub(super) trace: Option<i64>,
    pub(super) bytes: i64,
}

/// The slot that a statement finds, with its session. The statement selects the columns slot, session and trace.
pub(super) fn kept(
    statement: &mut CachedStatement<'_>,
    params: impl rusqlite::Params,
) -> Result<Option<Kept>, StoreError> {
    let found = statement
        .query_row(params, |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?))
        })
        .optional()
        .map_err(store_error)?;
    let Some((bytes, session, trace)) = found else { return Ok(None) };
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    Ok(Some(Kept { slot: decode(&bytes)?, session: session.map(SessionId), trace, bytes: length }))
}

/// A slot from its bytes, whose checksum fits.
pub(super) fn decode(bytes: &[u8]) -> Result<Slot, StoreError> {
    let (slot, checksum) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("a slot that is too short"))?;
    if crc32fast::hash(slot) != u32::from_le_bytes(*checksum) {
        return Err(damaged("a slot whose checksum does not fit"));
    }
    Ok(Slot::from_bytes(slot)?)
}
