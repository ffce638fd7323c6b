//! The thread that writes: many changes in one transaction.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    batch::Batch,
    connection::{open, pragma, quick_check, store_error},
    engine::{Change, Failure, Shared},
    sessions::{Life, Session},
};
use crate::store::StoreError;

/// How many changes share one transaction.
const MOST_IN_BATCH: usize = 256;

/// How long a transaction waits for changes of requests that are looking already.
const GATHERED: Duration = Duration::from_micros(500);

/// How often expired records are looked for, and the session's file.
const TICK: Duration = Duration::from_secs(1);

/// The first SQLite without the fault by which two processes can damage a WAL (sqlite.org/wal.html#walresetbug).
const SOUND_FOR_PROCESSES: i32 = 3_051_003;

/// The thread that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    opened: Option<Opened>,
    swept: Instant,
}

struct Opened {
    connection: Connection,
    session: Session,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, opened: None, swept: Instant::now() }
    }

    pub(super) fn run(mut self, changes: &Receiver<Change>) {
        loop {
            let first = match changes.recv_timeout(TICK) {
                Ok(change) => Some(change),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Some(first) = first {
                let batch = self.gather(first, changes);
                self.write(batch);
            }
            if self.swept.elapsed() >= TICK {
                self.swept = Instant::now();
                if let Err(error) = self.look_after() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an SQLite store can't be looked after");
                }
            }
        }
        if let Some(opened) = self.opened {
            opened.close();
        }
    }

    /// The changes that share a transaction: those that are there, and those of requests that are just looking whether they
    /// have to write. Without the latter every second `fsync` would be for a few of them.
    fn gather(&self, first: Change, changes: &Receiver<Change>) -> Vec<Change> {
        let mut batch = vec![first];
        let until = Instant::now() + GATHERED;
        while batch.len() < MOST_IN_BATCH {
            match changes.try_recv() {
                Ok(change) => batch.push(change),
                Err(_) if self.shared.looking.load(Relaxed) == 0 => break,
                Err(_) => match changes.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(change) => batch.push(change),
                    Err(_) => break,
                },
            }
        }
        batch
    }

    fn write(&mut self, changes: Vec<Change>) {
        let shared = self.shared.clone();
        let opened = match self.open() {
            Ok(opened) => opened,
            Err(error) => {
                let failure = Failure::of(&error);
                for change in changes {
                    change(Err(&failure));
                }
                return;
            }
        };
        let mut told = Vec::with_capacity(changes.len());
        let mut waiting = Some(changes);
        let written = opened.transaction(&shared, |batch| {
            let mut changes = waiting.take().unwrap_or_default().into_iter();
            for change in changes.by_ref() {
                // The thread, and its session with it, must outlive a change that panics.
                match catch_unwind(AssertUnwindSafe(|| change(Ok(&mut *batch)))) {
                    Ok(tell) => told.extend(tell),
                    Err(_) => batch.fails = true,
                }
                if batch.fails || batch.connection.is_autocommit() {
                    break;
                }
            }
            let failure = Failure::Unavailable("another change of the same transaction failed".into());
            for change in changes {
                change(Err(&failure));
            }
            Ok(())
        });
        let failure = written.as_ref().err().map(Failure::of);
        for tell in told {
            tell(failure.as_ref());
        }
        // The transaction could not even begin.
        if let (Some(changes), Some(failure)) = (waiting, &failure) {
            for change in changes {
                change(Err(failure));
            }
        }
        if let Err(error) = written {
            tracing::warn!(error = &error as &dyn std::error::Error, "a transaction of an SQLite store failed");
        }
    }

    fn open(&mut self) -> Result<&mut Opened, StoreError> {
        if self.opened.is_none() {
            self.opened = Some(Opened::new(&self.shared)?);
        }
        Ok(self.opened.as_mut().expect("it was opened"))
    }

    /// Deletes expired records, shrinks the file, and sees to the session's file.
    fn look_after(&mut self) -> Result<(), StoreError> {
        let Some(opened) = &mut self.opened else { return Ok(()) };
        opened.keep_session(&self.shared)?;
        let expired: bool = opened
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM slots WHERE expires <= ?1)")
            .and_then(|mut statement| statement.query_row([self.shared.time().cast_signed()], |row| row.get(0)))
            .map_err(store_error)?;
        if expired {
            opened.transaction(&self.shared, |batch| batch.sweep().map(drop))?;
        }
        let free: i64 = pragma(&opened.connection, "freelist_count").map_err(store_error)?;
        if free > 256 {
            // A step frees one page, and `execute_batch` does one step.
            let vacuum = || {
                let mut statement = opened.connection.prepare_cached("PRAGMA incremental_vacuum(256)")?;
                let mut pages = statement.query([])?;
                while pages.next()?.is_some() {}
                Ok(())
            };
            vacuum().map_err(store_error)?;
        }
        Ok(())
    }
}

impl Opened {
    fn new(shared: &Shared) -> Result<Self, StoreError> {
        let connection = open(&shared.file, shared.durability, shared.timeout)?;
        let session = Session::begin(&shared.file).map_err(StoreError::unavailable)?;
        shared.session.store(session.id.0, Relaxed);
        let mut opened = Self { connection, session };
        match opened.bury_the_dead(shared) {
            Ok(()) => {}
            // Reads work, and each request finds out by itself whether the owner of its key lives.
            Err(error) if matches!(Failure::of(&error), Failure::Full) => {
                tracing::warn!("the disk is full: the claims of dead processes are noted when there is room");
            }
            Err(error) => {
                opened.session.remove();
                return Err(error);
            }
        }
        shared.is_open.store(true, Relaxed);
        Ok(opened)
    }

    /// Looks for processes that have died, and warns of what living ones can't share.
    fn bury_the_dead(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let (mut dead, mut others) = (Vec::new(), 0);
        for id in Session::all(&shared.file).map_err(StoreError::unavailable)? {
            match Session::look(&shared.file, id) {
                Life::Dead(session) => dead.push(session),
                Life::Alive if id != self.session.id => others += 1,
                Life::Alive | Life::Missing => {}
            }
        }
        if others > 0 && rusqlite::version_number() < SOUND_FOR_PROCESSES {
            tracing::warn!(
                version = rusqlite::version(),
                "several processes share an SQLite store, and this version of SQLite can damage the file then: use 3.51.3 or \
                 later"
            );
        }
        if dead.is_empty() {
            return Ok(());
        }
        quick_check(&self.connection)?;
        self.transaction(shared, |batch| dead.into_iter().try_for_each(|session| batch.bury(session)))
    }

    fn transaction(
        &mut self,
        shared: &Shared,
        change: impl FnOnce(&mut Batch<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(store_error)?;
        let changed = Batch::begin(&self.connection, &shared.file, self.session.id, &shared.missing, shared.time())
            .and_then(|mut batch| {
                change(&mut batch)?;
                if batch.fails || self.connection.is_autocommit() {
                    return Err(StoreError::unavailable("a statement failed, and the transaction with it"));
                }
                batch.finish()?;
                self.connection.execute_batch("COMMIT").map_err(store_error)?;
                Ok(batch)
            });
        match changed {
            Ok(batch) => {
                shared.now.fetch_max(batch.now, Relaxed);
                batch.changed.iter().for_each(|id| shared.waiters.wake(id));
                batch.buried.into_iter().for_each(Session::remove);
                Ok(())
            }
            Err(error) => {
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                Err(error)
            }
        }
    }

    /// Makes a new session where somebody has removed the file of this one: its claims would wait for their deadline.
    fn keep_session(&mut self, shared: &Shared) -> Result<(), StoreError> {
        if self.session.has_its_file() {
            return Ok(());
        }
        tracing::warn!("the file of an SQLite store's session was removed: a new one is made");
        let session = Session::begin(&shared.file).map_err(StoreError::unavailable)?;
        self.connection
            .prepare_cached("UPDATE slots SET session = ?1 WHERE session = ?2")
            .and_then(|mut statement| statement.execute([session.id.0, self.session.id.0]))
            .map_err(store_error)?;
        shared.session.store(session.id.0, Relaxed);
        self.session = session;
        Ok(())
    }

    /// Ends in order: nobody has to find out that this process has ended, unless it leaves claims behind.
    fn close(self) {
        let claims = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM slots WHERE session = ?1)")
            .and_then(|mut statement| statement.query_row([self.session.id.0], |row| row.get::<_, bool>(0)));
        if matches!(claims, Ok(false)) {
            self.session.remove();
        }
    }
}
