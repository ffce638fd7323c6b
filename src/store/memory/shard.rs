//! One shard: every transition of a record's life happens here, under the shard's lock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lru::LruCache;
use tokio::sync::{Notify, futures::OwnedNotified};

use super::{
    MemoryLimits, PreHashed,
    done::{Done, Seen},
    end,
    expiry::Expiry,
    left,
};
use crate::{
    key::{Fingerprint, RecordId},
    record::Record,
    settings::OnUnknown,
    store::{
        Begin, BeginRequest, Claim, Completion, Fate, Forgotten, Inspection, Mode, OwnerToken, RecordState, Renewal,
        StoreError, clock::Micros,
    },
};

/// How many due records one call frees at most.
pub(super) const SWEEP_BATCH: usize = 64;

pub(super) struct Shard {
    pub(super) limits: MemoryLimits,
    /// Claims. Never evicted.
    in_flight: HashMap<RecordId, InFlight, PreHashed>,
    /// Completed records in the order of their completion. Bodies are given up in this order...
    pub(super) whole: LruCache<RecordId, Done, PreHashed>,
    /// ...which moves a record here. So these are older than those of `whole`, and the first to be evicted.
    pub(super) bare: LruCache<RecordId, Done, PreHashed>,
    /// The part of `bytes` that is in `bare`.
    pub(super) bare_bytes: usize,
    expiry: Expiry,
    pub(super) bytes: usize,
    last_fence: u64,
}

struct InFlight {
    token: OwnerToken,
    fingerprint: Fingerprint,
    attempt: u32,
    fence: u64,
    taken_over: bool,
    seen: Seen,
    lease_ends: Micros,
    /// When a lost claim stops being visible.
    kept_until: Micros,
    /// The completed record that a manual route claimed again.
    beneath: Option<Done>,
    /// Made by the first waiter.
    waiters: Option<Arc<Notify>>,
}

type Waiters = Option<Arc<Notify>>;

pub(super) fn wake(waiters: Waiters) {
    if let Some(waiters) = waiters {
        waiters.notify_waiters();
    }
}

impl Shard {
    pub(super) fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            in_flight: HashMap::default(),
            whole: LruCache::unbounded_with_hasher(PreHashed::default()),
            bare: LruCache::unbounded_with_hasher(PreHashed::default()),
            expiry: Expiry::default(),
            bare_bytes: 0,
            bytes: 0,
            last_fence: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len() + self.whole.len() + self.bare.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RecordId> {
        let done = self.whole.iter().chain(self.bare.iter()).map(|(id, _)| *id);
        self.in_flight.keys().copied().chain(done)
    }

    pub(super) fn begin(&mut self, request: &BeginRequest, now: Micros) -> Result<Begin, StoreError> {
        self.expire(now, 4);
        if let Some(answer) = self.begin_claimed(request, now) {
            return Ok(answer);
        }
        let Some(done) = self.done_mut(&request.id, now) else {
            self.make_room(now)?;
            return Ok(self.claim(request, now, None));
        };
        if done.operation != request.fingerprint.into() {
            return Ok(Begin::Mismatch);
        }
        done.seen.again(now);
        match request.mode {
            Mode::Once => {
                done.seen.replays = done.seen.replays.saturating_add(1);
                let remaining = Duration::from_micros(done.expires - now);
                Ok(Begin::Completed { record: done.record.clone(), remaining })
            }
            Mode::Again => {
                let beneath = self.take_done(&request.id);
                // It stays in memory, and so in the account.
                self.bytes += beneath.as_ref().map_or(0, Done::cost);
                Ok(self.claim(request, now, beneath))
            }
        }
    }

    /// The answer while somebody holds or held the claim; `None` when the record is not claimed (any more).
    fn begin_claimed(&mut self, request: &BeginRequest, now: Micros) -> Option<Begin> {
        let entry = self.in_flight.get_mut(&request.id)?;
        if now >= entry.kept_until {
            self.uncover(&request.id);
            return None;
        }
        if entry.fingerprint != request.fingerprint {
            return Some(Begin::Mismatch);
        }
        let previous = |entry: &InFlight| entry.beneath.as_ref().map(|done| done.record.clone());
        if entry.token == request.token {
            entry.lease_ends = end(now, request.lease);
            entry.kept_until = kept_until(entry.lease_ends, request.keep, entry.beneath.as_ref());
            let previous = previous(entry);
            return Some(Begin::Fresh { claim: entry.claim(request.id), previous });
        }
        if let Some(retry_after) = left(now, entry.lease_ends) {
            return Some(Begin::InFlight { retry_after });
        }
        // The owner is lost.
        if request.mode == Mode::Once && entry.beneath.is_some() {
            self.uncover(&request.id);
            return None;
        }
        if request.on_unknown == OnUnknown::Reject {
            return Some(Begin::OwnerLost);
        }
        entry.beneath.take_if(|done| now >= done.expires).inspect(|done| self.bytes -= done.cost());
        entry.token = request.token;
        entry.attempt = entry.attempt.saturating_add(1);
        entry.fence = next_fence(&mut self.last_fence, now);
        entry.taken_over = true;
        entry.seen.again(now);
        entry.lease_ends = end(now, request.lease);
        entry.kept_until = kept_until(entry.lease_ends, request.keep, entry.beneath.as_ref());
        let previous = previous(entry);
        Some(Begin::Fresh { claim: entry.claim(request.id), previous })
    }

    fn claim(&mut self, request: &BeginRequest, now: Micros, beneath: Option<Done>) -> Begin {
        let attempt = beneath.as_ref().map_or(0, |done| done.attempt);
        let seen = beneath.as_ref().map_or_else(|| Seen::now(now), |done| done.seen);
        let lease_ends = end(now, request.lease);
        let entry = InFlight {
            token: request.token,
            fingerprint: request.fingerprint,
            attempt: attempt.saturating_add(1),
            fence: next_fence(&mut self.last_fence, now),
            taken_over: false,
            seen,
            lease_ends,
            kept_until: kept_until(lease_ends, request.keep, beneath.as_ref()),
            beneath,
            waiters: None,
        };
        let previous = entry.beneath.as_ref().map(|done| done.record.clone());
        let claim = entry.claim(request.id);
        self.in_flight.insert(request.id, entry);
        Begin::Fresh { claim, previous }
    }

    pub(super) fn renew(&mut self, claim: &Claim, lease: Duration, now: Micros) -> Renewal {
        let gone = self.done(&claim.id, now).is_none();
        match self.in_flight.get_mut(&claim.id) {
            Some(entry) if entry.token == claim.token => {
                let keep = entry.kept_until.saturating_sub(entry.lease_ends);
                entry.lease_ends = end(now, lease);
                entry.kept_until = entry.lease_ends.saturating_add(keep);
                Renewal::Extended
            }
            None if gone => Renewal::Gone,
            _ => Renewal::Lost,
        }
    }

    pub(super) fn complete(
        &mut self,
        claim: &Claim,
        record: &Record,
        ttl: Duration,
        now: Micros,
    ) -> (Completion, Waiters) {
        self.expire(now, 4);
        let mut seen = Seen::now(now);
        let waiters = match self.in_flight.get(&claim.id) {
            Some(entry) if entry.token != claim.token => return (Completion::Superseded(None), None),
            Some(entry) => {
                seen = entry.seen;
                self.take_claim(&claim.id).and_then(|entry| entry.waiters)
            }
            None => match self.done(&claim.id, now) {
                Some(done) if done.token == claim.token => return (Completion::Stored, None),
                Some(done) => return (Completion::Superseded(Some(done.record.clone())), None),
                None => None,
            },
        };
        let done = Done {
            token: claim.token,
            operation: claim.fingerprint.into(),
            attempt: claim.attempt,
            seen,
            completed: now,
            expires: end(now, ttl),
            record: record.clone(),
        };
        self.keep_done(claim.id, done);
        self.shrink(now);
        (Completion::Stored, waiters)
    }

    /// `None`: the claim is not this owner's.
    pub(super) fn release(&mut self, claim: &Claim, fate: Fate, now: Micros) -> Option<Waiters> {
        let entry = self.in_flight.get_mut(&claim.id).filter(|entry| entry.token == claim.token)?;
        Some(match fate {
            Fate::Free => self.uncover(&claim.id),
            Fate::Unknown => {
                entry.lease_ends = now;
                entry.waiters.take()
            }
        })
    }

    /// Removes a claim and restores the completed record beneath it, if that has not expired.
    fn uncover(&mut self, id: &RecordId) -> Waiters {
        let mut entry = self.take_claim(id)?;
        if let Some(done) = entry.beneath.take() {
            // It was claimed so often, though nothing came of it.
            self.keep_done(*id, Done { attempt: entry.attempt, seen: entry.seen, ..done });
        }
        entry.waiters
    }

    fn take_claim(&mut self, id: &RecordId) -> Option<InFlight> {
        let entry = self.in_flight.remove(id)?;
        self.bytes -= entry.beneath.as_ref().map_or(0, Done::cost);
        Some(entry)
    }

    /// What to wait for, and for how long at most; `None` when nobody runs. The notification counts from this moment:
    /// it is made under the lock under which the claim ends, so none can be missed.
    pub(super) fn watch(&mut self, id: &RecordId, now: Micros) -> Option<(OwnedNotified, Duration)> {
        let entry = self.in_flight.get_mut(id)?;
        let lease_left = left(now, entry.lease_ends)?;
        let waiters = entry.waiters.get_or_insert_default().clone();
        Some((waiters.notified_owned(), lease_left))
    }

    pub(super) fn inspect(&self, id: &RecordId, now: Micros) -> Option<Inspection> {
        if let Some(entry) = self.in_flight.get(id) {
            let lease_left = left(now, entry.lease_ends);
            let remaining = lease_left.or_else(|| left(now, entry.kept_until))?;
            let state = if lease_left.is_some() { RecordState::InFlight } else { RecordState::OwnerLost };
            return Some(entry.seen.inspection(*id, state, entry.token, entry.attempt, remaining, None));
        }
        let done = self.done(id, now)?;
        let remaining = Duration::from_micros(done.expires - now);
        let record = Some(done.record.clone());
        Some(done.seen.inspection(*id, RecordState::Completed, done.token, done.attempt, remaining, record))
    }

    pub(super) fn forget(&mut self, id: &RecordId, now: Micros) -> (Forgotten, Waiters) {
        if let Some(entry) = self.in_flight.get(id) {
            if now < entry.lease_ends {
                return (Forgotten::InFlight, None);
            }
            let waiters = self.take_claim(id).and_then(|entry| entry.waiters);
            return (Forgotten::Removed, waiters);
        }
        match self.take_done(id) {
            Some(done) if now < done.expires => (Forgotten::Removed, None),
            _ => (Forgotten::Absent, None),
        }
    }

    /// Frees what is due, at most a batch. Whether there may be more.
    pub(super) fn sweep(&mut self, now: Micros) -> bool {
        let more = self.expire(now, SWEEP_BATCH);
        if !more {
            let forgotten: Vec<_> =
                self.in_flight.iter().filter(|(_, entry)| now >= entry.kept_until).map(|(id, _)| *id).collect();
            for id in forgotten {
                self.uncover(&id);
            }
        }
        more
    }

    pub(super) fn expire(&mut self, now: Micros, at_most: usize) -> bool {
        for _ in 0..at_most {
            let Some((end, id)) = self.expiry.take_due(now) else { return false };
            if self.peek_done(&id).is_some_and(|done| done.expires == end) {
                self.take_done(&id);
            }
        }
        true
    }

    fn expires(&mut self, end: Micros, id: RecordId) {
        self.expiry.add(end, id);
        // Records that go out of turn leave their ends behind, as often as they come back from beneath a claim: made anew
        // before those outnumber the living.
        if self.expiry.len() > (self.whole.len() + self.bare.len()) * 2 + 64 {
            let done = self.whole.iter().chain(self.bare.iter());
            self.expiry.replace(done.map(|(id, done)| (done.expires, *id)));
        }
    }

    fn peek_done(&self, id: &RecordId) -> Option<&Done> {
        self.whole.peek(id).or_else(|| self.bare.peek(id))
    }

    fn done(&self, id: &RecordId, now: Micros) -> Option<&Done> {
        self.peek_done(id).filter(|done| now < done.expires)
    }

    fn done_mut(&mut self, id: &RecordId, now: Micros) -> Option<&mut Done> {
        let done = match self.whole.peek_mut(id) {
            None => self.bare.peek_mut(id),
            done => done,
        };
        done.filter(|done| now < done.expires)
    }

    pub(super) fn take_done(&mut self, id: &RecordId) -> Option<Done> {
        let done = self.whole.pop(id).or_else(|| self.take_bare(id))?;
        self.bytes -= done.cost();
        self.expiry.gone(done.expires, *id);
        Some(done)
    }

    fn take_bare(&mut self, id: &RecordId) -> Option<Done> {
        let done = self.bare.pop(id)?;
        self.bare_bytes -= done.cost();
        Some(done)
    }

    /// In place of what was there, which may have expired without being freed.
    fn keep_done(&mut self, id: RecordId, done: Done) {
        self.take_done(&id);
        self.bytes += done.cost();
        let end = done.expires;
        self.whole.put(id, done);
        self.expires(end, id);
    }
}

impl InFlight {
    fn claim(&self, id: RecordId) -> Claim {
        Claim {
            id,
            fingerprint: self.fingerprint,
            token: self.token,
            attempt: self.attempt,
            fence: self.fence,
            taken_over: self.taken_over,
        }
    }
}

/// How long a claim stays visible: as long as asked for, and at least as long as the completed record beneath it.
fn kept_until(lease_ends: Micros, keep: Duration, beneath: Option<&Done>) -> Micros {
    end(lease_ends, keep).max(beneath.map_or(0, |done| done.expires))
}

/// The time of the claim, so that fences grow over restarts too; never the same twice.
fn next_fence(last: &mut u64, now: Micros) -> u64 {
    *last = now.max(last.saturating_add(1));
    *last
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("in_flight", &self.in_flight.len())
            .field("completed", &(self.whole.len() + self.bare.len()))
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    /// A client that repeats a manual request whose answers are not stored.
    #[test]
    fn a_record_that_comes_back_again_and_again_leaves_few_ends_behind() {
        let mut shard = Shard::new(MemoryLimits::default());
        let record = Record::from_bytes(vec![1, 251, 201, 0, 0, 0].into()).unwrap();
        let ask = |n: u8, mode| {
            let id = RecordId::from_bytes([n; 32]);
            BeginRequest { mode, ..BeginRequest::new(id, Fingerprint::from_bytes([0; 32]), OwnerToken::random()) }
        };
        let claim = |shard: &mut Shard, n, mode| match shard.begin(&ask(n, mode), 1000).unwrap() {
            Begin::Fresh { claim, .. } => claim,
            other => panic!("{other:?}"),
        };
        // The first one is the next to end, for all the time.
        for (n, ttl) in [(1, 10), (2, 20), (3, 15)] {
            let claim = claim(&mut shard, n, Mode::Once);
            shard.complete(&claim, &record, Duration::from_secs(ttl), 1000);
        }
        for _ in 0..1000 {
            for n in [2, 3] {
                let claim = claim(&mut shard, n, Mode::Again);
                shard.release(&claim, Fate::Free, 1000).unwrap();
            }
            assert!(shard.expiry.len() <= 3 * 2 + 64);
        }
        assert!(!shard.expire(25_000_000, 10_000));
        assert_eq!((shard.len(), shard.expiry.len(), shard.bytes()), (0, 0, 0));
    }
}
