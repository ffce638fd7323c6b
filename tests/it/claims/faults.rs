//! Store calls that fail, lose their answer or never end, at a chosen moment.

use std::time::Duration;

use actix_idempotency::{
    Idempotency, IdempotencyKey, Principal, Settings,
    key::RecordId,
    record::Record,
    settings::{Mode, OnError},
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, MemoryStore, RecordState, ReleaseAs, Renewal,
        Store, StoreError, StoreFuture, Wait,
    },
    testing::{Call, Fault, FaultyStore},
};
use actix_web::{App, HttpResponse, http::StatusCode, rt, test, web};

use crate::{
    common::delegate_to_inner_store,
    store::custom_parts::{Harness, answer, eventually, post},
};

#[actix_web::test]
async fn a_begin_whose_answer_was_lost_is_repeated() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    let harness = Harness::with_store(store, |_| {});
    faults.next(Call::Begin, Fault::LoseAnswer);
    assert_eq!(harness.post("k").await, answer(201, false, "1"));
    assert_eq!(harness.post("k").await, answer(409, true, "1"));
}

#[actix_web::test]
async fn with_on_error_run_a_duplicate_does_not_run_when_the_store_fails_while_the_key_is_in_flight() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    // The first request runs in another process. For a claim of this process the store would not be asked.
    let mut harness = Harness::with_store(store, |settings| {
        settings.storage.on_error = OnError::Run;
        settings.lock.timeout = Duration::from_millis(200);
    });
    let id = harness.idempotency.record_id("default", &Principal::anonymous(), "k");
    harness.wrap = harness.wrap.store(std::sync::Arc::new(InFlightThenDown(id, faults)));
    assert_eq!(harness.post("k").await.0, 423);
    assert_eq!(harness.runs(), 0);
}

/// A store whose first `begin` answers that the key is in flight in another process. Later calls fail.
struct InFlightThenDown(RecordId, actix_idempotency::testing::Faults);

impl Store for InFlightThenDown {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        assert_eq!(request.id, self.0);
        let first = self.1.left() == 0;
        self.1.next(Call::Begin, Fault::Fail);
        StoreFuture::ready(if first {
            Ok(Begin::InFlight(Wait::lease(Duration::from_millis(10))))
        } else {
            Err(StoreError::unavailable("down"))
        })
    }
    fn renew<'a>(&'a self, _: &'a Claim, _: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::ready(Ok(Renewal::Lost))
    }
    fn complete<'a>(&'a self, _: &'a Claim, _: &'a Record, _: Duration) -> StoreFuture<'a, Completion> {
        StoreFuture::ready(Ok(Completion::Superseded(None)))
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
        StoreFuture::ready(Ok(Vec::new()))
    }
}

/// A store in this process that needs no renewal and does not answer at once.
struct SlowStore(MemoryStore);

impl Store for SlowStore {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::boxed(async {
            rt::task::yield_now().await;
            self.0.begin(request).await
        })
    }
    delegate_to_inner_store!();
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        StoreFuture::boxed(async move {
            rt::task::yield_now().await;
            self.0.complete(claim, record, ttl).await
        })
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }
    fn needs_renewal(&self) -> bool {
        false
    }
}

/// With such a store, the deferred write of observe mode once called itself without end.
#[actix_web::test]
async fn a_store_that_needs_no_renewal_may_answer_late() {
    for (enforced, exclusive) in [(true, true), (true, false), (false, true), (false, false)] {
        let harness = Harness::with_store(SlowStore(MemoryStore::default()), |settings| {
            settings.lock.enable = exclusive;
            settings.mode = if enforced { Mode::Enforce } else { Mode::Observe };
        });
        assert_eq!(harness.post("k").await, answer(201, false, "1"));
        let id = harness.idempotency.record_id("default", &Principal::anonymous(), "k");
        eventually(async || {
            let record = harness.idempotency.inspect("default", &id).await.unwrap();
            record.is_some_and(|record| record.state == RecordState::Completed)
        })
        .await;
        let second = if enforced { answer(409, true, "1") } else { answer(201, false, "2") };
        assert_eq!(harness.post("k").await, second);
    }
}

#[actix_web::test]
async fn a_begin_that_times_out_gives_its_claim_up_in_the_background() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    let harness = Harness::with_store(store, |settings| settings.storage.timeout = Duration::from_millis(50));
    faults.next(Call::Begin, Fault::Hang);
    assert_eq!(harness.post("k").await.0, 503, "the store applied the call, and its answer never came");
    assert_eq!(harness.runs(), 0);
    eventually(async || harness.post("k").await.0 == 201).await;
    assert_eq!(harness.runs(), 1);
}

#[actix_web::test]
async fn a_request_dropped_during_begin_frees_the_claim_that_it_may_have() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    let harness = Harness::with_store(store, |settings| settings.storage.timeout = Duration::from_secs(60));
    faults.next(Call::Begin, Fault::Hang);
    let dropped = rt::time::timeout(Duration::from_millis(30), harness.post("k")).await;
    assert!(dropped.is_err(), "the store applied the call, and the caller left");
    eventually(async || harness.post("k").await.0 == 201).await;
    assert_eq!(harness.runs(), 1);
}

/// In other projects, a write that failed after the run turned the success into an error, or led to a second run.
#[actix_web::test]
async fn a_write_that_fails_after_the_run_is_retried_in_the_background() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    let harness = Harness::with_store(store, |_| {});
    let running = || harness.idempotency.running();
    // The first write and five retries fail.
    (0..6).for_each(|_| faults.next(Call::Complete, Fault::Fail));
    let app = App::new()
        .app_data(web::Data::new(harness.idempotency.clone()))
        .wrap(IdempotencyKey::default())
        .route("/", web::post().to(|| async { HttpResponse::Created().body("first") }));
    let app = test::init_service(app).await;
    let response = test::call_service(&app, post("k").to_request()).await;
    assert_eq!(response.status(), StatusCode::CREATED, "the client gets its answer");
    assert!(running() > 0, "shutdown waits for the write");
    eventually(async || running() == 0).await;
    assert_eq!(faults.left(), 0);
    let (status, replay, body) = harness.post("k").await;
    assert_eq!((status, replay, body.as_str()), (409, true, "first"));
    assert_eq!(harness.runs(), 0);
}

/// In another project, a lease without renewal let the retry of a slow request run a second time.
#[actix_web::test]
async fn the_lease_of_a_live_owner_is_renewed_even_when_its_worker_is_blocked() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    let mut settings = Settings::default();
    settings.storage.class = "own".into();
    settings.lock.lease = Duration::from_millis(120);
    settings.lock.timeout = Duration::ZERO;
    let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
    let shared = idempotency.clone();
    let blocked = std::thread::spawn(move || {
        let handler = || async {
            std::thread::sleep(Duration::from_millis(500));
            HttpResponse::Created().body("slow")
        };
        rt::System::new().block_on(async {
            let app = App::new().app_data(web::Data::new(shared)).wrap(IdempotencyKey::default());
            let app = test::init_service(app.route("/", web::post().to(handler))).await;
            test::call_service(&app, post("k").to_request()).await.status()
        })
    });
    let harness = Harness::new(idempotency);
    eventually(async || faults.calls(Call::Renew) > 0).await;
    rt::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(harness.post("k").await.0, 423, "still in flight after the first lease");
    assert_eq!(blocked.join().unwrap(), StatusCode::CREATED);
    assert_eq!(harness.post("k").await, answer(409, true, "slow"));
    assert_eq!(harness.runs(), 0);
}
