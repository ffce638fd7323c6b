//! Stores of the application that panic, or that block their thread.

use std::{
    rc::Rc,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    key::RecordId,
    record::Record,
    settings::CacheOverrides,
    store::{
        Begin, BeginRequest, Claim, Completion, Forgotten, Inspection, MemoryStore, ReleaseAs, Renewal, Store,
        StoreFuture,
    },
    testing::{Call, FaultyStore},
};
use actix_web::{App, HttpResponse, rt, test::init_service, web};

use super::custom_parts::{Harness, answer, eventually};
use crate::common::in_process::{alone, post, send};

/// A store whose calls first do what the test wants.
struct Broken {
    inner: MemoryStore,
    before: Box<dyn Fn(Call) + Send + Sync>,
    /// Whether that happens when the call is polled, instead of when it is made.
    later: bool,
}

impl Broken {
    fn new(later: bool, before: impl Fn(Call) + Send + Sync + 'static) -> Self {
        Self { inner: MemoryStore::default(), before: Box::new(before), later }
    }

    /// Panics at the first `n` calls of this kind.
    fn panics(later: bool, at: Call, n: usize) -> Self {
        let panics = AtomicUsize::new(0);
        Self::new(later, move |call| {
            assert!(call != at || panics.fetch_add(1, SeqCst) >= n, "the store panics, on purpose");
        })
    }

    fn call<'a, T: Send + Unpin + 'a>(
        &'a self,
        call: Call,
        inner: impl FnOnce() -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        if !self.later {
            (self.before)(call);
            return inner();
        }
        StoreFuture::boxed(async move {
            (self.before)(call);
            inner().await
        })
    }
}

impl Store for Broken {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.call(Call::Begin, move || self.inner.begin(request))
    }
    fn renew<'a>(&'a self, claim: &'a Claim, lease: Duration) -> StoreFuture<'a, Renewal> {
        self.call(Call::Renew, move || self.inner.renew(claim, lease))
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.call(Call::Complete, move || self.inner.complete(claim, record, ttl))
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.call(Call::Release, move || self.inner.release(claim, release_as))
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

/// A `begin` that fails is repeated, so the store panics more often than once.
#[actix_web::test]
async fn a_request_whose_store_panics_in_begin_is_answered_with_503() {
    for later in [false, true] {
        let harness = Harness::with_store(Broken::panics(later, Call::Begin, 10), |_| {});
        let (status, _, body) = harness.post("k").await;
        assert_eq!((status, harness.runs()), (503, 0));
        assert!(body.contains("store-unavailable") && !body.contains("purpose"), "{body}");
        eventually(async || harness.post("k").await == answer(201, false, "1")).await;
    }
}

#[actix_web::test]
async fn a_client_whose_store_panics_in_complete_gets_its_answer_and_a_retry_gets_it_again() {
    for later in [false, true] {
        let harness = Harness::with_store(Broken::panics(later, Call::Complete, 3), |settings| {
            settings.lock.lease = Duration::from_secs(1);
        });
        assert_eq!(harness.post("k").await, answer(201, false, "1"));
        eventually(async || harness.post("k").await == answer(409, true, "1")).await;
        assert_eq!(harness.runs(), 1);
    }
}

#[actix_web::test]
async fn a_client_whose_store_panics_in_release_gets_its_answer_and_its_key_becomes_free() {
    for later in [false, true] {
        let harness = Harness::with_store(Broken::panics(later, Call::Release, 3), |settings| {
            settings.storage.store_on_statuses = "200".parse().unwrap();
        });
        assert_eq!(harness.post("k").await, answer(201, false, "1"));
        eventually(async || harness.post("k").await.0 == 201).await;
    }
}

/// Two wraps over two caches. The handlers run until the test has ended.
macro_rules! two_caches {
    ($idempotency:expr) => {
        Rc::new(
            init_service(
                App::new()
                    .app_data(web::Data::new($idempotency))
                    .service(
                        web::resource("/good")
                            .wrap(IdempotencyKey::default())
                            .route(web::post().to(std::future::pending::<HttpResponse>)),
                    )
                    .service(
                        web::resource("/bad")
                            .wrap(IdempotencyKey::default().cache_name("bad"))
                            .route(web::post().to(std::future::pending::<HttpResponse>)),
                    ),
            )
            .await,
        )
    };
}

fn settings_of_two_caches() -> Settings {
    let mut settings = Settings::default();
    settings.storage.class = "good".into();
    settings.lock.lease = Duration::from_millis(300);
    let bad = CacheOverrides::new().with(|storage| storage.class = "bad".into());
    settings.caches.insert("bad".into(), bad);
    settings
}

#[test]
fn a_store_that_panics_in_renew_keeps_no_claim_from_being_renewed() {
    alone(|| async {
        let renewals = Arc::new(AtomicUsize::new(0));
        let count = renewals.clone();
        let bad = Broken::new(false, move |call| {
            if call == Call::Renew {
                let n = count.fetch_add(1, SeqCst);
                assert!(!n.is_multiple_of(2), "the store panics at every other renewal, on purpose");
            }
        });
        let (good, faults) = FaultyStore::new(MemoryStore::default());
        let builder = Idempotency::builder().settings(settings_of_two_caches());
        let app = two_caches!(builder.store("bad", bad).store("good", good).build().unwrap());
        for path in ["/good", "/bad"] {
            let app = app.clone();
            rt::spawn(async move { send(&*app, post(path, Some("k"))).await });
        }
        eventually(async || renewals.load(SeqCst) >= 6 && faults.calls(Call::Renew) >= 4).await;
    });
}

/// Once, the renewals of all caches shared one thread.
#[test]
fn a_store_that_blocks_its_thread_delays_no_renewal_of_another_cache() {
    alone(|| async {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (blocked, shut) = (Arc::new(AtomicUsize::new(0)), gate.clone());
        let count = blocked.clone();
        let bad = Broken::new(false, move |call| {
            if call == Call::Renew {
                count.fetch_add(1, SeqCst);
                let is_shut = shut.1.wait_while(shut.0.lock().unwrap(), |open| !*open);
                drop(is_shut.unwrap());
            }
        });
        let (good, faults) = FaultyStore::new(MemoryStore::default());
        let builder = Idempotency::builder().settings(settings_of_two_caches());
        let app = two_caches!(builder.store("bad", bad).store("good", good).build().unwrap());
        let start = |path: &'static str| {
            let app = app.clone();
            rt::spawn(async move { send(&*app, post(path, Some("k"))).await })
        };
        start("/bad");
        eventually(async || blocked.load(SeqCst) > 0).await;
        start("/good");
        eventually(async || faults.calls(Call::Renew) >= 3).await;
        assert_eq!(blocked.load(SeqCst), 1, "the other store is still blocked");
        assert_eq!(send(&*app, post("/good", Some("k"))).await.0, 423, "the claim is alive");
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    });
}
