//! Finds out, after its client was refused, what became of a COMMIT whose answer was lost.

use tokio::time::Instant;

use super::hold::HeldClaim;
use crate::{
    key::RecordId,
    ledger::{AnyLedger, Settled, settle},
    observe::metrics,
    store::OwnerToken,
};

impl HeldClaim {
    /// Asks the ledger until it answers, for at most `storage.retry_for`, and then frees the key. The lease is renewed
    /// meanwhile, so that no other request runs beside a COMMIT that may still arrive.
    ///
    /// `completes`: the claim is completed with the record of the row that is found, for processes that don't know the
    /// ledger yet.
    pub(crate) fn settle_behind(self: Box<Self>, ledger: AnyLedger, id: RecordId, token: OwnerToken, completes: bool) {
        let (claims, handle) = (self.claims.clone(), self.claims.handle.clone());
        let running = claims.handle.in_flight.track();
        let counted = metrics::WriteBehind::starts();
        handle.background.spawn(async move {
            let until = Instant::now() + claims.config.retry_for;
            let mut held = Some(self);
            while let Some(mut claim) = held.take() {
                match settle(&ledger, id, token, claims.config.timeout).await {
                    Ok(Settled::Ours(Some(row)) | Settled::Theirs(row)) if completes => {
                        claim.keep_for(row.remaining);
                        claim.complete_unwaited(row.record);
                    }
                    Ok(Settled::Ours(_) | Settled::Theirs(_)) => claim.ended(),
                    Ok(Settled::Nothing) => claim.free(),
                    Err(error) if Instant::now() >= until => {
                        tracing::error!(%error, record = ?id, "a COMMIT could not be settled; the next request asks again");
                        claim.bar();
                    }
                    Err(_) => {
                        claims.handle.health.pause(std::time::Duration::from_millis(200)).await;
                        held = Some(claim);
                    }
                }
            }
            drop((running, counted));
        });
    }
}
