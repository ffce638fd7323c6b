//! A connection to the file: opened, created or refused.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::place::network_of;
use crate::{
    record::UnreadableRecord,
    store::{Durability, StoreError},
};

/// Marks a file as one of this crate: "aidm".
const APPLICATION: i32 = 0x6169_646d;

/// The version of the tables.
const SCHEMA: i32 = 2;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS counters (
    cache INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    first INTEGER NOT NULL DEFAULT 0,
    second INTEGER NOT NULL DEFAULT 0
);
INSERT OR IGNORE INTO counters (cache, name) VALUES (0, 'clock');
CREATE TABLE IF NOT EXISTS slots (
    cache INTEGER NOT NULL,
    id BLOB NOT NULL,
    session INTEGER,
    since INTEGER,
    trace INTEGER,
    expires INTEGER NOT NULL,
    slot BLOB NOT NULL,
    PRIMARY KEY (cache, id)
);
CREATE INDEX IF NOT EXISTS slots_session ON slots (session) WHERE session IS NOT NULL;
CREATE INDEX IF NOT EXISTS slots_since ON slots (cache, since) WHERE since IS NOT NULL;
CREATE INDEX IF NOT EXISTS slots_trace ON slots (cache, trace) WHERE trace IS NOT NULL;
CREATE INDEX IF NOT EXISTS slots_expires ON slots (expires);
";

/// Opens the file for writing, and creates it if it does not exist.
pub(super) fn open(file: &Path, durability: Durability, timeout: Duration) -> Result<Connection, StoreError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).map_err(|error| refused(file, &error))?;
    if let Some(kind) = network_of(&folder) {
        return Err(refused(file, &format!("it is on a network file system ({kind}), whose locks can't be relied on")));
    }
    create(file).map_err(|error| refused(file, &error))?;
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, timeout)?;
    let until = Instant::now() + timeout;
    loop {
        match set_up(&connection, durability) {
            Ok(None) => return Ok(connection),
            Ok(Some(why)) => return Err(refused(file, &why)),
            // Another process makes the file at the same time. Not all of that waits by itself.
            Err(error) if is_busy(&error) && Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(refused(file, &error)),
        }
    }
}

/// Makes the tables, unless they are there. `Some`: why the file is refused.
fn set_up(connection: &Connection, durability: Durability) -> rusqlite::Result<Option<String>> {
    // The tables come first: who sees them sees the marks, which are committed with them.
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application: i32 = pragma(connection, "application_id")?;
    let version: i32 = pragma(connection, "user_version")?;
    // A file without tables is new, or another process is making them.
    if tables > 0 && application != APPLICATION {
        return Ok(Some("it is a database of another application".into()));
    }
    if tables > 0 && version != SCHEMA {
        return Ok(Some(format!("its tables have version {version}, and this release reads version {SCHEMA}")));
    }
    if tables == 0 {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    if tables == 0 {
        let made = connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT"
        ));
        if made.is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        made?;
    }
    let synchronous = match durability {
        Durability::Power => "FULL",
        Durability::Process => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    Ok(None)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// A second connection, for reading.
pub(super) fn open_reader(file: &Path, timeout: Duration) -> Result<Connection, StoreError> {
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, timeout)?;
    connection.pragma_update(None, "query_only", true).map_err(store_error)?;
    Ok(connection)
}

/// Looks for damage.
pub(super) fn quick_check(connection: &Connection) -> Result<(), StoreError> {
    let said: String = pragma(connection, "quick_check").map_err(store_error)?;
    if said == "ok" { Ok(()) } else { Err(damaged(format!("the database is damaged: {said}"))) }
}

pub(super) fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn connect(file: &Path, flags: OpenFlags, timeout: Duration) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(store_error)?;
    connection.busy_timeout(timeout).map_err(store_error)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Records hold answers, which are nobody else's business.
///
/// A file that exists is not opened here: a process that closes a descriptor of a file loses all of its POSIX locks on it,
/// also those of SQLite's connections (sqlite.org/howtocorrupt.html, section 2.2).
fn create(file: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(file)?.is_dir() {
                Err(io::ErrorKind::IsADirectory.into())
            } else {
                Ok(())
            }
        }
        created => created.map(drop),
    }
}

fn refused(file: &Path, why: &impl ToString) -> StoreError {
    StoreError::unavailable(format!("{} can't be used: {}", file.display(), why.to_string()))
}

pub(super) fn damaged(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unreadable(UnreadableRecord::Damaged(what.into()))
}

/// The error of a statement. Whoever answers a request makes a full disk or a damaged file of it, if it is that.
pub(super) fn store_error(error: rusqlite::Error) -> StoreError {
    StoreError::unavailable(error)
}
