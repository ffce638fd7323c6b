//! A claim in the hands of a running operation. It ends in exactly one way: completed, released, or given up.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Cache, Question, Terms, bounded, keeper::Keeping, retry};
use crate::{Begin, Claim, Completion, Fate, OnUnknown, OwnerToken, Record, background, operations::Running};

/// Dropping it frees the key, or marks it as *owner lost* where `on_unknown = reject` asks for that.
pub(crate) struct Held {
    cache: Arc<Cache>,
    terms: Arc<Terms>,
    state: State,
    since: Instant,
    keeping: Option<Keeping>,
}

enum State {
    /// Runs under a claim.
    Claimed(Claim),
    /// Runs without one (`lock.enable = false`).
    Unlocked(Question),
    /// The response is known and must reach the store, whatever happens to this future.
    Completing(Claim, Record),
    Ended,
}

impl Held {
    pub(super) fn new(cache: Arc<Cache>, terms: Arc<Terms>, claim: Claim) -> Self {
        let keeping = cache.keeper.keep(&claim, &terms);
        Self { cache, terms, state: State::Claimed(claim), since: Instant::now(), keeping }
    }

    pub(super) fn unlocked(cache: Arc<Cache>, terms: Arc<Terms>, question: Question) -> Self {
        Self { cache, terms, state: State::Unlocked(question), since: Instant::now(), keeping: None }
    }

    /// The claim, unless the operation runs without one.
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match &self.state {
            State::Claimed(claim) | State::Completing(claim, _) => Some(claim),
            State::Unlocked(_) | State::Ended => None,
        }
    }

    /// Stores the response. Waits at most `storage.timeout`; a store that can't take it by then gets it from behind.
    ///
    /// Answers the record that stands instead, when this owner was superseded.
    pub(crate) async fn complete(mut self, record: Record) -> Option<Record> {
        self.warn_of_ceiling();
        let claim = match std::mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => claim,
            State::Unlocked(question) => self.claim_late(question).await?,
            ended => {
                self.state = ended;
                return None;
            }
        };
        let (cache, terms) = (self.cache.clone(), self.terms.clone());
        self.state = State::Completing(claim.clone(), record.clone());
        match bounded(cache.store.complete(&claim, &record, terms.ttl), terms.timeout).await {
            Ok(completion) => {
                self.state = State::Ended;
                superseded(&claim, completion)
            }
            Err(error) => {
                tracing::warn!(%error, record = ?claim.id, "the response is not stored yet; it is written behind");
                // The drop hands the write on.
                None
            }
        }
    }

    /// The operation gave an answer that is not kept: the key is free.
    pub(crate) fn release(mut self) {
        self.end(Fate::Free);
    }

    fn end(&mut self, fate: Fate) {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Claimed(claim) => {
                self.warn_of_ceiling();
                let released = matches!(self.cache.store.release(&claim, fate).try_ready(), Ok(Ok(())));
                if !released {
                    self.cache.release_behind(claim, fate, &self.terms);
                }
            }
            State::Completing(claim, record) => self.complete_behind(claim, record),
            State::Unlocked(_) | State::Ended => {}
        }
    }

    /// Without a lock the record is claimed only now, for as long as storing it takes; whoever was first stays.
    async fn claim_late(&self, question: Question) -> Option<Claim> {
        let request = question.begin(OwnerToken::random(), &self.terms);
        match self.cache.begin(&request, &self.terms).await {
            Ok(Begin::Fresh { claim, .. }) => Some(claim),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, record = ?question.id, "the response of an operation without a lock is not stored");
                None
            }
        }
    }

    /// Retries the write on the background thread, for `storage.retry_for`; the lease is renewed meanwhile.
    fn complete_behind(&mut self, claim: Claim, record: Record) {
        let (cache, terms, keeping) = (self.cache.clone(), self.terms.clone(), self.keeping.take());
        let running: Running = cache.operations.track();
        background::spawn(async move {
            let write = || bounded(cache.store.complete(&claim, &record, terms.ttl), terms.timeout);
            match retry(terms.retry_for, write).await {
                Ok(completion) => drop(superseded(&claim, completion)),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    record = ?claim.id,
                    "the response of a finished operation could not be stored: its retry may run again after the lease"
                ),
            }
            drop((keeping, running));
        });
    }

    fn warn_of_ceiling(&self) {
        if self.terms.renewed_for.is_none() && self.since.elapsed() >= self.terms.lease {
            tracing::warn!("an operation outran lock.ttl: its key was free while it ran");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end(match self.terms.on_unknown {
            OnUnknown::Rerun => Fate::Free,
            OnUnknown::Reject => Fate::Unknown,
        });
    }
}

fn superseded(claim: &Claim, completion: Completion) -> Option<Record> {
    match completion {
        Completion::Stored => None,
        Completion::Superseded(winner) => {
            tracing::warn!(record = ?claim.id, attempt = claim.attempt, "another owner took over: this response is not stored");
            winner
        }
    }
}
