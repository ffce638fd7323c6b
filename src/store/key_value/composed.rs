//! A store that is composed of a key-value [`Storage`] and a [`Lock`].

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{
    lock::{AnyLock, ErasedLock, Lock},
    storage::{AnyStorage, ErasedStorage, Storage},
};
use crate::{
    key::{Fingerprint, Match, RecordId},
    record::{Record, UnreadableRecord},
    store::{
        Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, Found, IfCompleted, Inspection, OwnerToken,
        RecordState, ReleaseAs, Renewal, Store, StoreError, StoreFuture, Wait,
        clock::{Micros, micros},
    },
};

/// A [`Storage`] with a [`Lock`] as a [`Store`]: the lock of a record is held from before the lookup until the response
/// is stored.
///
/// # Limits
///
/// The two parts know nothing of each other, so there is no atomic slot per record. Therefore:
///
/// - *Claim before run*, *a stored response is never re-run* and *nothing stays locked* hold only while the lock's lease
///   holds. The lock is renewed right before the response is put, and the put is given up when that fails. A lock that is
///   lost between the two still lets a late writer through.
/// - An in-flight duplicate with another payload is answered as in flight instead of as a mismatch.
/// - A lost owner leaves no trace: `on_unknown = reject` can't be honoured, `attempt` says only whether a response is
///   stored, and `taken_over` is always false.
/// - There is no grace for an owner that was only stalled, a claim that is lost can't be restored, and steps can't be saved.
/// - Fencing tokens are those of the lock ([`Lock::fence`]). A lock without any has the clock of each process for them.
/// - Records can't be listed.
#[derive(Clone, Debug)]
pub struct ComposedStore {
    storage: AnyStorage,
    lock: AnyLock,
    lock_prefix: String,
}

impl ComposedStore {
    /// Combines the two. `lock_prefix` (setting `lock.name`) starts the name of every lock.
    #[must_use]
    pub fn new(storage: impl Storage, lock: impl Lock, lock_prefix: impl Into<String>) -> Self {
        Self::of(AnyStorage(Arc::new(storage)), AnyLock(Arc::new(lock)), lock_prefix.into())
    }

    pub(crate) const fn of(storage: AnyStorage, lock: AnyLock, lock_prefix: String) -> Self {
        Self { storage, lock, lock_prefix }
    }

    fn storage(&self) -> &dyn ErasedStorage {
        &*self.storage.0
    }

    fn lock(&self) -> &dyn ErasedLock {
        &*self.lock.0
    }

    fn lock_name(&self, id: &RecordId) -> String {
        let mut name = String::with_capacity(self.lock_prefix.len() + 65);
        let _ = write!(name, "{}:{id}", self.lock_prefix);
        name
    }

    /// The fencing token of a claim.
    async fn fence(&self) -> Result<u64, StoreError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        if let Some(fence) = self.lock().fence().await? {
            return Ok(fence);
        }
        let mut fence = now();
        let _ = LAST.fetch_update(SeqCst, SeqCst, |last| {
            fence = fence.max(last + 1);
            Some(fence)
        });
        Ok(fence)
    }

    async fn stored(&self, id: &RecordId) -> Result<Option<StoredEntry>, StoreError> {
        let value = self.storage().get(&id.to_string()).await?;
        let stored = value.as_ref().map(StoredEntry::decode).transpose()?;
        // The storage may keep values for longer than it was told.
        Ok(stored.filter(|stored| now() < stored.expires))
    }
}

/// The value in the storage: the record, the fingerprint of its operation, and when the record expires.
struct StoredEntry {
    fingerprint: Fingerprint,
    /// Microseconds since the epoch, by the clock of the process that stored the record.
    expires: Micros,
    record: Record,
}

impl StoredEntry {
    /// The bytes before the record: fingerprint and end.
    const HEAD: usize = Fingerprint::LENGTH + size_of::<Micros>();

    fn encode(&self) -> Bytes {
        let record = self.record.to_bytes();
        let mut bytes = BytesMut::with_capacity(Self::HEAD + record.len());
        bytes.put_slice(self.fingerprint.as_bytes());
        bytes.put_u64(self.expires);
        bytes.put(record);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> Result<Self, UnreadableRecord> {
        let mut rest = bytes.clone();
        if rest.len() < Self::HEAD {
            return Err(UnreadableRecord::Version(None));
        }
        let mut fingerprint = [0; Fingerprint::LENGTH];
        rest.copy_to_slice(&mut fingerprint);
        let expires = rest.get_u64();
        Ok(Self { fingerprint: Fingerprint::from_bytes(fingerprint), expires, record: Record::from_bytes(rest)? })
    }

    fn remaining(&self) -> Duration {
        Duration::from_micros(self.expires.saturating_sub(now()))
    }

    fn completed(self, matched: Match) -> Begin {
        let remaining = self.remaining();
        Begin::Completed(Found::new(self.record, remaining).other_scheme(matched == Match::OtherScheme))
    }

    /// Compares with the operation of a request.
    fn compare(&self, request: &BeginRequest) -> Match {
        self.fingerprint.compare(&request.fingerprint)
    }
}

impl Store for ComposedStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::boxed(async move {
            let name = self.lock_name(&request.id);
            if !self.lock().acquire(&name, request.token, request.lease).await? {
                // The lock may be held only for a look, or to run a record again (manual). A stored response answers
                // all the same.
                let stored = self.stored(&request.id).await?.map(|stored| (stored.compare(request), stored));
                return Ok(match stored {
                    Some((Match::Mismatch, _)) => Begin::Mismatch,
                    Some((matched, stored)) if request.if_completed == IfCompleted::Replay => stored.completed(matched),
                    _ => Begin::InFlight(Wait::lease(Duration::from_secs(1))),
                });
            }
            let answer = match self.stored(&request.id).await {
                Ok(None) => return Ok(acquired(request, None, Match::Same, self.fence().await?)),
                Ok(Some(stored)) => match (stored.compare(request), request.if_completed) {
                    (Match::Mismatch, _) => Ok(Begin::Mismatch),
                    (matched, IfCompleted::Rerun) => {
                        return Ok(acquired(request, Some(stored.record), matched, self.fence().await?));
                    }
                    (matched, IfCompleted::Replay) => Ok(stored.completed(matched)),
                },
                Err(error) => Err(error),
            };
            // The answer is known. A lock that can't be freed ends with its lease.
            let _ = self.lock().release(&name, request.token).await;
            answer
        })
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::boxed(async move {
            let held = self.lock().renew(&self.lock_name(&claim.id), claim.token, lease).await?;
            Ok(if held { Renewal::Extended } else { Renewal::Lost })
        })
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        StoreFuture::boxed(async move {
            let lock = self.lock_name(&claim.id);
            if !self.lock().renew(&lock, claim.token, LEASE_FOR_PUT).await? {
                // The lock has ended. If nobody took it and nothing was stored since, it is taken once more.
                let free = self.lock().acquire(&lock, claim.token, LEASE_FOR_PUT).await?;
                let winner = self.stored(&claim.id).await?;
                if !free || winner.is_some() {
                    if free {
                        let _ = self.lock().release(&lock, claim.token).await;
                    }
                    return Ok(match winner {
                        // An earlier call with this token was applied, and its answer was lost.
                        Some(winner) if winner.record == *record => Completion::Stored,
                        // The response to another operation is none of this client's business.
                        winner => Completion::Superseded(
                            winner
                                .filter(|winner| winner.fingerprint.compare(&claim.fingerprint).is_same())
                                .map(|winner| winner.record),
                        ),
                    });
                }
            }
            let expires = now().saturating_add(micros(ttl));
            let stored = StoredEntry { fingerprint: claim.fingerprint, expires, record: record.clone() };
            self.storage().put(&claim.id.to_string(), stored.encode(), ttl).await?;
            let _ = self.lock().release(&lock, claim.token).await;
            Ok(Completion::Stored)
        })
    }

    fn release<'a>(&'a self, claim: &'a Claim, _: ReleaseAs) -> StoreFuture<'a, bool> {
        StoreFuture::boxed(async move {
            self.lock().release(&self.lock_name(&claim.id), claim.token).await?;
            Ok(true)
        })
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::boxed(async move {
            Ok(self.stored(id).await?.map(|stored| {
                let mut inspection = Inspection::new(*id, RecordState::Completed, stored.remaining());
                inspection.fingerprint = Some(stored.fingerprint);
                inspection.record = Some(stored.record);
                inspection
            }))
        })
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        StoreFuture::boxed(async move {
            let (lock, token) = (self.lock_name(id), OwnerToken::random());
            if !self.lock().acquire(&lock, token, LEASE_FOR_PUT).await? {
                return Ok(Forgotten::InFlight);
            }
            let removed = self.storage().remove(&id.to_string()).await;
            let _ = self.lock().release(&lock, token).await;
            Ok(if removed? { Forgotten::Removed } else { Forgotten::Absent })
        })
    }

    fn list(&self, _: Option<RecordId>, _: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::ready(Err(StoreError::Unsupported("list its records")))
    }
}

/// How long the lock is held for a put or a removal alone.
const LEASE_FOR_PUT: Duration = Duration::from_secs(30);

/// The wall clock, which other processes have too.
fn now() -> Micros {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn acquired(request: &BeginRequest, previous: Option<Record>, matched: Match, fence: u64) -> Begin {
    let attempt = if previous.is_some() { 2 } else { 1 };
    let acquired = Acquired::new(Claim::new(request, attempt, fence)).previous(previous);
    Begin::Acquired(acquired.other_scheme(matched == Match::OtherScheme))
}
