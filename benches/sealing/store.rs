//! A store that takes everything and keeps the first response only.

use std::{sync::OnceLock, time::Duration};

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    record::Record,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, OwnerToken, RecordState, ReleaseAs, Renewal,
        Store, StoreError, StoreFuture, Wait,
    },
};

/// Takes every response and keeps the first.
#[derive(Default)]
pub(crate) struct Forgetful(OnceLock<Record>);

pub(crate) fn claim() -> Claim {
    let (id, fingerprint) = (RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([1; Fingerprint::LENGTH]));
    Claim::new(&BeginRequest::new(id, fingerprint, OwnerToken::random()), 1, 1)
}

impl Store for Forgetful {
    fn begin<'a>(&'a self, _: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::ready(Ok(Begin::InFlight(Wait::lease(Duration::ZERO))))
    }

    fn renew<'a>(&'a self, _: &'a Claim, _: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(Ok(Renewal::Extended))
    }

    fn complete<'a>(&'a self, _: &'a Claim, record: &'a Record, _: Duration) -> StoreFuture<'a, Completion> {
        self.0.get_or_init(|| record.clone());
        StoreFuture::ready(Ok(Completion::Stored))
    }

    fn release<'a>(&'a self, _: &'a Claim, _: ReleaseAs) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(true))
    }

    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        let mut seen = Inspection::new(*id, RecordState::Completed, Duration::ZERO);
        seen.record = self.0.get().cloned();
        StoreFuture::ready(Ok(Some(seen)))
    }

    fn forget<'a>(&'a self, _: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        StoreFuture::ready(Ok(Forgotten::Absent))
    }

    fn list(&self, _: Option<RecordId>, _: usize) -> StoreFuture<'_, Vec<Inspection>> {
        StoreFuture::ready(Err(StoreError::Unsupported("list its records")))
    }

    fn answers_at_once(&self) -> bool {
        true
    }
}
