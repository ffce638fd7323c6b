//! Changes to the file, in one transaction.

use std::{collections::HashMap, path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    SqliteOptions,
    connection::{damaged, store_error},
    sessions::{Life, Missing, Session, SessionId},
    slots::{Kept, kept},
};
use crate::{
    key::RecordId,
    observe::metrics::{self, Evicted},
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, OnFull, StoreError,
        clock::{Micros, micros},
        lifecycle::{FenceCounter, Slot},
    },
};

/// How much a cache may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    entries: i64,
    bytes: i64,
    min_retention: Duration,
    on_full: OnFull,
}

impl Bounds {
    pub(super) fn of(options: &SqliteOptions) -> Self {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            entries: number(options.max_entries),
            bytes: number(options.max_bytes),
            min_retention: options.min_retention,
            on_full: options.on_full,
        }
    }
}

/// Bytes of a row beside its slot: columns, keys of indexes, and their share of pages.
const UPKEEP: i64 = 160;

/// How many expired records are deleted in one transaction.
const SWEPT_AT_ONCE: u16 = 500;

/// How many records are found at once when there is no room. Those that need not go stay.
const FOUND_AT_ONCE: i64 = 4;

/// Changes to the file, in one transaction.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) file: &'a Path,
    pub(super) own: SessionId,
    missing: &'a Missing,
    pub(super) now: Micros,
    fences: FenceCounter,
    caches: HashMap<String, Cache>,
    /// The records that have changed.
    pub(super) changed: Vec<RecordId>,
    /// The sessions that were found dead. Their locks are held until this is committed.
    pub(super) buried: Vec<Session>,
    /// The sessions whose claims are being given up, or were.
    given_up: Vec<SessionId>,
    /// A statement has failed, and so has everything.
    pub(super) fails: bool,
}

/// A cache and how much it holds.
struct Cache {
    number: i64,
    entries: i64,
    bytes: i64,
}

impl<'a> Batch<'a> {
    /// Continues the clock and the fencing tokens of the file, which must be locked for writing.
    pub(super) fn begin(
        connection: &'a Connection,
        file: &'a Path,
        own: SessionId,
        missing: &'a Missing,
        clock: Micros,
    ) -> Result<Self, StoreError> {
        let (last, fence): (i64, i64) = connection
            .prepare_cached("SELECT first, second FROM counters WHERE cache = 0")
            .and_then(|mut statement| statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(store_error)?;
        Ok(Self {
            connection,
            file,
            own,
            missing,
            // A clock that was set back must not make leases and records last longer.
            now: clock.max(last.unsigned_abs()),
            fences: FenceCounter::starting_after(fence.unsigned_abs()),
            caches: HashMap::new(),
            changed: Vec::new(),
            buried: Vec::new(),
            given_up: Vec::new(),
            fails: false,
        })
    }

    /// Writes what all changes have in common, before the COMMIT.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        let run = || {
            let mut update =
                self.connection.prepare_cached("UPDATE counters SET first = ?2, second = ?3 WHERE cache = ?1")?;
            // All rows are in one page of the file.
            update.execute(params![0, self.now.cast_signed(), self.fences.last().cast_signed()])?;
            for cache in self.caches.values() {
                update.execute(params![cache.number, cache.entries, cache.bytes])?;
            }
            Ok(())
        };
        run().map_err(store_error)
    }

    pub(super) fn claim(&mut self, cache: &str, request: &BeginRequest, bounds: Bounds) -> Result<Begin, StoreError> {
        let mut kept = self.kept(cache, &request.id)?;
        if kept.is_none() {
            self.make_room(cache, bounds, 1, UPKEEP)?;
        }
        let mut slot = kept.as_mut().map(|kept| std::mem::take(&mut kept.slot)).unwrap_or_default();
        let answer = slot.begin(request, self.now, &mut self.fences);
        if let (Begin::Acquired(_), Some(kept)) = (&answer, &mut kept) {
            kept.session = Some(self.own);
        }
        self.save(cache, &request.id, &mut slot, kept.as_ref())?;
        Ok(answer)
    }

    pub(super) fn complete(
        &mut self,
        cache: &str,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
        bounds: Bounds,
    ) -> Result<Completion, StoreError> {
        let is_new = self.kept(cache, &claim.id)?.is_none();
        let more = i64::try_from(record.len()).unwrap_or(i64::MAX);
        // The answer of an operation that has run is kept in any case, if need be without its body.
        let has_room = self.make_room(cache, bounds, i64::from(is_new), more).is_ok();
        // The operation's own record may have been removed to make room.
        let mut kept = self.kept(cache, &claim.id)?;
        let mut slot = kept.as_mut().map(|kept| std::mem::take(&mut kept.slot)).unwrap_or_default();
        let bare;
        let record = if has_room {
            record
        } else {
            bare = record.without_body();
            &bare
        };
        let completion = slot.complete(claim, record, ttl, self.now);
        self.save(cache, &claim.id, &mut slot, kept.as_ref())?;
        Ok(completion)
    }

    pub(super) fn forget(&mut self, cache: &str, id: &RecordId) -> Result<Forgotten, StoreError> {
        match self.change(cache, id, |slot, now, _| slot.forget(now)) {
            // An operator may give up a record that can't be read.
            Err(StoreError::Unreadable(_)) => {
                self.delete(cache, id)?;
                Ok(Forgotten::Removed)
            }
            answer => answer,
        }
    }

    /// Calls a transition of a slot, and saves the slot.
    pub(super) fn change<T>(
        &mut self,
        cache: &str,
        id: &RecordId,
        change: impl FnOnce(&mut Slot, u64, &mut FenceCounter) -> T,
    ) -> Result<T, StoreError> {
        let mut kept = self.kept(cache, id)?;
        let mut slot = kept.as_mut().map(|kept| std::mem::take(&mut kept.slot)).unwrap_or_default();
        let answer = change(&mut slot, self.now, &mut self.fences);
        self.save(cache, id, &mut slot, kept.as_ref())?;
        Ok(answer)
    }

    /// Marks the claims of a dead process as those of a lost owner.
    pub(super) fn bury(&mut self, session: Session) -> Result<(), StoreError> {
        let id = session.id;
        self.buried.push(session);
        self.lose_owner(id)
    }

    /// Marks the claims of a session as those of a lost owner.
    fn lose_owner(&mut self, session: SessionId) -> Result<(), StoreError> {
        // Known before its slots are read again: each of them would find it dead.
        self.given_up.push(session);
        let rows = self
            .connection
            .prepare_cached("SELECT counters.name, slots.id FROM slots JOIN counters USING (cache) WHERE session = ?1")
            .and_then(|mut statement| {
                let rows = statement
                    .query_map([session.0], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .map_err(store_error)?;
        let claims = rows.len();
        tracing::warn!(%session, claims, "a process has died: its claims are those of lost owners");
        for (cache, id) in rows {
            let id = RecordId::from_bytes(id.try_into().map_err(|_| damaged("an id of another length"))?);
            match self.change(&cache, &id, |slot, now, _| slot.lose_owner(now)) {
                // The record stays unreadable, whoever asks for it.
                Ok(_) | Err(StoreError::Unreadable(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes some records that have expired. Whether there may be more.
    pub(super) fn sweep(&mut self) -> Result<bool, StoreError> {
        let rows = self
            .connection
            .prepare_cached(
                "SELECT counters.name, slots.id FROM slots JOIN counters USING (cache) WHERE expires <= ?1 LIMIT ?2",
            )
            .and_then(|mut statement| {
                let rows = statement.query_map(params![self.now.cast_signed(), SWEPT_AT_ONCE], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .map_err(store_error)?;
        for (cache, id) in &rows {
            let id = id[..].try_into().map_err(|_| damaged("an id of another length"))?;
            self.delete(cache, &RecordId::from_bytes(id))?;
        }
        Ok(rows.len() == usize::from(SWEPT_AT_ONCE))
    }

    /// The slot. A claim of a dead process has become one of a lost owner.
    fn kept(&mut self, cache: &str, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        let number = self.cache(cache)?.number;
        loop {
            let found = {
                let sql = "SELECT slot, session, trace FROM slots WHERE cache = ?1 AND id = ?2";
                let mut statement = self.connection.prepare_cached(sql).map_err(store_error)?;
                kept(&mut statement, params![number, id.as_bytes()])?
            };
            let foreign = found.as_ref().and_then(|kept| kept.session).filter(|session| *session != self.own);
            let Some(session) = foreign.filter(|id| !self.given_up.contains(id)) else {
                return Ok(found);
            };
            match Session::look(self.file, session) {
                Life::Dead(session) => self.bury(session)?,
                Life::Missing if self.missing.for_a_lease(session, self.now) => {
                    self.lose_owner(session)?;
                    self.missing.forget(session);
                }
                Life::Alive | Life::Missing => return Ok(found),
            }
        }
    }

    fn save(&mut self, cache: &str, id: &RecordId, slot: &mut Slot, before: Option<&Kept>) -> Result<(), StoreError> {
        if slot.expire(self.now) {
            return if before.is_some() { self.delete(cache, id) } else { Ok(()) };
        }
        let mut bytes = slot.to_bytes();
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        // A claim that another process holds stays that process's.
        let holder = before.and_then(|kept| kept.session).unwrap_or(self.own);
        let session = slot.is_held().then_some(holder.0);
        let number = self.cache(cache)?.number;
        let (since, expires) = (slot.completed_since().map(u64::cast_signed), slot.expires().unwrap_or(u64::MAX));
        let is_trace = since.is_none() && !slot.is_held();
        let trace = is_trace.then(|| before.and_then(|kept| kept.trace).unwrap_or_else(|| self.now.cast_signed()));
        self.connection
            .prepare_cached(
                "INSERT INTO slots (cache, id, session, since, trace, expires, slot) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (cache, id) \
                 DO UPDATE SET session = ?3, since = ?4, trace = ?5, expires = ?6, slot = ?7",
            )
            .and_then(|mut statement| {
                let expires = i64::try_from(expires).unwrap_or(i64::MAX);
                statement.execute(params![number, id.as_bytes(), session, since, trace, expires, bytes])
            })
            .map_err(store_error)?;
        let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let cache = self.cache(cache)?;
        if let Some(before) = before {
            cache.bytes += length - before.bytes;
        } else {
            cache.entries += 1;
            cache.bytes += length + UPKEEP;
        }
        self.changed.push(*id);
        Ok(())
    }

    fn delete(&mut self, cache: &str, id: &RecordId) -> Result<(), StoreError> {
        let number = self.cache(cache)?.number;
        let deleted: Option<i64> = self
            .connection
            .prepare_cached("DELETE FROM slots WHERE cache = ?1 AND id = ?2 RETURNING length(slot)")
            .and_then(|mut statement| statement.query_row(params![number, id.as_bytes()], |row| row.get(0)).optional())
            .map_err(store_error)?;
        if let Some(length) = deleted {
            let cache = self.cache(cache)?;
            cache.entries -= 1;
            cache.bytes -= length + UPKEEP;
            self.changed.push(*id);
        }
        Ok(())
    }

    /// Lets the oldest completed records go until there is room, then the oldest traces: unfinished records that nobody
    /// holds.
    fn make_room(&mut self, cache: &str, bounds: Bounds, entries: i64, bytes: i64) -> Result<(), StoreError> {
        let mut has_swept = false;
        loop {
            if self.has_room(cache, bounds, entries, bytes)? {
                return Ok(());
            }
            if !has_swept {
                has_swept = !self.sweep()?;
                continue;
            }
            if bounds.on_full == OnFull::Reject {
                return Err(StoreError::Full);
            }
            let has_room = |this: &mut Self| this.has_room(cache, bounds, entries, bytes);
            let completed = "SELECT id FROM slots WHERE cache = ?1 AND since <= ?2 ORDER BY since LIMIT ?3";
            let traces = "SELECT id FROM slots WHERE cache = ?1 AND trace <= ?2 ORDER BY trace LIMIT ?3";
            if !self.evict(cache, bounds, completed, Evicted::Record, has_room)?
                && !self.evict(cache, bounds, traces, Evicted::Unfinished, has_room)?
            {
                return Err(StoreError::Full);
            }
        }
    }

    fn has_room(&mut self, cache: &str, bounds: Bounds, entries: i64, bytes: i64) -> Result<bool, StoreError> {
        let held = self.cache(cache)?;
        Ok(held.entries + entries <= bounds.entries && held.bytes + bytes <= bounds.bytes)
    }

    /// Lets records go that a statement finds, until there is room. Whether it has found any.
    fn evict(
        &mut self,
        cache: &str,
        bounds: Bounds,
        statement: &str,
        what: Evicted,
        has_room: impl Fn(&mut Self) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let number = self.cache(cache)?.number;
        let before = self.now.saturating_sub(micros(bounds.min_retention));
        let ids = self
            .connection
            .prepare_cached(statement)
            .and_then(|mut statement| {
                let rows = statement
                    .query_map(params![number, before.cast_signed(), FOUND_AT_ONCE], |row| row.get::<_, Vec<u8>>(0))?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .map_err(store_error)?;
        for id in &ids {
            let id = RecordId::from_bytes(id[..].try_into().map_err(|_| damaged("an id of another length"))?);
            if matches!(what, Evicted::Unfinished) {
                tracing::warn!(
                    record = ?id,
                    "a full store forgot a key whose operation is not finished; its next request runs as the first"
                );
            }
            metrics::evicted(what);
            self.delete(cache, &id)?;
            if has_room(self)? {
                break;
            }
        }
        Ok(!ids.is_empty())
    }

    fn cache(&mut self, name: &str) -> Result<&mut Cache, StoreError> {
        if !self.caches.contains_key(name) {
            let find = || {
                let mut find =
                    self.connection.prepare_cached("SELECT cache, first, second FROM counters WHERE name = ?1")?;
                let read = |row: &rusqlite::Row<'_>| {
                    Ok(Cache { number: row.get(0)?, entries: row.get(1)?, bytes: row.get(2)? })
                };
                if let Some(cache) = find.query_row([name], read).optional()? {
                    return Ok(cache);
                }
                self.connection.prepare_cached("INSERT INTO counters (name) VALUES (?1)")?.execute([name])?;
                find.query_row([name], read)
            };
            let cache = find().map_err(store_error)?;
            self.caches.insert(name.to_owned(), cache);
        }
        Ok(self.caches.get_mut(name).expect("it was inserted"))
    }
}
