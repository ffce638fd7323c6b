//! Sealed bytes: none that a store gives back make the decoder panic, and none that the keys have not made open.
#![no_main]

use std::time::Duration;

use actix_idempotency::{
    key::{Fingerprint, RecordId},
    record::Record,
    settings::{Encryption, SecretSource, SealingKey},
    store::{
        Acquired, Begin, BeginRequest, Claim, Completion, Forgotten, Found, Inspection, OwnerToken, ReleaseAs, Renewal,
        Step, Store, StoreError, StoreFuture,
    },
    testing::sealed_store,
};
use actix_web::http::StatusCode;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// A store whose every answer is these bytes: as a record, or as the result of a step.
struct Gives {
    bytes: Bytes,
    as_step: bool,
}

impl Store for Gives {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        if self.as_step {
            let acquired = Acquired::new(Claim::new(request, 1, 1));
            let steps = vec![Step::done("charge", self.bytes.clone())];
            return StoreFuture::ready(Ok(Begin::Acquired(acquired.steps(steps))));
        }
        StoreFuture::ready(match Record::from_bytes(self.bytes.clone()) {
            Ok(record) => Ok(Begin::Completed(Found::new(record, Duration::from_secs(1)))),
            Err(error) => Err(error.into()),
        })
    }

    fn renew<'a>(&'a self, _: &'a Claim, _: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(Ok(Renewal::Extended))
    }

    fn complete<'a>(&'a self, _: &'a Claim, record: &'a Record, _: Duration) -> StoreFuture<'a, Completion> {
        assert!(record.is_sealed());
        let kept = Record::from_bytes(record.to_bytes()).expect("a sealed record is accepted");
        assert_eq!(kept.to_bytes(), record.to_bytes());
        let _ = kept.without_body();
        StoreFuture::ready(Ok(Completion::Superseded(Some(kept))))
    }

    fn release<'a>(&'a self, _: &'a Claim, _: ReleaseAs) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(true))
    }

    fn inspect<'a>(&'a self, _: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        StoreFuture::ready(Ok(None))
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

fuzz_target!(|bytes: &[u8]| {
    let mut encryption = Encryption::default();
    encryption.keys = [1, 2].map(|id| SealingKey::new(id, SecretSource::given([7; 32]))).into();
    let request =
        BeginRequest::new(RecordId::from_bytes([1; 32]), Fingerprint::from_bytes([1; 42]), OwnerToken::random());
    for as_step in [false, true] {
        let gives = Gives { bytes: Bytes::copy_from_slice(bytes), as_step };
        let store = sealed_store(gives, &encryption).expect("keys");
        let answer = block_on(store.begin(&request));
        // An empty result is that of a step that did nothing.
        assert!(answer.is_err() || (as_step && bytes.is_empty()), "bytes that no key has sealed opened");
        // Any sealed bytes open again.
        let record = Record::new(StatusCode::CREATED, [], Some(bytes));
        let completion = block_on(store.complete(&Claim::new(&request, 1, 1), &record, Duration::from_secs(1)));
        assert_eq!(completion.expect("it is sealed"), Completion::Superseded(Some(record)));
    }
});

/// A call of a store that answers at once.
fn block_on<T: Unpin>(mut call: StoreFuture<'_, T>) -> Result<T, StoreError> {
    use std::{
        future::Future as _,
        pin::Pin,
        task::{Context, Poll, Waker},
    };
    match Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the store answers at once"),
    }
}
