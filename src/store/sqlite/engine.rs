//! One file in this process: a thread that writes and a thread that reads.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    SqliteOptions,
    connection::{damaged, open, open_reader, pragma, quick_check, store_error},
    sessions::{Life, Session, SessionId},
    slots::{Batch, View},
    waiters::Waiters,
};
use crate::{
    key::RecordId,
    store::{Clock, Durability, StoreError, StoreFuture},
};

/// How many changes share one transaction.
const MOST_IN_BATCH: usize = 256;

/// How long a transaction waits for changes of requests that are looking already.
const GATHERED: Duration = Duration::from_micros(500);

/// How often expired records are looked for, and the session's file.
const TICK: Duration = Duration::from_secs(1);

/// How often the file's version is looked at while requests wait.
const LOOK: Duration = Duration::from_millis(10);

/// How long a request waits before it asks whether the owner's process still lives.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The first SQLite without the fault by which two processes can damage a WAL (sqlite.org/wal.html#walresetbug).
const SOUND_FOR_PROCESSES: i32 = 3_051_003;

/// A file in this process, shared by the stores of all its caches.
pub(super) struct Engine {
    shared: Arc<Shared>,
    /// `None` only in the drop.
    writer: Option<Sender<Change>>,
    reader: Option<Sender<Look>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads need to know.
struct Shared {
    file: PathBuf,
    durability: Durability,
    timeout: Duration,
    clock: Clock,
    waiters: Waiters,
    /// Requests that look whether they have to write.
    looking: AtomicUsize,
    /// Whether the file was opened, and made if it was not there.
    is_open: AtomicBool,
    /// The session of this process. 0: there is none yet.
    session: AtomicI64,
    /// The greatest time of a transaction.
    now: AtomicU64,
}

/// A change to the file. Gets the transaction, or why there is none; returns who is told when it is committed.
type Change = Box<dyn FnOnce(Result<&mut Batch<'_>, &Failure>) -> Option<Told> + Send>;
type Told = Box<dyn FnOnce(Option<&Failure>) + Send>;

/// A look into the file.
type Look = Box<dyn FnOnce(Result<View<'_>, &Failure>) + Send>;

/// Why nothing was written, for each of those who asked.
#[derive(Clone, Debug)]
enum Failure {
    Full,
    Damaged(String),
    Unavailable(String),
}

impl Failure {
    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            StoreError::Unreadable(error) => Self::Damaged(error.to_string()),
            StoreError::Unavailable(cause) => match cause.downcast_ref::<rusqlite::Error>() {
                Some(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
                _ => Self::Unavailable(cause.to_string()),
            },
            error => Self::Unavailable(error.to_string()),
        }
    }

    fn error(&self) -> StoreError {
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
            now: AtomicU64::new(0),
        });
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
            let _ = send.send(view.map_err(Failure::error).and_then(|view| look(&view)));
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

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    opened: Option<Opened>,
    swept: Instant,
}

struct Opened {
    connection: Connection,
    session: Session,
}

impl Writer {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, opened: None, swept: Instant::now() }
    }

    fn run(mut self, changes: &Receiver<Change>) {
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
        let written = opened.transaction(&shared, |batch| {
            let mut changes = changes.into_iter();
            for change in changes.by_ref() {
                told.extend(change(Ok(&mut *batch)));
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
            opened.connection.execute_batch("PRAGMA incremental_vacuum(256)").map_err(store_error)?;
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
        opened.bury_the_dead(shared)?;
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
                Life::Alive | Life::Unknown => {}
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
        let changed =
            Batch::begin(&self.connection, &shared.file, self.session.id, shared.time()).and_then(|mut batch| {
                change(&mut batch)?;
                if batch.fails {
                    return Err(StoreError::unavailable("a statement failed"));
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

/// The thread that reads.
fn read(shared: &Shared, looks: &Receiver<Look>) {
    let mut connection = None;
    let mut version = 0_i64;
    loop {
        let look = if shared.waiters.is_empty() {
            looks.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            looks.recv_timeout(LOOK)
        };
        match look {
            Ok(look) => {
                let opened = match &mut connection {
                    Some(opened) => Ok(&*opened),
                    none => open_reader(&shared.file, shared.timeout).map(|opened| &*none.insert(opened)),
                };
                match opened {
                    Ok(connection) => {
                        let own = shared.session.load(Relaxed);
                        let own = (own != 0).then_some(SessionId(own));
                        look(Ok(View { connection, file: &shared.file, own, now: shared.time() }));
                    }
                    Err(error) => look(Err(&Failure::of(&error))),
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let Some(connection) = &connection else { continue };
                // It changes when another connection has committed.
                if let Ok(now) = pragma::<i64>(connection, "data_version")
                    && now != version
                {
                    version = now;
                    shared.waiters.wake_all();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Shared {
    /// The time, which does not go back behind that of a transaction.
    fn time(&self) -> u64 {
        self.clock.now().max(self.now.load(Relaxed))
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    thread::Builder::new().name(name.into()).spawn(run).map_err(StoreError::unavailable)
}

/// The path by which a file is known: that of its folder, which links may lead to.
fn absolute(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (fs::canonicalize(folder), file.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    }
}
