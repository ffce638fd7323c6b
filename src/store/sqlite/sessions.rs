//! Which processes live: each holds a lock on a file of its own beside the database.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use crate::store::{
    OwnerToken,
    clock::{Micros, micros},
};

/// The number of a process, as claims carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionId(pub(super) i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.cast_unsigned())
    }
}

/// The session of this process.
pub(super) struct Session {
    pub(super) id: SessionId,
    file: File,
    path: PathBuf,
}

/// Whether the process of a session lives.
pub(super) enum Life {
    Alive,
    /// The process has died. The lock of its session is held here meanwhile, so that no other process clears it too.
    Dead(Session),
    /// The file of the session is gone: somebody has removed it, or the database was copied. [`Missing`] decides.
    Missing,
}

/// Since when the files of sessions have been missing.
///
/// A process that lives sees within a second that its file was removed, and gives its claims a new session. So the claims of
/// a session whose file stays away for a lease belong to nobody.
#[derive(Default)]
pub(super) struct Missing {
    since: Mutex<HashMap<SessionId, Micros>>,
    /// The longest lease of the stores of this file, in microseconds.
    lease: AtomicU64,
}

impl Missing {
    /// The least time for which a file must stay away: a few times what its process needs to see that.
    const LEAST: Duration = Duration::from_secs(3);

    pub(super) fn leases_are(&self, lease: Duration) {
        self.lease.fetch_max(micros(lease.max(Self::LEAST)), Relaxed);
    }

    /// Whether the file of a session, which is missing now, has been missing for a lease.
    pub(super) fn for_a_lease(&self, id: SessionId, now: Micros) -> bool {
        let since = *self.since.lock().entry(id).or_insert(now);
        now.saturating_sub(since) >= self.lease.load(Relaxed)
    }

    pub(super) fn forget(&self, id: SessionId) {
        self.since.lock().remove(&id);
    }
}

impl Session {
    /// Begins the session of this process.
    pub(super) fn begin(database: &Path) -> io::Result<Self> {
        loop {
            let bytes = OwnerToken::random();
            let number = i64::from_be_bytes(*bytes.as_bytes().first_chunk().expect("16 bytes"));
            let (id, path) = (SessionId(number), path_of(database, SessionId(number)));
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            file.lock()?;
            let session = Self { id, file, path };
            // Somebody may have taken the file for that of a dead process before it was locked.
            if session.has_its_file() {
                return Ok(session);
            }
        }
    }

    /// Whether the process of a session lives.
    pub(super) fn look(database: &Path, id: SessionId) -> Life {
        let path = path_of(database, id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Life::Missing,
            Err(_) => return Life::Alive,
        };
        match file.try_lock() {
            Ok(()) => Life::Dead(Self { id, file, path }),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => Life::Alive,
        }
    }

    /// The sessions whose files lie beside the database.
    pub(super) fn all(database: &Path) -> io::Result<Vec<SessionId>> {
        let name = database.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut ids = Vec::new();
        for entry in fs::read_dir(folder)? {
            let file = entry?.file_name();
            let digits = file.to_str().and_then(|file| file.strip_prefix(&name)?.strip_prefix(".s-"));
            if let Some(number) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                ids.push(SessionId(number.cast_signed()));
            }
        }
        Ok(ids)
    }

    /// Whether its file is still the one that is locked.
    pub(super) fn has_its_file(&self) -> bool {
        let inode = |data: io::Result<fs::Metadata>| data.map(|data| (data.dev(), data.ino())).ok();
        let locked = inode(self.file.metadata());
        locked.is_some() && locked == inode(fs::metadata(&self.path))
    }

    /// Removes the file of a session that has no claims any more.
    pub(super) fn remove(self) {
        if self.has_its_file() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn path_of(database: &Path, id: SessionId) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(format!(".s-{id}"));
    path.into()
}
