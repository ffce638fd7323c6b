//! The embedded default store: in the memory of one process, bounded by entries and bytes.

mod bounds;
mod expiry;
mod mutex;
mod shard;
mod shares;

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::futures::OwnedNotified;

use self::{mutex::Mutex, shard::Shard};
use super::{
    Begin, BeginRequest, Claim, Clock, Completion, Forgotten, Inspection, OnFull, ReleaseAs, Renewal, Restore, Saved,
    Step, Store, StoreFuture, clock::Micros,
};
use crate::{key::RecordId, record::Record};

/// Keeps records in this process's memory: sharded, bounded by entries and bytes.
///
/// - A claim needs no renewal: it dies with its process, and a dropped operation frees it. It is never evicted.
/// - Duplicates wait for a notification; nothing polls.
/// - When `max_bytes` is reached the bodies of the oldest records go first. When `max_entries` is reached, or records
///   without a body fill half of `max_bytes`, the oldest records go. Neither body nor record goes before it was kept for
///   `min_retention`: until then new answers are stored without their body, and then new keys are refused.
/// - Keys whose operation is not finished go after all others.
/// - One principal may use a part of the room, `principal_share`. Beyond it, its own oldest records go, or its new keys
///   are refused. Anonymous requests are not one principal.
/// - Expired records are freed by later writes, and once a second by a thread that lives as long as the store.
///
/// Make one per process, outside of the closure given to `HttpServer::new`: that closure runs once per worker.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shards>,
}

/// The bounds of a [`MemoryStore`]. Shards may round the first two by a tenth.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Claims and records; setting `storage.max_entries`, 1 000 000.
    pub max_entries: usize,
    /// Bytes of records, with 320 bytes of upkeep for each; setting `storage.max_bytes`, 256 MiB.
    pub max_bytes: usize,
    /// The least time that a record and its body are kept after its completion; setting `storage.min_retention`,
    /// 1 minute.
    pub min_retention: Duration,
    /// The largest body to be kept. No shard is smaller than that; setting `storage.max_response_body`, 1 MiB.
    pub max_response_body: usize,
    /// The part of entries and bytes that one principal may use, between 0 and 1; setting `limits.principal_share`, 0.5.
    pub principal_share: f64,
    /// Setting `storage.on_full`.
    pub on_full: OnFull,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
            max_bytes: 256 << 20,
            min_retention: Duration::from_secs(60),
            max_response_body: 1 << 20,
            principal_share: 0.5,
            on_full: OnFull::Shrink,
        }
    }
}

#[derive(Debug)]
struct Shards {
    shards: Box<[Mutex<Shard>]>,
    clock: Clock,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryLimits::default())
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        Self::with_clock(limits, Clock::system())
    }

    /// An empty store that takes its time from `clock`.
    #[must_use]
    pub fn with_clock(limits: MemoryLimits, clock: Clock) -> Self {
        let count = shard_count(&limits);
        let per_shard = MemoryLimits {
            max_entries: limits.max_entries.div_ceil(count),
            max_bytes: limits.max_bytes.div_ceil(count),
            ..limits
        };
        let shards = (0..count).map(|_| Mutex::new(Shard::new(per_shard))).collect();
        let shared = Arc::new(Shards { shards, clock });
        sweep_in_background(Arc::downgrade(&shared));
        Self { shared }
    }

    /// How many claims and records there are, expired ones that were not freed yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether there are no claims and no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that records are accounted for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.shards.iter().map(|shard| shard.lock().bytes()).sum()
    }

    /// Frees what expired. Happens by itself; only for tests with a steered clock.
    pub fn sweep(&self) {
        self.shared.sweep();
    }

    fn with<T>(&self, id: &RecordId, f: impl FnOnce(&mut Shard, Micros) -> T) -> T {
        let now = self.shared.clock.now();
        f(&mut self.shared.shard(id).lock(), now)
    }
}

impl Shards {
    fn shard(&self, id: &RecordId) -> &Mutex<Shard> {
        &self.shards[self.index(id)]
    }

    /// Ids are hashes. The first bits choose the shard, so that shards are in the order of their ids; other bytes choose
    /// the place in its tables.
    fn index(&self, id: &RecordId) -> usize {
        usize::from(id.as_bytes()[0]) * self.shards.len() / 256
    }

    fn sweep(&self) {
        let now = self.clock.now();
        for shard in &self.shards {
            // In small batches, so that no request waits long for the lock.
            while shard.lock().sweep(now) {}
        }
    }
}

/// The number of shards: a power of two, at most 64. Small stores have fewer, so that rounding stays small.
fn shard_count(limits: &MemoryLimits) -> usize {
    let cores = std::thread::available_parallelism().map_or(4, usize::from);
    let wanted = (cores * 4).next_power_of_two().min(64);
    let by_entries = (limits.max_entries / 4096).max(1);
    let by_bytes = (limits.max_bytes / limits.max_response_body.saturating_mul(4).max(1 << 20)).max(1);
    let most = by_entries.min(by_bytes);
    wanted.min((most + 1).next_power_of_two() / 2).max(1)
}

#[cfg(shuttle)]
fn sweep_in_background(_shards: Weak<Shards>) {}

#[cfg(not(shuttle))]
fn sweep_in_background(shards: Weak<Shards>) {
    let sweeper = std::thread::Builder::new().name("idempotency-sweep".into()).spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            match shards.upgrade() {
                Some(shards) => shards.sweep(),
                None => return,
            }
        }
    });
    if let Err(error) = sweeper {
        tracing::warn!(%error, "no sweeper thread: expired records are freed by later writes only");
    }
}

impl Store for MemoryStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::ready(self.with(&request.id, |shard, now| shard.begin(request, now)))
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(Ok(self.with(&claim.id, |shard, now| shard.renew(claim, lease, now))))
    }

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(self.with(&claim.id, |shard, now| shard.restore(claim, restore, now)))
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        StoreFuture::ready(Ok(self.with(&claim.id, |shard, now| shard.save_step(claim, step, now))))
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        let (completion, waiters) = self.with(&claim.id, |shard, now| shard.complete(claim, record, ttl, now));
        // Waiters are woken after the lock is free; otherwise they would wait for it at once.
        shard::wake(waiters);
        StoreFuture::ready(Ok(completion))
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        let (released, waiters) = self.with(&claim.id, |shard, now| shard.release(claim, release_as, now));
        shard::wake(waiters);
        StoreFuture::ready(Ok(released))
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, _round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        StoreFuture::boxed(async move {
            if let Some((notified, left)) = self.with(id, |shard, now| shard.watch(id, now)) {
                until(notified, at_most.min(left)).await;
            }
            Ok(())
        })
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::ready(Ok(self.with(id, |shard, now| shard.inspect(id, now))))
    }

    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        StoreFuture::ready(Ok(self.with(id, |shard, now| shard.steps(id, now))))
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        let (forgotten, waiters) = self.with(id, |shard, now| shard.forget(id, now));
        shard::wake(waiters);
        StoreFuture::ready(Ok(forgotten))
    }

    /// A page looks at all ids of one shard, and at those of the next ones while it is not full.
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        let now = self.shared.clock.now();
        let first = after.as_ref().map_or(0, |after| self.shared.index(after));
        let mut page = Vec::new();
        for shard in &self.shared.shards[first..] {
            if page.len() == limit {
                break;
            }
            let wanted = limit - page.len();
            shard.lock().list(after, wanted, now, &mut page);
        }
        StoreFuture::ready(Ok(page))
    }

    fn saves_steps(&self) -> bool {
        true
    }

    fn needs_renewal(&self) -> bool {
        false
    }

    fn answers_at_once(&self) -> bool {
        true
    }
}

/// Waits with a limit. Where schedules are explored there is no clock, and a lost wake-up must show.
async fn until(notified: OwnedNotified, at_most: Duration) {
    #[cfg(not(shuttle))]
    drop(tokio::time::timeout(at_most, notified).await);
    #[cfg(shuttle)]
    {
        let _ = at_most;
        notified.await;
    }
}

/// Record ids are SHA-256 hashes already: eight of their bytes are hash enough.
#[derive(Default, Debug)]
struct IdHasher(u64);

type PreHashed = BuildHasherDefault<IdHasher>;

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(middle) = bytes.get(8..16) {
            self.0 = u64::from_le_bytes(middle.try_into().unwrap_or_default());
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
