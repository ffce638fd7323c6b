//! What is read from the file.

use std::path::Path;

use rusqlite::{CachedStatement, Connection, params};

use super::{
    connection::{damaged, store_error},
    sessions::{Life, Missing, Session, SessionId},
    slots::{Kept, decode, kept},
};
use crate::{
    key::RecordId,
    store::{Begin, BeginRequest, Inspection, RecordState, Step, StoreError, clock::Micros, lifecycle::FenceCounter},
};

/// Reads from the file.
pub(super) struct View<'a> {
    pub(super) connection: &'a Connection,
    pub(super) file: &'a Path,
    pub(super) own: Option<SessionId>,
    pub(super) missing: &'a Missing,
    pub(super) now: Micros,
}

impl View<'_> {
    /// The answer to a `begin` that changes nothing but the count of replays. `None`: it has to write.
    pub(super) fn answer(&self, cache: &str, request: &BeginRequest) -> Result<Option<Begin>, StoreError> {
        let Some(mut kept) = self.kept(cache, &request.id)? else { return Ok(None) };
        if kept.slot.is_held() && !self.lives(kept.session) {
            return Ok(None);
        }
        let (was_completed, before) = (kept.slot.completed_since().is_some(), kept.slot.to_bytes());
        let answer = kept.slot.begin(request, self.now, &mut FenceCounter::default());
        let changes_nothing = match answer {
            Begin::Completed(_) => was_completed,
            Begin::InFlight(_) | Begin::Mismatch | Begin::OwnerLost => kept.slot.to_bytes() == before,
            Begin::Acquired(_) => false,
        };
        Ok(changes_nothing.then_some(answer))
    }

    pub(super) fn inspect(&self, cache: &str, id: &RecordId) -> Result<Option<Inspection>, StoreError> {
        let Some(mut kept) = self.kept(cache, id)? else { return Ok(None) };
        if kept.slot.is_held() && !self.lives(kept.session) {
            // The next request with the key notes it in the file.
            kept.slot.lose_owner(self.now);
        }
        Ok(kept.slot.inspect(*id, self.now))
    }

    pub(super) fn steps(&self, cache: &str, id: &RecordId) -> Result<Vec<Step>, StoreError> {
        Ok(self.kept(cache, id)?.map(|kept| kept.slot.steps(self.now)).unwrap_or_default())
    }

    /// Whether a living process holds the claim.
    pub(super) fn is_held(&self, cache: &str, id: &RecordId) -> Result<bool, StoreError> {
        let kept = self.kept(cache, id)?;
        Ok(kept.is_some_and(|kept| {
            let state = kept.slot.inspect(*id, self.now).map(|seen| seen.state);
            matches!(state, Some(RecordState::InFlight | RecordState::Lapsed)) && self.lives(kept.session)
        }))
    }

    pub(super) fn list(
        &self,
        cache: &str,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Inspection>, StoreError> {
        let mut page = Vec::new();
        let mut after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
        let mut statement = self.prepare(
            "SELECT id, slot FROM slots WHERE cache = (SELECT cache FROM counters WHERE name = ?1) AND id > ?2 \
             ORDER BY id LIMIT ?3",
        )?;
        let wanted = i64::try_from(limit).unwrap_or(i64::MAX);
        loop {
            let rows = statement
                .query_map(params![cache, after, wanted], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
                })
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
                .map_err(store_error)?;
            let Some((last, _)) = rows.last() else { return Ok(page) };
            after.clone_from(last);
            for (id, bytes) in rows {
                let id = RecordId::from_bytes(id.try_into().map_err(|_| damaged("an id of another length"))?);
                match decode(&bytes) {
                    Ok(slot) => page.extend(slot.inspect(id, self.now)),
                    // Operators find and forget it by its id. The others are shown all the same.
                    Err(error) => tracing::error!(record = ?id, %error, "a record can't be read"),
                }
                if page.len() == limit {
                    return Ok(page);
                }
            }
        }
    }

    fn lives(&self, session: Option<SessionId>) -> bool {
        match session {
            Some(session) if Some(session) != self.own => match Session::look(self.file, session) {
                Life::Alive => true,
                Life::Dead(_) => false,
                Life::Missing => !self.missing.for_a_lease(session, self.now),
            },
            _ => true,
        }
    }

    fn kept(&self, cache: &str, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        let mut statement = self.prepare(
            "SELECT slot, session, trace FROM slots \
             WHERE cache = (SELECT cache FROM counters WHERE name = ?1) AND id = ?2",
        )?;
        kept(&mut statement, params![cache, id.as_bytes()])
    }

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, StoreError> {
        self.connection.prepare_cached(sql).map_err(store_error)
    }
}
