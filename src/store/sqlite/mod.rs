//! The embedded store that survives its process: an SQLite file, which several processes of one machine may share.

mod batch;
mod connection;
mod engine;
mod place;
mod reader;
mod sessions;
mod slots;
mod view;
mod waiters;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use self::{batch::Bounds, engine::Engine};
use super::{
    Begin, BeginRequest, Claim, Clock, Completion, Durability, Forgotten, Inspection, OnFull, ReleaseAs, Renewal,
    Restore, Saved, StartupCheck, Step, Store, StoreError, StoreFuture,
    lifecycle::{FenceCounter, Slot},
};
use crate::{key::RecordId, record::Record};

/// Keeps records in an SQLite file. Processes of one machine may share it: claims hold across them.
///
/// - An answer is given once it is in the file, and with `durability = power` on the disk. One thread per process writes
///   what many requests ask for in one transaction, so that they share one `fsync`.
/// - A claim needs no renewal. Each process holds a lock on a file of its own beside the database, `FILE.s-…`, and whoever
///   finds that lock free knows that its owner has died. Its claims are taken over at once. Where somebody has removed that file, they are taken over
///   when it has been missing for a lease.
/// - Duplicates of one process wait for a notification; those of other processes look at the file's version every 10 ms.
/// - When `max_entries` or `max_bytes` is reached, the oldest records past `min_retention` go. When there are none, new keys
///   are refused, and answers of operations that run already are kept without their body.
/// - Expired records are deleted by and by, and the file shrinks.
///
/// A network file system is refused: its locks can't be relied on.
///
/// A row of `counters` is a cache: its number, its name `NAMESPACE:CACHE`, its records and their bytes. The row `clock` has
/// the greatest time and fencing token so far.
///
/// | column of `slots` | meaning |
/// |---|---|
/// | `cache` | number of the cache in `counters` |
/// | `id` | record id |
/// | `session` | the process that holds the claim |
/// | `since` | when the record was completed, in µs |
/// | `trace` | since when nobody holds an unfinished record, in µs |
/// | `expires` | when it may be deleted, in µs |
/// | `slot` | the [`Slot`]'s bytes, and their CRC-32 |
#[derive(Clone)]
pub struct SqliteStore {
    engine: Arc<Engine>,
    /// The name of the cache in the file.
    cache: Arc<str>,
    bounds: Bounds,
    /// Replays whose count is on its way to the file.
    counting: Arc<AtomicUsize>,
    on_unreachable: StartupCheck,
}

/// Where an [`SqliteStore`] keeps its records, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// The file; setting `storage.location`. It is created if it does not exist.
    pub file: PathBuf,
    /// Tells applications apart that share a file; setting `storage.namespace`.
    pub namespace: String,
    /// The name of the cache. Stores with the same file, namespace and cache share records.
    pub cache: String,
    /// Setting `storage.durability`.
    pub durability: Durability,
    /// How long the claims of a process outlive it when its session file was removed; setting `lock.lease`.
    pub lease: Duration,
    /// How long a write waits for one of another process; setting `storage.timeout`.
    pub timeout: Duration,
    /// Setting `storage.max_entries`.
    pub max_entries: usize,
    /// Setting `storage.max_bytes`.
    pub max_bytes: usize,
    /// Setting `storage.min_retention`.
    pub min_retention: Duration,
    /// Setting `storage.on_full`.
    pub on_full: OnFull,
    /// Setting `storage.on_unreachable`.
    pub on_unreachable: StartupCheck,
}

impl SqliteOptions {
    /// The defaults of the settings, for this file.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            namespace: String::new(),
            cache: "default".into(),
            durability: Durability::Power,
            lease: Duration::from_secs(30),
            timeout: Duration::from_millis(500),
            max_entries: 1_000_000,
            max_bytes: 256 << 20,
            min_retention: Duration::from_secs(60),
            on_full: OnFull::Shrink,
            on_unreachable: StartupCheck::Reject,
        }
    }
}

impl SqliteStore {
    /// A store over this file, which is opened at the first call.
    ///
    /// # Errors
    /// When this process uses the file with another durability already.
    pub fn new(options: &SqliteOptions) -> Result<Self, StoreError> {
        Self::with_clock(options, Clock::system())
    }

    /// As [`new`](Self::new), with time from `clock`.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_clock(options: &SqliteOptions, clock: Clock) -> Result<Self, StoreError> {
        let bounds = Bounds::of(options);
        let cache = format!("{}:{}", options.namespace, options.cache).into();
        let engine = Engine::of(options, clock)?;
        Ok(Self { engine, cache, bounds, counting: Arc::default(), on_unreachable: options.on_unreachable })
    }

    /// Calls a transition of the slot, and saves the slot.
    fn change<T: Send + 'static>(
        &self,
        id: RecordId,
        change: impl FnOnce(&mut Slot, u64, &mut FenceCounter) -> T + Send + 'static,
    ) -> StoreFuture<'static, T> {
        let cache = self.cache.clone();
        self.engine.write(move |batch| batch.change(&cache, &id, change))
    }
}

/// A replay whose count is on its way. Its drop says that it has arrived, or never will.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl SqliteStore {
    /// Counts a replay. Nobody waits for that, but operators who look see it.
    fn count_replay(&self, id: RecordId) {
        self.counting.fetch_add(1, Relaxed);
        let counted = Counted(self.counting.clone());
        drop(self.change(id, move |slot, now, _| {
            slot.count_replay(now);
            // This value is dropped when the change is committed.
            counted
        }));
    }

    /// Waits for counts that are on their way. A file that can't be written now can still be read.
    async fn have_counted(&self) {
        if self.counting.load(Relaxed) > 0 {
            let _ = tokio::time::timeout(Duration::from_millis(100), self.engine.write(|_| Ok(()))).await;
        }
    }
}

impl Store for SqliteStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        let request = request.clone();
        StoreFuture::boxed(async move {
            let (cache, asked) = (self.cache.clone(), request.clone());
            let looking = self.engine.looks();
            let read = self.engine.read(move |view| view.answer(&cache, &asked)).await?;
            if let Some(answer) = read {
                if matches!(answer, Begin::Completed(_)) {
                    self.count_replay(request.id);
                }
                return Ok(answer);
            }
            let (cache, bounds) = (self.cache.clone(), self.bounds);
            let claim = self.engine.write(move |batch| batch.claim(&cache, &request, bounds));
            drop(looking);
            claim.await
        })
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        let claim = claim.clone();
        self.change(claim.id, move |slot, now, _| slot.renew(&claim, lease, now))
    }

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        let (claim, restore) = (claim.clone(), restore.clone());
        self.change(claim.id, move |slot, now, _| slot.restore(&claim, &restore, now))
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        let (claim, step) = (claim.clone(), step.clone());
        self.change(claim.id, move |slot, now, _| slot.save_step(&claim, &step, now))
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        let (cache, bounds, claim, record) = (self.cache.clone(), self.bounds, claim.clone(), record.clone());
        self.engine.write(move |batch| batch.complete(&cache, &claim, &record, ttl, bounds))
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        let claim = claim.clone();
        self.change(claim.id, move |slot, now, _| slot.release(&claim, release_as, now))
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, _: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(self.engine.wait_for_change(self.cache.clone(), *id, at_most))
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::boxed(async move {
            self.have_counted().await;
            let (cache, id) = (self.cache.clone(), *id);
            self.engine.read(move |view| view.inspect(&cache, &id)).await
        })
    }

    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        let (cache, id) = (self.cache.clone(), *id);
        StoreFuture::boxed(self.engine.read(move |view| view.steps(&cache, &id)))
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        let (cache, id) = (self.cache.clone(), *id);
        self.engine.write(move |batch| batch.forget(&cache, &id))
    }

    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::boxed(async move {
            self.have_counted().await;
            let cache = self.cache.clone();
            self.engine.read(move |view| view.list(&cache, after, limit)).await
        })
    }

    /// Opens the file, and writes to it.
    fn check(&self) -> StoreFuture<'_, ()> {
        StoreFuture::boxed(async move {
            match self.engine.write(|_| Ok(())).await {
                // Stored responses can be replayed.
                Err(StoreError::Full) => {
                    tracing::warn!("the disk of the file is full: new keys are answered 503 until there is room");
                    Ok(())
                }
                Err(error) if self.on_unreachable == StartupCheck::Warn => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the file can't be used: protected requests are answered 503 until it can");
                    Ok(())
                }
                // Errors of statements don't say which file it is.
                Err(StoreError::Unavailable(error)) => {
                    let (file, error) = (self.engine.file().display().to_string(), error.to_string());
                    Err(StoreError::unavailable(if error.contains(&file) { error } else { format!("{file}: {error}") }))
                }
                checked => checked,
            }
        })
    }

    fn saves_steps(&self) -> bool {
        true
    }

    /// The lock on this process's file says that it lives.
    fn needs_renewal(&self) -> bool {
        false
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("file", &self.engine.file())
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}
