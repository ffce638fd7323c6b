//! `lock.enable = false`: nothing is claimed before the run, so duplicates may run side by side.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    ask::{ClaimAnswer, Claims},
    hold::{HeldClaim, Written},
};
use crate::{
    key::Match,
    observe::metrics,
    record::Record,
    store::{Begin, BeginRequest, Claim, IfCompleted, Inspection, RecordState, StoreError},
};

impl Claims {
    /// Answers whether a response is stored. Reading leaves the record alone: a claim of this request would keep the
    /// response of another one from being stored.
    pub(super) async fn look(self: &Arc<Self>, begin: BeginRequest) -> Result<ClaimAnswer, StoreError> {
        let call = || self.handle.call("inspect", self.handle.store.inspect(&begin.id)).within(self.config.timeout);
        let seen = match call().await {
            Err(StoreError::Unavailable(_)) => call().await?,
            answer => answer?,
        };
        let seen = seen.map(|seen| self.opened(&begin, seen)).transpose()?;
        let completed = seen.filter(|seen| seen.state == RecordState::Completed);
        let fingerprint = completed.as_ref().and_then(|seen| seen.fingerprint);
        match fingerprint.map(|fingerprint| fingerprint.compare(&begin.fingerprint)) {
            Some(Match::Mismatch) => return Ok(ClaimAnswer::Mismatch),
            Some(Match::OtherScheme) => metrics::other_scheme(),
            Some(Match::Same) | None => {}
        }
        let previous = match completed {
            Some(Inspection { record: Some(record), remaining, .. }) if begin.if_completed == IfCompleted::Replay => {
                return Ok(ClaimAnswer::Completed { record, remaining });
            }
            Some(seen) => seen.record,
            None => None,
        };
        Ok(ClaimAnswer::Run { held: HeldClaim::unlocked(self.clone(), begin), previous })
    }

    /// Opens the record that was seen. One that does not open is an error: its operation must not run again.
    #[cfg(feature = "encryption")]
    fn opened(&self, begin: &BeginRequest, mut seen: Inspection) -> Result<Inspection, StoreError> {
        if let (Some(seals), Some(record)) = (self.handle.seals(), &seen.record)
            && record.is_sealed()
        {
            seen.record = Some(seals.open(&seen.id, record, begin.sealing.as_deref())?);
        }
        Ok(seen)
    }

    #[cfg(not(feature = "encryption"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the feature uses them")]
    fn opened(&self, _: &BeginRequest, seen: Inspection) -> Result<Inspection, StoreError> {
        Ok(seen)
    }

    /// Replaces a completed record with the response of a manual run. Waits up to `patience` while another response
    /// replaces it.
    pub(super) async fn replace(
        self: &Arc<Self>,
        begin: &BeginRequest,
        record: &Record,
        ttl: Duration,
        patience: Duration,
    ) -> Written {
        let claim = match self.claim_to_replace(begin, patience).await {
            Ok(claim) => claim,
            Err(written) => return written,
        };
        match self.call_complete(&claim, record, ttl).within(self.config.timeout).await {
            Ok(completion) => Written::of(&claim, completion),
            Err(error) => {
                tracing::warn!(%error, record = ?begin.id, "the response is not stored yet; the write-behind goes on");
                Written::Behind
            }
        }
    }

    async fn claim_to_replace(self: &Arc<Self>, begin: &BeginRequest, patience: Duration) -> Result<Claim, Written> {
        let until = Instant::now() + patience;
        let mut round = 0;
        loop {
            let wait = match self.begin(begin).await {
                Ok(Begin::Acquired(acquired)) => return Ok(acquired.claim),
                Ok(Begin::InFlight(wait)) => wait,
                Ok(_) => return Err(Written::Superseded(None)),
                Err(_) => return Err(Written::Behind),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Written::Behind);
            }
            let at_most = left.min(wait.left);
            let changed = self.handle.store.wait_for_change(&begin.id, round, at_most);
            if let Ok(Err(_)) = tokio::time::timeout(at_most, changed).await {
                return Err(Written::Behind);
            }
            round += 1;
        }
    }

    /// As [`replace`](Self::replace), retried for `storage.retry_for`.
    pub(super) fn replace_in_background(self: &Arc<Self>, begin: BeginRequest, record: Record, ttl: Duration) {
        let claims = self.clone();
        let running = self.handle.in_flight.track();
        let counted = metrics::WriteBehind::starts();
        self.handle.background.spawn(async move {
            let until = Instant::now() + claims.config.retry_for;
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if !matches!(claims.replace(&begin, &record, ttl, left).await, Written::Behind) {
                    break;
                }
                if left.is_zero() {
                    metrics::write_lost();
                    tracing::error!(record = ?begin.id, "the response of a finished operation could not be stored");
                    break;
                }
                claims.handle.health.pause(Duration::from_millis(200)).await;
            }
            drop((running, counted));
        });
    }
}
