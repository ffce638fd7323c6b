//! A store out of two parts that know nothing of each other: a key-value [`Storage`] and a [`Lock`].

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{
    lock::{AnyLock, ErasedLock},
    storage::{AnyStorage, ErasedStorage},
};
use crate::store::{
    Begin, BeginRequest, Claim, Completion, Fate, Forgotten, Inspection, Mode, RecordState, Renewal, Store, StoreError,
    StoreFuture,
};
use crate::{
    key::{Fingerprint, RecordId},
    record::{Record, UnreadableRecord},
    store::{
        Lock, OwnerToken, Storage,
        clock::{Micros, micros},
    },
};

/// A [`Storage`] with a [`Lock`] as a [`Store`]: the lock of a record's id is held from before the lookup until the
/// response is stored.
///
/// # What such a combination can't promise
///
/// - *Claim before run*, *stored is never re-run* and *nothing stays locked* hold while the lock's lease holds. The lock
///   is renewed right before the response is put, and the put is given up when that fails; a lock that is lost between
///   the two can still let a late writer through.
/// - An in-flight duplicate with another payload can't be told apart: it is answered as in flight, not as a mismatch.
/// - A lost owner leaves no trace: `on_unknown = reject` can't be honoured, `attempt` says only whether there is a record beneath, and `taken_over` is false.
/// - There is no list of records.
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

    async fn stored(&self, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        let value = self.storage().get(&id.to_string()).await?;
        Ok(value.as_ref().map(Kept::decode).transpose()?)
    }
}

/// What is put into the storage: the record, the fingerprint of its operation, and when the record ends.
struct Kept {
    fingerprint: Fingerprint,
    /// Microseconds since the epoch, by the clock of the process that stored it.
    expires: Micros,
    record: Record,
}

impl Kept {
    fn encode(&self) -> Bytes {
        let record = self.record.as_bytes();
        let mut bytes = BytesMut::with_capacity(40 + record.len());
        bytes.put_slice(self.fingerprint.as_bytes());
        bytes.put_u64(self.expires);
        bytes.put_slice(record);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> Result<Self, UnreadableRecord> {
        let mut rest = bytes.clone();
        if rest.len() < 40 {
            return Err(UnreadableRecord::Version(None));
        }
        let mut fingerprint = [0; 32];
        rest.copy_to_slice(&mut fingerprint);
        let expires = rest.get_u64();
        Ok(Self { fingerprint: Fingerprint::from_bytes(fingerprint), expires, record: Record::from_bytes(rest)? })
    }

    fn remaining(&self) -> Duration {
        Duration::from_micros(self.expires.saturating_sub(now()))
    }

    fn completed(self) -> Begin {
        Begin::Completed { remaining: self.remaining(), record: self.record }
    }
}

impl Store for ComposedStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::boxed(async move {
            let name = self.lock_name(&request.id);
            if !self.lock().acquire(&name, request.token, request.lease).await? {
                // The lock may be held only for a look, or to run a record over (manual): what is stored answers all the
                // same.
                return Ok(match self.stored(&request.id).await? {
                    Some(kept) if kept.fingerprint != request.fingerprint => Begin::Mismatch,
                    Some(kept) if request.mode == Mode::Once => kept.completed(),
                    _ => Begin::InFlight { retry_after: Duration::from_secs(1) },
                });
            }
            let answer = match self.stored(&request.id).await {
                Ok(None) => return Ok(fresh(request, None)),
                Ok(Some(kept)) if kept.fingerprint != request.fingerprint => Ok(Begin::Mismatch),
                Ok(Some(kept)) if request.mode == Mode::Again => return Ok(fresh(request, Some(kept.record))),
                Ok(Some(kept)) => Ok(kept.completed()),
                Err(error) => Err(error),
            };
            // The answer is known; a lock that can't be freed ends with its lease.
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
                // It ended. If nobody took it and nothing was stored since, it is taken once more.
                let free = self.lock().acquire(&lock, claim.token, LEASE_FOR_PUT).await?;
                let winner = self.stored(&claim.id).await?.map(|kept| kept.record);
                if !free || winner.is_some() {
                    if free {
                        let _ = self.lock().release(&lock, claim.token).await;
                    }
                    return Ok(match winner {
                        // An earlier call with this token was applied and its answer lost.
                        Some(winner) if winner == *record => Completion::Stored,
                        winner => Completion::Superseded(winner),
                    });
                }
            }
            let expires = now().saturating_add(micros(ttl));
            let kept = Kept { fingerprint: claim.fingerprint, expires, record: record.clone() };
            self.storage().put(&claim.id.to_string(), kept.encode(), ttl).await?;
            let _ = self.lock().release(&lock, claim.token).await;
            Ok(Completion::Stored)
        })
    }

    fn release<'a>(&'a self, claim: &'a Claim, _fate: Fate) -> StoreFuture<'a, bool> {
        StoreFuture::boxed(async move {
            self.lock().release(&self.lock_name(&claim.id), claim.token).await?;
            Ok(true)
        })
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::boxed(async move {
            Ok(self.stored(id).await?.map(|kept| Inspection {
                id: *id,
                state: RecordState::Completed,
                attempt: 0,
                remaining: kept.remaining(),
                record: Some(kept.record),
                owner: None,
                replays: None,
                first_seen: None,
                last_seen: None,
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

    fn list(&self, _after: Option<RecordId>, _limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::ready(Err(StoreError::Unsupported("list its records")))
    }
}

/// How long the lock is held for a put or a removal alone.
const LEASE_FOR_PUT: Duration = Duration::from_secs(30);

/// The wall clock, which other processes have too.
fn now() -> Micros {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn fresh(request: &BeginRequest, previous: Option<Record>) -> Begin {
    Begin::Fresh {
        claim: Claim {
            id: request.id,
            fingerprint: request.fingerprint,
            token: request.token,
            attempt: if previous.is_some() { 2 } else { 1 },
            fence: now(),
            taken_over: false,
        },
        previous,
    }
}
