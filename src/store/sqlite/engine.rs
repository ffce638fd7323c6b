//! One file in this process: a thread that writes and a thread that reads.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::ErrorCode;
use tokio::sync::oneshot;

use super::{
    SqliteOptions, batch::Batch, connection::damaged, reader::read, sessions::Missing, view::View, waiters::Waiters,
    writer::Writer,
};
use crate::{
    key::RecordId,
    store::{Clock, Durability, StoreError, StoreFuture},
};

/// How long a request waits before it asks whether the owner's process still lives.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A file in this process, shared by the stores of all its caches.
pub(super) struct Engine {
    shared: Arc<Shared>,
    /// `None` only in the drop.
    writer: Option<Sender<Change>>,
    reader: Option<Sender<Look>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads need to know.
pub(super) struct Shared {
    pub(super) file: PathBuf,
    pub(super) durability: Durability,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
    pub(super) waiters: Waiters,
    /// Requests that look whether they have to write.
    pub(super) looking: AtomicUsize,
    /// Whether the file was opened, and made if it was not there.
    pub(super) is_open: AtomicBool,
    /// The session of this process. 0: there is none yet.
    pub(super) session: AtomicI64,
    pub(super) missing: Missing,
    /// The greatest time of a transaction.
    pub(super) now: AtomicU64,
}

/// A change to the file. Gets the transaction, or why there is none; returns who is told when it is committed.
pub(super) type Change = Box<dyn FnOnce(Result<&mut Batch<'_>, &Failure>) -> Option<Told> + Send>;
pub(super) type Told = Box<dyn FnOnce(Option<&Failure>) + Send>;

/// A look into the file.
pub(super) type Look = Box<dyn FnOnce(Result<View<'_>, &Failure>) + Send>;

/// Why nothing was written, for each of those who asked.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Full,
    Damaged(String),
    Unavailable(String),
}

impl Failure {
    pub(super) fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            StoreError::Unreadable(error) => Self::Damaged(error.to_string()),
            StoreError::Unavailable(cause) => {
                match cause.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
                    Some(ErrorCode::DiskFull) => Self::Full,
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(cause.to_string()),
                    _ => Self::Unavailable(cause.to_string()),
                }
            }
            error => Self::Unavailable(error.to_string()),
        }
    }

    pub(super) fn error(&self) -> StoreError {
        match self {
            Self::Full => StoreError::Full,
            Self::Damaged(what) => damaged(what.clone()),
            Self::Unavailable(why) => StoreError::unavailable(why.clone()),
        }
    }
}

impl Engine {
    /// The engine of a file: one in a process.
    pub(super) fn of(options: &SqliteOptions, clock: Clock) -> Result<Arc<Self>, StoreError> {
        static ENGINES: LazyLock<Mutex<HashMap<PathBuf, Weak<Engine>>>> = LazyLock::new(Mutex::default);
        let file = absolute(&options.file);
        let mut engines = ENGINES.lock();
        engines.retain(|_, engine| engine.strong_count() > 0);
        if let Some(engine) = engines.get(&file).and_then(Weak::upgrade) {
            if engine.shared.durability != options.durability {
                return Err(StoreError::unavailable(format!(
                    "{} is used with two values of storage.durability",
                    file.display()
                )));
            }
            engine.shared.missing.leases_are(options.lease);
            return Ok(engine);
        }
        let shared = Arc::new(Shared {
            file: file.clone(),
            durability: options.durability,
            timeout: options.timeout,
            clock,
            waiters: Waiters::default(),
            looking: AtomicUsize::new(0),
            is_open: AtomicBool::new(false),
            session: AtomicI64::new(0),
            missing: Missing::default(),
            now: AtomicU64::new(0),
        });
        shared.missing.leases_are(options.lease);
        let ((writer, changes), (reader, looks)) = (mpsc::channel(), mpsc::channel());
        let (to_write, to_read) = (shared.clone(), shared.clone());
        let threads = vec![
            start("idempotency-write", move || Writer::new(to_write).run(&changes))?,
            start("idempotency-read", move || read(&to_read, &looks))?,
        ];
        let engine = Arc::new(Self { shared, writer: Some(writer), reader: Some(reader), threads });
        engines.insert(file, Arc::downgrade(&engine));
        Ok(engine)
    }

    pub(super) fn file(&self) -> &Path {
        &self.shared.file
    }

    /// Changes the file. The answer comes once the change is committed.
    pub(super) fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Batch<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'static, T> {
        let (send, answer) = oneshot::channel();
        let change: Change = Box::new(move |batch| match batch {
            Ok(batch) => {
                let changed = change(batch);
                if let Err(error @ StoreError::Unavailable(_)) = &changed {
                    batch.fails = true;
                    let _ = send.send(Err(Failure::of(error).error()));
                    return None;
                }
                Some(Box::new(move |failure| {
                    let _ = send.send(failure.map_or(changed, |failure| Err(failure.error())));
                }))
            }
            Err(failure) => {
                let _ = send.send(Err(failure.error()));
                None
            }
        });
        let is_sent = self.writer.as_ref().is_some_and(|writer| writer.send(change).is_ok());
        StoreFuture::boxed(async move {
            if !is_sent {
                return Err(StoreError::unavailable("the thread that writes has ended"));
            }
            answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("a change to the file panicked")))
        })
    }

    /// Looks into the file.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !self.shared.is_open.load(Relaxed) {
            // The thread that writes makes the file.
            self.write(|_| Ok(())).await?;
        }
        let (send, answer) = oneshot::channel();
        let look: Look = Box::new(move |view| {
            let seen = view.map_err(Failure::error).and_then(|view| look(&view));
            let _ = send.send(seen.map_err(|error| Failure::of(&error).error()));
        });
        if self.reader.as_ref().is_none_or(|reader| reader.send(look).is_err()) {
            return Err(StoreError::unavailable("the thread that reads has ended"));
        }
        answer.await.unwrap_or_else(|_| Err(StoreError::unavailable("a look into the file panicked")))
    }

    /// A request is going to look, and perhaps to write. The drop of the guard ends that.
    pub(super) fn looks(&self) -> Looking<'_> {
        self.shared.looking.fetch_add(1, Relaxed);
        Looking(&self.shared.looking)
    }

    /// Waits until a record may have changed.
    pub(super) async fn wait_for_change(
        self: &Arc<Self>,
        cache: Arc<str>,
        id: RecordId,
        at_most: Duration,
    ) -> Result<(), StoreError> {
        let waiter = self.shared.waiters.enter(id);
        // From here on no change is missed. One from before is seen now. The look also wakes the thread that reads, which
        // looks for changes of other processes while somebody waits.
        if self.read(move |view| view.is_held(&cache, &id)).await? {
            let _ = tokio::time::timeout(at_most.min(ASK_AGAIN), waiter.changed()).await;
        }
        Ok(())
    }
}

/// A request that looks whether it has to write.
pub(super) struct Looking<'a>(&'a AtomicUsize);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Drop for Engine {
    /// Waits until everything is written.
    fn drop(&mut self) {
        (self.writer, self.reader) = (None, None);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The time, which does not go back behind that of a transaction.
    pub(super) fn time(&self) -> u64 {
        self.clock.now().max(self.now.load(Relaxed))
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(StoreError::unavailable)
}

/// The path by which a file is known, without links.
fn absolute(file: &Path) -> PathBuf {
    if let Ok(file) = fs::canonicalize(file) {
        return file;
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (fs::canonicalize(folder), file.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    }
}
