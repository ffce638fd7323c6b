//! Renews the leases of live claims: on the background thread, because a blocking handler stalls its worker.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{call::StoreCall, config::ClaimConfig, local::ClaimEnd, store_handle::Health};
use crate::{
    observe::metrics,
    store::{
        Claim, Moment, OwnerToken, Renewal, Restore, Step, Store, StoreError, StoreFuture, background::Background,
    },
};

/// The renewals of the claims that this process holds in one store.
pub(super) struct Renewals {
    background: Arc<Background>,
    shared: Arc<Shared>,
}

struct Shared {
    /// The name of the cache.
    cache: String,
    store: Arc<dyn Store>,
    health: Arc<Health>,
    leases: Mutex<Leases>,
    /// Notified when a lease is due before the next round.
    sooner: Notify,
}

#[derive(Default)]
struct Leases {
    by_token: HashMap<OwnerToken, Lease>,
    /// When the background thread looks next. `None`: it has found no leases and has stopped.
    next_round: Option<Instant>,
}

#[derive(Clone)]
struct Lease {
    claim: Claim,
    length: Duration,
    timeout: Duration,
    due: Instant,
    until: Instant,
    end: ClaimEnd,
    /// The operation has run, and its response is on the way to the store.
    is_completing: bool,
    /// The steps of the operation so far, for a restoration.
    steps: Vec<Step>,
    restoring: Arc<Restoring>,
}

/// Whether a lost claim is being restored. A release must not overtake the restoration: that would lock a freed key.
#[derive(Default)]
pub(super) struct Restoring {
    is_under_way: AtomicBool,
    ended: Notify,
}

/// The lease of a claim is renewed until this guard is dropped.
pub(super) struct RenewalGuard {
    shared: Arc<Shared>,
    token: OwnerToken,
    restoring: Arc<Restoring>,
}

impl Renewals {
    pub(super) fn new(cache: &str, store: Arc<dyn Store>, background: Arc<Background>, health: Arc<Health>) -> Self {
        let (cache, leases, sooner) = (cache.to_owned(), Mutex::default(), Notify::new());
        Self { background, shared: Arc::new(Shared { cache, store, health, leases, sooner }) }
    }

    /// Renews the lease of `claim` from now on. `None` when nothing has to be renewed: the store keeps claims alive by
    /// itself, or the lease is a hard ceiling.
    ///
    /// `steps`: those that earlier attempts have saved.
    pub(super) fn start(
        &self,
        claim: &Claim,
        steps: &[Step],
        config: &ClaimConfig,
        end: ClaimEnd,
    ) -> Option<RenewalGuard> {
        let renewed_for = config.renewed_for.filter(|_| self.shared.store.needs_renewal())?;
        let now = Instant::now();
        // After a third of the lease, so that two renewals may fail.
        let due = now + config.lease / 3;
        let (claim, length, timeout, until) = (claim.clone(), config.lease, config.timeout, now + renewed_for);
        let token = claim.token;
        let restoring = Arc::<Restoring>::default();
        let (steps, is_completing) = (steps.to_vec(), false);
        let lease =
            Lease { claim, length, timeout, due, until, end, is_completing, steps, restoring: restoring.clone() };
        let mut leases = self.shared.leases.lock();
        leases.by_token.insert(token, lease);
        match leases.next_round {
            None => {
                leases.next_round = Some(due);
                self.background.spawn(go_round(Arc::downgrade(&self.shared)));
            }
            Some(next) if due < next => self.shared.sooner.notify_one(),
            Some(_) => {}
        }
        Some(RenewalGuard { shared: self.shared.clone(), token, restoring })
    }

    /// From now on a restoration of the claim has this step.
    pub(super) fn note_step(&self, claim: &Claim, step: &Step) {
        if let Some(lease) = self.shared.leases.lock().by_token.get_mut(&claim.token) {
            match lease.steps.iter_mut().find(|known| known.name == step.name) {
                Some(known) if known.is_done() => {}
                Some(known) => *known = step.clone(),
                None => lease.steps.push(step.clone()),
            }
        }
    }

    /// Renews the lease of a claim now, because the store has no record of it: it is restored. `false`: this claim's lease
    /// is not renewed, or not any more.
    pub(super) async fn restore_now(&self, claim: &Claim) -> bool {
        let lease = self.shared.leases.lock().by_token.get(&claim.token).cloned();
        let Some(lease) = lease else { return false };
        let restoring = lease.restoring.clone();
        renew(self.shared.clone(), lease).await;
        // The background thread may have begun a restoration first.
        restoring.ended().await;
        true
    }
}

impl RenewalGuard {
    /// The response is on the way to the store. From now on a renewal that finds the claim gone says nothing: the store
    /// may have completed the record already.
    pub(super) fn completing(&self) {
        if let Some(lease) = self.shared.leases.lock().by_token.get_mut(&self.token) {
            lease.is_completing = true;
        }
    }

    /// Ends the renewals. A restoration may still be under way.
    pub(super) fn stop(self) -> Arc<Restoring> {
        self.restoring.clone()
    }
}

impl Restoring {
    /// Waits until no restoration is under way. That takes no longer than one call to the store.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if !self.is_under_way.load(SeqCst) {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for RenewalGuard {
    fn drop(&mut self) {
        self.shared.leases.lock().by_token.remove(&self.token);
    }
}

/// Renews the leases that are due, as long as there are any.
async fn go_round(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let Some(next) = shared.leases.lock().plan_round() else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = shared.sooner.notified() => continue,
        }
        // Each renewal is a task: one slow answer must not delay the others.
        for lease in shared.leases.lock().take_due(Instant::now()) {
            tokio::spawn(renew(shared.clone(), lease));
        }
    }
}

impl Leases {
    fn plan_round(&mut self) -> Option<Instant> {
        self.next_round = self.by_token.values().map(|lease| lease.due).min();
        self.next_round
    }

    /// The leases that are due. Each becomes due again soon, in case its renewal is never answered.
    fn take_due(&mut self, now: Instant) -> Vec<Lease> {
        self.by_token.retain(|_, lease| {
            let ended = now >= lease.until;
            if ended {
                tracing::warn!(record = ?lease.claim.id, "an operation outran limits.max_run: its lease is not renewed any more");
            }
            !ended
        });
        let due = self.by_token.values_mut().filter(|lease| now >= lease.due);
        due.map(|lease| {
            lease.due = now + lease.timeout + lease.length / 12;
            lease.clone()
        })
        .collect()
    }
}

async fn renew(shared: Arc<Shared>, lease: Lease) {
    let renewed = async {
        let call = shared.store.renew(&lease.claim, lease.length);
        match shared.limited("renew", call, lease.timeout).await {
            Ok(Renewal::Gone(moment)) => restore(&shared, &lease, moment).await,
            answer => answer,
        }
    };
    // A panic must not end the renewals of this claim, nor keep its release waiting.
    let renewed = AssertUnwindSafe(renewed).catch_unwind().await;
    let pause = match renewed.unwrap_or_else(|_| Err(StoreError::unavailable("the store panicked"))) {
        // A record that is gone belongs to nobody else. The owner's completion stores it all the same.
        Ok(Renewal::Extended | Renewal::Gone(_)) => lease.length / 3,
        Ok(Renewal::Lost) => {
            // The end of an operation crosses its renewals. Then nothing was lost.
            let held = shared.leases.lock().by_token.remove(&lease.claim.token);
            if held.is_some_and(|held| !held.is_completing) {
                tracing::warn!(
                    record = ?lease.claim.id,
                    "a lease was lost while the operation runs: its response will be refused"
                );
                metrics::lease_lost();
                lease.end.lose();
            }
            return;
        }
        Err(error) => {
            tracing::warn!(%error, record = ?lease.claim.id, "a lease could not be renewed; it is tried again");
            lease.length / 12
        }
    };
    let mut leases = shared.leases.lock();
    let due = Instant::now() + pause;
    if let Some(renewed) = leases.by_token.get_mut(&lease.claim.token) {
        renewed.due = due;
        // The next round was planned before this answer.
        if leases.next_round.is_some_and(|next| due < next) {
            shared.sooner.notify_one();
        }
    }
}

/// Claims a record again that the store has lost, unless the operation has ended meanwhile.
async fn restore(shared: &Shared, lease: &Lease, gone: Moment) -> Result<Renewal, StoreError> {
    let record = lease.claim.id;
    let steps = {
        // Under the lock under which renewals end: a release that comes after them sees the restoration.
        let leases = shared.leases.lock();
        let held = leases.by_token.get(&lease.claim.token).filter(|held| !held.is_completing);
        let Some(held) = held else { return Ok(Renewal::Gone(gone)) };
        if lease.restoring.is_under_way.swap(true, SeqCst) {
            // A step and the background thread have found the record gone at the same time.
            return Ok(Renewal::Gone(gone));
        }
        held.steps.clone()
    };
    let _ended = EndOfRestoring(&lease.restoring);
    let restored = Restore::new(lease.length, gone, lease.timeout).steps(steps);
    let answer = shared.limited("restore", shared.store.restore(&lease.claim, &restored), lease.timeout).await;
    match &answer {
        Ok(Renewal::Extended) => {
            metrics::claim_restored();
            tracing::warn!(?record, "the store had lost the record of a running operation; it is claimed again");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, ?record, "the store has lost the record of a running operation"),
    }
    match answer {
        Err(StoreError::Unsupported(_)) => Ok(Renewal::Gone(gone)),
        answer => answer,
    }
}

/// Tells at its drop that a restoration has ended.
struct EndOfRestoring<'a>(&'a Restoring);

impl Drop for EndOfRestoring<'_> {
    fn drop(&mut self) {
        self.0.is_under_way.store(false, SeqCst);
        self.0.ended.notify_waiters();
    }
}

impl Shared {
    async fn limited(
        &self,
        name: &'static str,
        call: StoreFuture<'_, Renewal>,
        timeout: Duration,
    ) -> Result<Renewal, StoreError> {
        StoreCall::new(&self.cache, name, &self.health, call).within(timeout).await
    }
}
