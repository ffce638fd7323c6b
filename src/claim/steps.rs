//! Saves the steps of a running operation under its claim.

use std::sync::Arc;

use super::{ask::Claims, call::retry};
use crate::{
    handler::SaveSteps,
    store::{Claim, Saved, Step, StoreError, StoreFuture},
};

impl SaveSteps for Arc<Claims> {
    fn can_save(&self) -> bool {
        self.handle.store.saves_steps()
    }

    fn save<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved> {
        // Noted before it is saved, so that no restoration leaves it out.
        self.handle.renewals.note_step(claim, step);
        if self.handle.store.answers_at_once()
            && let Ok(answer) = self.handle.call("save_step", self.handle.store.save_step(claim, step)).now()
        {
            return StoreFuture::ready(answer);
        }
        StoreFuture::boxed(self.save_patiently(claim, step))
    }
}

impl Claims {
    /// Saves a step, repeated for `storage.timeout`: the first result stays, so a repetition changes nothing. Where the store
    /// has lost the record, the claim is restored as a renewal does.
    async fn save_patiently(&self, claim: &Claim, step: &Step) -> Result<Saved, StoreError> {
        let timeout = self.config.timeout;
        let handle = &self.handle;
        let save = || handle.call("save_step", handle.store.save_step(claim, step)).within(timeout);
        let saved = retry(&handle.health, timeout, save).await?;
        if saved == Saved::Gone && handle.renewals.restore_now(claim).await {
            return retry(&handle.health, timeout, save).await;
        }
        Ok(saved)
    }
}
