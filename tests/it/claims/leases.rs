//! Claims that end while their operation runs, writes that never arrive, and what the owners of shared claims are told.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc, sync::Mutex, time::Duration};

use actix_idempotency::{
    Idempotency, IdempotencyInfo, IdempotencyKey, Settings,
    key::RecordId,
    record::Record,
    settings::OnUnknown,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, MemoryStore, ReleaseAs, Renewal, Store,
        StoreFuture,
    },
    testing::{Call, Fault, FaultyStore},
};
use actix_web::{App, Error, HttpResponse, dev::Service as _, rt, test::init_service, web};
use futures_util::stream;
use tokio::sync::Semaphore;

use crate::{
    common::in_process::{MARKER, Runs, alone, post, send},
    operate::traces::Notes,
    store::custom_parts::{Harness, answer, eventually},
};

/// A store that other processes share, with short leases: lease and grace are over after a third of a second.
fn short_leases(settings: &mut Settings) {
    settings.lock.lease = Duration::from_millis(200);
    settings.lock.timeout = Duration::ZERO;
    settings.storage.timeout = Duration::from_millis(50);
}

#[test]
fn the_lease_of_an_operation_that_outruns_max_run_is_not_renewed() {
    alone(|| async {
        let (store, faults) = FaultyStore::new(MemoryStore::default());
        let mut settings = Settings::default();
        settings.storage.class = "own".into();
        settings.limits.max_run = Duration::from_secs(1);
        short_leases(&mut settings);
        let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
        let runs = Runs::default();
        let count = runs.clone();
        let handler = move || {
            count.next();
            std::future::pending::<HttpResponse>()
        };
        let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
        let app = Rc::new(init_service(app.route("/", web::post().to(handler))).await);
        let ask = || {
            let app = app.clone();
            rt::spawn(async move { send(&*app, post("/", Some("k"))).await })
        };
        // Its client stays.
        let _first = ask();
        eventually(async || faults.calls(Call::Renew) >= 3).await;
        assert_eq!(ask().await.unwrap().0, 423, "its lease has been renewed");
        let asked = RefCell::new(Vec::new());
        eventually(async || {
            asked.borrow_mut().push(ask());
            runs.0.get() == 2
        })
        .await;
    });
}

/// The retry runs again: this is the window between the run and the write that the documentation describes.
#[actix_web::test]
async fn a_write_that_the_store_never_takes_is_given_up_after_retry_for() {
    let (store, faults) = FaultyStore::new(MemoryStore::default());
    let harness = Harness::with_store(store, |settings| {
        settings.storage.retry_for = Duration::from_millis(800);
        short_leases(settings);
    });
    (0..1000).for_each(|_| faults.next(Call::Complete, Fault::Fail));
    assert_eq!(harness.post("k").await, answer(201, false, "1"));
    assert!(harness.idempotency.running() > 0, "the write goes on");
    assert_eq!(harness.post("k").await.0, 423, "meanwhile the key is in flight");
    eventually(async || harness.idempotency.running() == 0).await;
    assert!(faults.calls(Call::Complete) > 2 && faults.left() > 0, "{faults:?}");
    eventually(async || harness.post("k").await == answer(201, false, "2")).await;
}

/// Once, nobody polled the time limit of that call.
#[test]
fn a_store_that_hangs_at_a_stream_too_large_to_keep_is_not_waited_for_although_the_client_reads_nothing() {
    alone(|| async {
        let (store, faults) = FaultyStore::new(MemoryStore::default());
        faults.next(Call::Complete, Fault::Hang);
        let mut settings = Settings::default();
        settings.storage.class = "own".into();
        settings.storage.max_response_body = 1000;
        short_leases(&mut settings);
        let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
        let pieces = || stream::repeat_with(|| Ok::<_, Error>(web::Bytes::from_static(&[7; 600])));
        let handler = move || async move { HttpResponse::Ok().streaming(pieces()) };
        let app = App::new().app_data(web::Data::new(idempotency.clone())).wrap(IdempotencyKey::default());
        let app = init_service(app.route("/", web::post().to(handler))).await;
        let unread = app.call(post("/", Some("k")).to_request()).await.unwrap();
        eventually(async || idempotency.running() == 0).await;
        assert_eq!(faults.calls(Call::Complete), 2, "the second call is that of the write behind");
        let (status, headers, body) = send(&app, post("/", Some("k"))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), body.len()), (409, true, 0));
        drop(unread);
    });
}

/// A store in which the renewal of a claim meets its completion.
struct Meeting {
    inner: MemoryStore,
    notes: Notes,
    /// Whether the two cross. Otherwise the renewal is answered while the operation runs.
    crosses: bool,
    renewing: Arc<Semaphore>,
    completed: Arc<Semaphore>,
    dealt_with: Arc<Semaphore>,
}

impl Store for Meeting {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.inner.begin(request)
    }
    fn renew<'a>(&'a self, _: &'a Claim, _: Duration) -> StoreFuture<'a, Renewal> {
        StoreFuture::boxed(async move {
            // The thread of the renewals reports from now on to the test.
            std::mem::forget(self.notes.listen());
            self.renewing.add_permits(1);
            if self.crosses {
                self.completed.acquire().await.unwrap().forget();
            }
            // This task runs when the thread has dealt with the answer.
            let dealt_with = self.dealt_with.clone();
            tokio::spawn(async move { dealt_with.add_permits(1) });
            Ok(Renewal::Lost)
        })
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        StoreFuture::boxed(async move {
            let completion = self.inner.complete(claim, record, ttl).await;
            self.completed.add_permits(1);
            self.dealt_with.acquire().await.unwrap().forget();
            completion
        })
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.inner.release(claim, release_as)
    }
    fn inspect<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Inspection>> {
        self.inner.inspect(id)
    }
    fn forget<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Forgotten> {
        self.inner.forget(id)
    }
    fn list(&self, after: Option<RecordId>, limit: usize) -> StoreFuture<'_, Vec<Inspection>> {
        self.inner.list(after, limit)
    }
}

#[test]
fn a_renewal_that_crosses_the_completion_of_its_claim_reports_no_lost_lease() {
    for crosses in [true, false] {
        alone(move || async move {
            let notes = Notes::default();
            let [renewing, completed, dealt_with] = [(); 3].map(|()| Arc::new(Semaphore::new(0)));
            let (in_handler, stays) = (renewing.clone(), dealt_with.clone());
            let store = Meeting {
                inner: MemoryStore::default(),
                notes: notes.clone(),
                crosses,
                renewing,
                completed,
                dealt_with,
            };
            let mut settings = Settings::default();
            settings.storage.class = "own".into();
            settings.storage.timeout = Duration::from_secs(10);
            settings.lock.lease = Duration::from_millis(100);
            let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
            let handler = move || {
                let (renewing, dealt_with) = (in_handler.clone(), stays.clone());
                async move {
                    renewing.acquire().await.unwrap().forget();
                    if !crosses {
                        drop(dealt_with.acquire().await.unwrap());
                    }
                    HttpResponse::Created().finish()
                }
            };
            let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
            let app = init_service(app.route("/", web::post().to(handler))).await;
            assert_eq!(send(&app, post("/", Some("k"))).await.0, 201);
            let notes = notes.take();
            assert_eq!(notes.contains("a lease was lost"), !crosses, "{notes}");
            let (status, headers, _) = send(&app, post("/", Some("k"))).await;
            assert_eq!((status.as_u16(), headers.contains_key(MARKER)), (409, true));
        });
    }
}

/// Notes the owner tokens of its claims.
struct Tokens(MemoryStore, Arc<Mutex<Vec<u128>>>);

impl Store for Tokens {
    crate::common::delegate_to_inner_store!();
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.1.lock().unwrap().push(u128::from_le_bytes(*request.token.as_bytes()));
        self.0.begin(request)
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.0.complete(claim, record, ttl)
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }
    fn needs_renewal(&self) -> bool {
        true
    }
}

/// Two processes that were restored from one snapshot would go on with the same numbers.
#[actix_web::test]
async fn owner_tokens_in_a_shared_store_do_not_follow_from_the_ones_before() {
    let tokens = Arc::<Mutex<Vec<u128>>>::default();
    let harness = Harness::with_store(Tokens(MemoryStore::default(), tokens.clone()), |_| {});
    for n in 0..20 {
        assert_eq!(harness.post(&format!("k{n}")).await.0, 201);
    }
    let tokens = tokens.lock().unwrap();
    let steps: BTreeSet<u128> = tokens.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert_eq!((tokens.len(), steps.len()), (20, 19), "{tokens:?}");
}

/// Once, it was forgotten after one run that stored nothing.
#[test]
fn every_run_after_a_lost_owner_is_told_until_a_response_is_stored() {
    alone(|| async {
        let idempotency = Idempotency::in_memory();
        let runs = Runs::default();
        let lost = || async { HttpResponse::Ok().body(lost_on_purpose()) };
        let rejecting = IdempotencyKey::default().configure(|settings| settings.on_unknown = OnUnknown::Reject);
        let first = App::new().app_data(web::Data::new(idempotency.clone())).wrap(rejecting);
        let first = init_service(first.route("/", web::post().to(lost))).await;
        let handler = move |info: IdempotencyInfo| {
            let n = runs.next();
            async move {
                let told = format!("{} {}", info.attempt(), info.taken_over());
                match n {
                    1 => HttpResponse::ServiceUnavailable().body(told),
                    2 => panic!("the handler panics, on purpose"),
                    _ => HttpResponse::Created().body(told),
                }
            }
        };
        let second = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
        let second = init_service(second.route("/", web::post().to(handler))).await;
        assert_eq!(send(&first, post("/", Some("k"))).await.0, 500);
        assert_eq!(send(&first, post("/", Some("k"))).await.0, 409, "its outcome is unknown");
        assert_eq!(send(&second, post("/", Some("k"))).await.2, "2 true", "it can't answer yet");
        assert_eq!(send(&second, post("/", Some("k"))).await.0, 500);
        assert_eq!(send(&second, post("/", Some("k"))).await.2, "4 true");
        let (status, headers, body) = send(&second, post("/", Some("k"))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), &body[..]), (409, true, &b"4 true"[..]));
    });
}

fn lost_on_purpose() -> &'static str {
    panic!("the owner is lost, on purpose")
}
