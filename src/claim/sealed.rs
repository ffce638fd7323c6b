//! Seals what a store gets, and opens what it has. The store does not know of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Claims, config::at_most_a_century};
use crate::{
    key::RecordId,
    record::{Record, UnreadableRecord},
    sealing::{CacheSeals, Check, STEP_OVERHEAD, Sealing},
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, OwnerToken, RecordState, ReleaseAs, Renewal,
        Restore, Saved, Step, Store, StoreError, StoreFuture,
    },
};

/// A store that has sealed records and results of steps only.
///
/// A record that can't be opened is an error of `begin`: its operation does not run. The first call checks that the keys
/// are those of the store's records, unless the store dies with this process.
pub(crate) struct Sealed {
    store: Arc<dyn Store>,
    seals: CacheSeals,
    /// Whether the keys were found to be those of the store's records.
    is_checked: AtomicBool,
}

impl Sealed {
    pub(crate) fn new(store: Arc<dyn Store>, seals: CacheSeals) -> Self {
        let is_checked = AtomicBool::new(store.answers_at_once());
        Self { store, seals, is_checked }
    }

    /// Opens what a store answers. The claim that was granted over something that does not open comes with the error.
    fn opened(&self, request: &BeginRequest, answer: Begin) -> Result<Begin, (StoreError, Option<Box<Claim>>)> {
        let (id, sealing) = (&request.id, request.sealing.as_deref());
        match answer {
            Begin::Completed(mut found) => {
                found.record = self.seals.open(id, &found.record, sealing).map_err(|error| (error.into(), None))?;
                Ok(Begin::Completed(found))
            }
            Begin::Acquired(mut acquired) => {
                // A store may make claims in another way than from the request.
                acquired.claim.sealing.clone_from(&request.sealing);
                match self.open_all(id, sealing, &mut acquired.previous, &mut acquired.steps) {
                    Ok(()) => Ok(Begin::Acquired(acquired)),
                    Err(error) => Err((error.into(), Some(Box::new(acquired.claim)))),
                }
            }
            other => Ok(other),
        }
    }

    fn open_all(
        &self,
        id: &RecordId,
        sealing: Option<&Sealing>,
        previous: &mut Option<Record>,
        steps: &mut [Step],
    ) -> Result<(), UnreadableRecord> {
        if let Some(record) = previous {
            *record = self.seals.open(id, record, sealing)?;
        }
        for step in steps {
            if let Some(result) = &step.result {
                step.result = Some(self.seals.open_step(id, &step.name, result, sealing)?);
            }
        }
        Ok(())
    }

    fn sealed_step(&self, claim: &Claim, step: &Step) -> Result<Step, StoreError> {
        let Some(result) = &step.result else { return Ok(step.clone()) };
        let result = self.seals.seal_step(&claim.id, &step.name, result, claim.sealing.as_deref()).map_err(unsealed)?;
        Ok(Step::done(step.name.clone(), result).at(step.at))
    }

    fn completed(&self, claim: &Claim, completion: Completion) -> Completion {
        let Completion::Superseded(Some(winner)) = completion else { return completion };
        match self.seals.open(&claim.id, &winner, claim.sealing.as_deref()) {
            Ok(winner) => Completion::Superseded(Some(winner)),
            Err(error) => {
                tracing::error!(%error, record = ?claim.id, "the response of the owner that took over can't be opened");
                Completion::Superseded(None)
            }
        }
    }

    /// Opens the record of an inspection, if the keys of the server are enough. Else it stays sealed.
    fn inspected(&self, mut seen: Inspection) -> Inspection {
        if let Some(record) = &seen.record
            && let Ok(opened) = self.seals.open(&seen.id, record, None)
        {
            seen.record = Some(opened);
        }
        // Exact, unless another algorithm has sealed the step.
        let overhead = self.seals.step_overhead();
        for step in &mut seen.steps {
            step.size = step.size.map(|size| size.saturating_sub(overhead));
        }
        seen
    }

    /// Checks the keys before the first claim.
    async fn check_keys(&self) -> Result<(), StoreError> {
        if self.is_checked.load(Relaxed) {
            return Ok(());
        }
        for check in self.seals.checks() {
            check_key(&*self.store, &check).await?;
        }
        self.is_checked.store(true, Relaxed);
        Ok(())
    }
}

impl Claims {
    /// The stored record of an id, opened. `None`: there is none, it does not open, or the store can't tell in time.
    pub(crate) async fn stored(&self, id: &RecordId, sealing: Option<&Sealing>) -> Option<Record> {
        let call = self.handle.call("inspect", self.handle.store.inspect(id));
        let seen = call.within(self.config.timeout).await.ok()??;
        let record = seen.record.filter(|_| seen.state == RecordState::Completed)?;
        match self.handle.seals() {
            // The client's key is needed, too.
            Some(seals) if record.is_sealed() => seals.open(id, &record, sealing).ok(),
            _ => Some(record),
        }
    }
}

/// Sealing fails without randomness only, and is tried again.
fn unsealed(error: UnreadableRecord) -> StoreError {
    StoreError::unavailable(error)
}

/// Compares a key with the value of it that the store keeps, as the fingerprint of a record that no request has. A store
/// without the value gets it, and is then looked into again: a store whose claims are not atomic may have taken the value of
/// another process too.
async fn check_key(store: &dyn Store, check: &Check) -> Result<(), StoreError> {
    const CENTURY: Duration = Duration::MAX;
    /// A process that dies while it checks is waited for this long.
    const LEASE: Duration = Duration::from_secs(2);
    /// A store that forgets what it has taken at once can't be asked.
    const MOST_WRITES: u32 = 3;
    let refused = || Err(StoreError::Keys(check.refusal.clone()));
    let Some(value) = check.value else {
        return match store.inspect(&check.id).await {
            Err(StoreError::Unsupported(_)) | Ok(None) => Ok(()),
            Ok(Some(_)) => refused(),
            Err(error) => Err(error),
        };
    };
    let keep = at_most_a_century(CENTURY);
    let (mut writes, mut round) = (0, 0);
    loop {
        let request = BeginRequest::new(check.id, value, OwnerToken::random()).lease(LEASE).keep(keep);
        match store.begin(&request).await? {
            Begin::Acquired(acquired) => {
                if check.needs_empty_store && has_records(store).await? {
                    store.release(&acquired.claim, ReleaseAs::Ended).await?;
                    return refused();
                }
                let record = Record::new(actix_web::http::StatusCode::NO_CONTENT, [], None);
                store.complete(&acquired.claim, &record, keep).await?;
                writes += 1;
                if writes == MOST_WRITES {
                    return Ok(());
                }
            }
            Begin::Completed(_) => return Ok(()),
            // Another process with the same key is about to write the value, or to refuse the store.
            Begin::InFlight(_) => {
                store.wait_for_change(&check.id, round, LEASE / 10).await?;
                round += 1;
            }
            Begin::Mismatch if check.may_change => {
                if store.forget(&check.id).await? == Forgotten::InFlight {
                    return refused();
                }
            }
            Begin::Mismatch | Begin::OwnerLost => return refused(),
        }
    }
}

/// Whether a store has a record of a request. A store that can't list may have some.
async fn has_records(store: &dyn Store) -> Result<bool, StoreError> {
    match list(store, None, 1).await {
        Err(StoreError::Unsupported(_)) => Ok(false),
        listed => Ok(!listed?.is_empty()),
    }
}

/// Lists the records of requests.
async fn list(store: &dyn Store, mut after: Option<RecordId>, limit: usize) -> Result<Vec<Inspection>, StoreError> {
    loop {
        let mut page = store.list(after, limit).await?;
        let Some(last) = page.last().map(|seen| seen.id) else { return Ok(page) };
        page.retain(|seen| !seen.fingerprint.is_some_and(|fingerprint| Check::has_made(&fingerprint)));
        if !page.is_empty() {
            return Ok(page);
        }
        after = Some(last);
    }
}

impl Store for Sealed {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        if !self.is_checked.load(Relaxed) {
            return StoreFuture::boxed(async {
                self.check_keys().await?;
                self.begin(request).await
            });
        }
        let answer = match self.store.begin(request).try_ready() {
            Ok(answer) => answer,
            Err(call) => {
                return StoreFuture::boxed(async {
                    match self.opened(request, call.await?) {
                        Ok(answer) => Ok(answer),
                        Err((error, claim)) => {
                            if let Some(claim) = claim {
                                // If this fails too, the caller gives the claim up.
                                let _ = self.store.release(&claim, ReleaseAs::Free).await;
                            }
                            Err(error)
                        }
                    }
                });
            }
        };
        match answer.map(|answer| self.opened(request, answer)) {
            Ok(Ok(answer)) => StoreFuture::ready(Ok(answer)),
            Err(error) | Ok(Err((error, None))) => StoreFuture::ready(Err(error)),
            Ok(Err((error, Some(claim)))) => {
                let released = self.store.release(&claim, ReleaseAs::Free).try_ready();
                if released.is_err() {
                    tracing::warn!(record = ?claim.id, "a claim over a record that does not open ends with its lease");
                }
                StoreFuture::ready(Err(error))
            }
        }
    }

    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        self.store.renew(claim, lease)
    }

    fn restore<'a>(&'a self, claim: &'a Claim, restore: &'a Restore) -> StoreFuture<'a, Renewal> {
        if restore.steps.is_empty() {
            return self.store.restore(claim, restore);
        }
        StoreFuture::boxed(async move {
            let mut sealed = restore.clone();
            for step in &mut sealed.steps {
                *step = self.sealed_step(claim, step)?;
            }
            self.store.restore(claim, &sealed).await
        })
    }

    fn save_step<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        let length = step.result.as_ref().map_or(0, bytes::Bytes::len);
        if self.seals.seals_steps() && length > Step::MOST_BYTES - STEP_OVERHEAD {
            return StoreFuture::ready(Ok(Saved::Full));
        }
        let sealed = match self.sealed_step(claim, step) {
            Ok(sealed) => sealed,
            Err(error) => return StoreFuture::ready(Err(error)),
        };
        if self.store.answers_at_once()
            && let Ok(answer) = self.store.save_step(claim, &sealed).try_ready()
        {
            return StoreFuture::ready(answer);
        }
        StoreFuture::boxed(async move { self.store.save_step(claim, &sealed).await })
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        let sealed = match self.seals.seal(&claim.id, record, claim.sealing.as_deref()) {
            Ok(sealed) => sealed,
            Err(error) => return StoreFuture::ready(Err(unsealed(error))),
        };
        if self.store.answers_at_once()
            && let Ok(answer) = self.store.complete(claim, &sealed, ttl).try_ready()
        {
            return StoreFuture::ready(answer.map(|completion| self.completed(claim, completion)));
        }
        StoreFuture::boxed(async move {
            let completion = self.store.complete(claim, &sealed, ttl).await?;
            Ok(self.completed(claim, completion))
        })
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.store.release(claim, release_as)
    }

    fn wait_for_change<'a>(&'a self, id: &'a RecordId, round: u32, at_most: Duration) -> StoreFuture<'a, ()> {
        self.store.wait_for_change(id, round, at_most)
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        if !self.is_checked.load(Relaxed) {
            return StoreFuture::boxed(async {
                // Under another key the record would seem not to be there.
                self.check_keys().await?;
                self.inspect(id).await
            });
        }
        match self.store.inspect(id).try_ready() {
            Ok(seen) => StoreFuture::ready(seen.map(|seen| seen.map(|seen| self.inspected(seen)))),
            Err(call) => StoreFuture::boxed(async { Ok(call.await?.map(|seen| self.inspected(seen))) }),
        }
    }

    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        self.store.forget(id)
    }

    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::boxed(async move {
            let page = list(&*self.store, after, limit).await?;
            Ok(page.into_iter().map(|seen| self.inspected(seen)).collect())
        })
    }

    fn needs_renewal(&self) -> bool {
        self.store.needs_renewal()
    }

    /// Opens the results that the keys of the server open. The others stay sealed.
    fn steps<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Vec<Step>> {
        StoreFuture::boxed(async move {
            let mut steps = self.store.steps(id).await?;
            for step in &mut steps {
                if let Some(result) = &step.result
                    && let Ok(opened) = self.seals.open_step(id, &step.name, result, None)
                {
                    step.result = Some(opened);
                }
            }
            Ok(steps)
        })
    }

    fn saves_steps(&self) -> bool {
        self.store.saves_steps()
    }

    fn answers_at_once(&self) -> bool {
        self.store.answers_at_once()
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        StoreFuture::boxed(async {
            self.store.check().await?;
            match self.check_keys().await {
                // A store that may start unreachable is asked again before the first claim.
                Err(StoreError::Unavailable(error)) => {
                    tracing::warn!(error = &*error, "the keys of `encryption.*` are checked before the first claim");
                    Ok(())
                }
                checked => checked,
            }
        })
    }
}
