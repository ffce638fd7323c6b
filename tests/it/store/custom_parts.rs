//! Custom parts of an application (storages, locks, encoders, principals, stores), and what happens when such a part
//! fails.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, KeyEncoder, Principal, Settings, Storage,
    key::{KeyRequest, RecordId},
    record::Record,
    settings::OnError,
    store::{
        Acquired, Begin, BeginRequest, Clock, Completion, ComposedStore, Forgotten, MemoryStore, OwnerToken, ReleaseAs,
        Renewal, Store, StoreError, ThreadLock,
    },
};
use actix_web::http::StatusCode;
use actix_web::{App, HttpResponse, body::to_bytes, dev::ServiceRequest, rt, test, web};
use bytes::Bytes;

pub(crate) type Answer = (u16, bool, String);

/// Serves one route in this process, and counts how often it runs.
pub(crate) struct Harness {
    pub(crate) idempotency: Idempotency,
    pub(crate) wrap: IdempotencyKey,
    runs: Arc<AtomicU32>,
}

impl Harness {
    pub(crate) fn new(idempotency: Idempotency) -> Self {
        Self { idempotency, wrap: IdempotencyKey::default(), runs: Arc::default() }
    }

    pub(crate) fn with_store(store: impl Store, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        settings.storage.class = "own".into();
        change(&mut settings);
        Self::new(Idempotency::builder().settings(settings).store("own", store).build().unwrap())
    }

    pub(crate) fn runs(&self) -> u32 {
        self.runs.load(SeqCst)
    }

    pub(crate) async fn send(&self, request: test::TestRequest) -> Answer {
        let runs = self.runs.clone();
        let handler = move || {
            let n = runs.fetch_add(1, SeqCst) + 1;
            async move { HttpResponse::Created().body(n.to_string()) }
        };
        let app = App::new()
            .app_data(web::Data::new(self.idempotency.clone()))
            .wrap(self.wrap.clone())
            .route("/", web::post().to(handler));
        let app = test::init_service(app).await;
        let response = test::call_service(&app, request.to_request()).await;
        let (status, replay) = (response.status().as_u16(), response.headers().contains_key("idempotent-replayed"));
        let Ok(body) = to_bytes(response.into_body()).await else { panic!("the body of the answer broke off") };
        (status, replay, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn post(&self, key: &str) -> Answer {
        self.send(post(key)).await
    }
}

pub(crate) fn post(key: &str) -> test::TestRequest {
    test::TestRequest::post().uri("/").insert_header(("idempotency-key", key))
}

pub(crate) fn answer(status: u16, replay: bool, body: &str) -> Answer {
    (status, replay, body.to_owned())
}

pub(crate) async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
    };
    rt::time::timeout(Duration::from_secs(10), wait).await.expect("the condition becomes true");
}

/// A storage in a map. It can be taken down, and it can drop every value that it gets.
#[derive(Clone, Default)]
pub(crate) struct MapStorage {
    values: Arc<Mutex<HashMap<String, Bytes>>>,
    down: Arc<AtomicBool>,
    drops_values: bool,
}

impl MapStorage {
    fn up(&self) -> Result<(), StoreError> {
        if self.down.load(SeqCst) { Err(StoreError::unavailable("the map is closed")) } else { Ok(()) }
    }
}

impl Storage for MapStorage {
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.up()?;
        rt::task::yield_now().await;
        Ok(self.values.lock().unwrap().get(name).cloned())
    }

    async fn put(&self, name: &str, value: Bytes, _ttl: Duration) -> Result<(), StoreError> {
        self.up()?;
        rt::task::yield_now().await;
        if !self.drops_values {
            self.values.lock().unwrap().insert(name.to_owned(), value);
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.up()?;
        Ok(self.values.lock().unwrap().remove(name).is_some())
    }
}

fn idempotency_with(storage: MapStorage, lock: &str) -> Idempotency {
    let mut settings = Settings::default();
    settings.storage.class = "map".into();
    settings.lock.class = lock.into();
    let builder = Idempotency::builder().settings(settings);
    builder.storage("map", storage).lock("mine", ThreadLock::default()).build().unwrap()
}

#[actix_web::test]
async fn a_custom_storage_with_each_lock_that_serves_it() {
    for lock in ["auto", "thread", "mine"] {
        let storage = MapStorage::default();
        let harness = Harness::new(idempotency_with(storage.clone(), lock));
        assert_eq!(harness.post("k").await, answer(201, false, "1"));
        assert_eq!(harness.post("k").await, answer(409, true, "1"));
        assert_eq!(harness.send(post("k").set_payload("x")).await.0, 422);
        let duplicates = (0..20).map(|_| harness.post("l"));
        let answers = futures_util::future::join_all(duplicates).await;
        assert!(answers.iter().all(|(_, _, body)| body == "2"), "{answers:?}");
        assert_eq!(harness.runs(), 2);
        assert!(
            storage.values.lock().unwrap().keys().all(|name| !name.contains('k') && name.len() == 64),
            "keys are hashed"
        );
    }
}

#[actix_web::test]
async fn a_storage_that_keeps_nothing_lets_every_request_run() {
    let harness = Harness::new(idempotency_with(MapStorage { drops_values: true, ..MapStorage::default() }, "auto"));
    for n in 1..=3 {
        assert_eq!(harness.post("k").await, answer(201, false, &n.to_string()));
    }
}

#[actix_web::test]
async fn damaged_values_are_an_error_and_never_a_second_run() {
    let storage = MapStorage::default();
    let harness = Harness::new(idempotency_with(storage.clone(), "auto"));
    harness.post("k").await;
    for damage in [Bytes::new(), Bytes::from_static(&[0; 33]), Bytes::from_static(&[255; 200])] {
        for value in storage.values.lock().unwrap().values_mut() {
            *value = damage.clone();
        }
        assert_eq!(harness.post("k").await.0, 503);
    }
    assert_eq!(harness.runs(), 1);
}

#[actix_web::test]
async fn a_composed_store_gives_up_a_claim_whose_lock_is_lost() {
    let clock = Clock::steered();
    let store = ComposedStore::new(MapStorage::default(), ThreadLock::with_clock(clock.clone()), "lock");
    let id = RecordId::from_bytes([1; 32]);
    let ask = || BeginRequest::new(id, actix_idempotency::key::Fingerprint::from_bytes([2; 42]), OwnerToken::random());
    let Begin::Acquired(Acquired { claim: late, .. }) = store.begin(&ask()).await.unwrap() else { panic!() };
    assert!(matches!(store.begin(&ask()).await.unwrap(), Begin::InFlight(_)));
    clock.advance(Duration::from_secs(31));
    let Begin::Acquired(Acquired { claim: taker, .. }) = store.begin(&ask()).await.unwrap() else { panic!() };
    let record = |n: u8| Record::new(StatusCode::CREATED, [], Some(&[n]));
    let ttl = Duration::from_secs(60);
    assert_eq!(store.complete(&late, &record(1), ttl).await.unwrap(), Completion::Superseded(None));
    assert_eq!(store.renew(&late, ttl).await.unwrap(), Renewal::Lost);
    store.release(&late, ReleaseAs::Free).await.unwrap();
    assert!(
        matches!(store.begin(&ask()).await.unwrap(), Begin::InFlight(_)),
        "the lock of the new owner is not released"
    );
    assert_eq!(store.complete(&taker, &record(2), ttl).await.unwrap(), Completion::Stored);
    assert_eq!(
        store.complete(&taker, &record(2), ttl).await.unwrap(),
        Completion::Stored,
        "`complete` may be repeated"
    );
    assert_eq!(store.complete(&late, &record(1), ttl).await.unwrap(), Completion::Superseded(Some(record(2))));
    assert!(store.inspect(&id).await.unwrap().is_some());
    assert_eq!(store.forget(&id).await.unwrap(), Forgotten::Removed);
}

#[actix_web::test]
async fn while_a_store_is_down_nothing_runs() {
    let storage = MapStorage::default();
    let harness = Harness::new(idempotency_with(storage.clone(), "auto"));
    harness.post("k").await;
    storage.down.store(true, SeqCst);
    for key in ["k", "l"] {
        let (status, _, body) = harness.post(key).await;
        assert_eq!(status, 503);
        assert!(
            body.contains("store-unavailable") && !body.contains("the map is closed"),
            "causes go to the log only: {body}"
        );
    }
    assert_eq!(harness.runs(), 1);
    storage.down.store(false, SeqCst);
    assert_eq!(harness.post("k").await, answer(409, true, "1"));
    // The claim that was made while the storage was down is released in the background.
    eventually(async || harness.post("l").await.0 != 423).await;
    assert_eq!(harness.runs(), 2);
}

#[actix_web::test]
async fn by_setting_requests_run_while_the_store_is_down() {
    let storage = MapStorage::default();
    let idempotency = idempotency_with(storage.clone(), "auto");
    let mut harness = Harness::new(idempotency);
    harness.wrap = IdempotencyKey::default().configure(|settings| settings.storage.on_error = OnError::Run);
    storage.down.store(true, SeqCst);
    assert_eq!(harness.post("k").await, answer(201, false, "1"));
    assert_eq!(harness.post("k").await, answer(201, false, "2"));
}

struct PerTenant;

impl KeyEncoder for PerTenant {
    fn encode<'a>(&self, request: &KeyRequest<'a>) -> Cow<'a, str> {
        let tenant = request.headers.get("x-tenant").and_then(|tenant| tenant.to_str().ok()).unwrap_or("-");
        Cow::Owned(format!("{tenant}/{}", request.key.as_str()))
    }
}

#[actix_web::test]
async fn a_custom_encoder_by_name_or_by_wrap() {
    let mut settings = Settings::default();
    settings.encoder = "per-tenant".into();
    let by_name = Idempotency::builder().settings(settings).encoder("per-tenant", PerTenant).build().unwrap();
    let mut by_wrap = Harness::new(Idempotency::in_memory());
    by_wrap.wrap = IdempotencyKey::default().encoder(PerTenant);
    for harness in [Harness::new(by_name), by_wrap] {
        for tenant in ["a", "b"] {
            assert_eq!(harness.send(post("k").insert_header(("x-tenant", tenant))).await.0, 201);
            assert_eq!(harness.send(post("k").insert_header(("x-tenant", tenant))).await.0, 409);
        }
    }
}

#[actix_web::test]
async fn principals_by_function_and_by_credentials() {
    let by_header = |request: &ServiceRequest| {
        let user = request.headers().get("x-user")?.to_str().ok()?;
        Some(Principal::new(user))
    };
    let of_process = Idempotency::builder().principal(by_header).build().unwrap();
    let mut of_wrap = Harness::new(Idempotency::in_memory());
    of_wrap.wrap = IdempotencyKey::default().principal(by_header);
    for harness in [Harness::new(of_process), of_wrap] {
        for header in
            [("x-user", "alice"), ("x-user", "bob"), ("authorization", "Basic a"), ("authorization", "Basic b")]
        {
            assert_eq!(harness.send(post("k").insert_header(header)).await.0, 201, "{header:?}");
            assert_eq!(harness.send(post("k").insert_header(header)).await.0, 409);
        }
        assert_eq!(harness.send(post("k")).await.0, 201, "anonymous");
    }
}

#[actix_web::test]
async fn a_wrap_with_its_own_store_and_settings() {
    let store = Arc::new(MemoryStore::default());
    let mut harness = Harness::new(Idempotency::in_memory());
    harness.wrap = IdempotencyKey::default().store(store.clone()).configure(|settings| {
        settings.conflict_status_code = None;
        settings.header = vec![actix_web::http::header::HeaderName::from_static("x-key")];
        settings.storage.store_on_statuses = "201".parse().unwrap();
    });
    let with = || test::TestRequest::post().uri("/").insert_header(("x-key", "k"));
    assert_eq!(harness.send(with()).await, answer(201, false, "1"));
    assert_eq!(harness.send(with()).await, answer(201, true, "1"));
    assert_eq!(harness.send(post("k")).await.0, 400);
    assert_eq!(store.len(), 1);
}

/// A request for an unknown cache is refused. Running it unprotected would hide the mistake.
#[actix_web::test]
async fn an_unknown_cache_fails_closed() {
    let mut harness = Harness::new(Idempotency::in_memory());
    harness.wrap = IdempotencyKey::default().cache_name("nowhere");
    assert_eq!(harness.post("k").await.0, 500);
    assert_eq!(harness.runs(), 0);
}
