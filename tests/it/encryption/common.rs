//! Helpers: a service with keys, over a store that the test looks into.

use std::sync::{Arc, Mutex};

use actix_idempotency::{
    ConfigError, Idempotency, IdempotencyInfo, IdempotencyKey, Principal, Settings,
    settings::{Encryption, SealingKey, SecretSource},
    steps::StepError,
    store::MemoryStore,
};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    error::ErrorServiceUnavailable,
    test::init_service,
    web,
};

use crate::common::in_process::{post, send};

/// What must not be found in a store.
pub(super) const SUBJECT: &str = "alice@example.com";
pub(super) const KEY: &str = "order-of-alice-17";
pub(super) const BODY: &str = "the card 4242 was charged";
pub(super) const HEADER: &str = "a-header-for-alice";
pub(super) const STEP: &str = "charge-ch_4242";
pub(super) const PAYLOAD: &str = "amount=4711&card=4242";
pub(super) const SECRETS: [&str; 6] = [SUBJECT, KEY, BODY, HEADER, STEP, PAYLOAD];

/// Sealing keys by number and byte.
pub(super) fn keys(keys: &[(u16, u8)]) -> Encryption {
    let mut encryption = Encryption::default();
    encryption.keys = keys.iter().map(|(id, byte)| SealingKey::new(*id, SecretSource::given([*byte; 32]))).collect();
    encryption
}

pub(super) fn with_index(mut encryption: Encryption, byte: u8) -> Encryption {
    encryption.index_key = Some(SecretSource::given([byte; 32]));
    encryption
}

/// The settings of a process that has these keys.
pub(super) fn settings(encryption: Encryption) -> Settings {
    let mut settings = Settings::ietf();
    settings.storage.store_on_statuses = "2xx".parse().unwrap();
    settings.encryption = encryption;
    settings
}

/// A memory store that the processes of a test share, and that the test looks into.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(pub(super) Arc<MemoryStore>);

/// A process over that store.
pub(super) fn process(store: &Shared, encryption: Encryption) -> Idempotency {
    build(store, settings(encryption)).unwrap()
}

pub(super) fn build(store: &Shared, mut settings: Settings) -> Result<Idempotency, ConfigError> {
    settings.storage.class = "shared".into();
    Idempotency::builder().settings(settings).store("shared", store.clone()).build()
}

async fn pay(runs: web::Data<Mutex<u32>>) -> HttpResponse {
    *runs.lock().unwrap() += 1;
    HttpResponse::Created().insert_header(("x-secret", HEADER)).body(BODY)
}

/// Fails after its step, the first time.
async fn with_step(runs: web::Data<Mutex<u32>>, info: IdempotencyInfo) -> Result<HttpResponse, Error> {
    *runs.lock().unwrap() += 1;
    let charge: String = info.step("charge", async |_| Ok::<_, StepError>(STEP.to_owned())).await?;
    if info.attempt() == 1 {
        return Err(ErrorServiceUnavailable("later"));
    }
    Ok(HttpResponse::Created().body(charge))
}

/// A service of a process. Counts the runs in `runs`.
pub(super) async fn service(
    idempotency: &Idempotency,
    runs: &web::Data<Mutex<u32>>,
) -> impl Service<actix_http::Request, Response = ServiceResponse<impl MessageBody + use<>>, Error = Error> + use<> {
    service_with(idempotency, runs, |wrap| wrap).await
}

pub(super) async fn service_with(
    idempotency: &Idempotency,
    runs: &web::Data<Mutex<u32>>,
    change: fn(IdempotencyKey) -> IdempotencyKey,
) -> impl Service<actix_http::Request, Response = ServiceResponse<impl MessageBody + use<>>, Error = Error> + use<> {
    let wrap = IdempotencyKey::default().using(idempotency).principal(|_| Some(Principal::new(SUBJECT)));
    init_service(App::new().app_data(runs.clone()).service(idempotency_scope(idempotency)).service(
        web::scope("").wrap(change(wrap)).route("/pay", web::post().to(pay)).route("/steps", web::post().to(with_step)),
    ))
    .await
}

fn idempotency_scope(idempotency: &Idempotency) -> impl actix_web::dev::HttpServiceFactory + 'static {
    web::scope("/admin").service(idempotency.admin_scope())
}

pub(super) fn runs() -> web::Data<Mutex<u32>> {
    web::Data::new(Mutex::new(0))
}

pub(super) fn count(runs: &web::Data<Mutex<u32>>) -> u32 {
    *runs.lock().unwrap()
}

/// An answer: its status, its text, and whether it is a replay.
pub(super) async fn ask<S, B>(app: &S, path: &str, key: &str) -> (u16, String, bool)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let (status, headers, body) = send(app, post(path, Some(key)).set_payload(PAYLOAD)).await;
    (status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), headers.contains_key("idempotent-replayed"))
}

/// Asks the operators' scope.
pub(super) async fn operate<S, B>(app: &S, path: &str, body: serde_json::Value) -> (u16, serde_json::Value)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let request = match body {
        serde_json::Value::Null => actix_web::test::TestRequest::get().uri(&format!("/admin/{path}")),
        body => actix_web::test::TestRequest::post().uri(&format!("/admin/{path}")).set_json(body),
    };
    let (status, _, body) = send(app, request).await;
    (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
}

/// Pays, and leaves a journal under another key.
pub(super) async fn leave_traces(idempotency: &Idempotency) {
    let runs = runs();
    let app = service(idempotency, &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
    assert_eq!(ask(&app, "/steps", &format!("{KEY}-steps")).await.0, 503);
}

/// The bytes have none of the secrets, in no case of their letters and not as hexadecimal digits.
#[track_caller]
pub(super) fn has_no_secret(place: &str, bytes: &[u8]) {
    assert!(!bytes.is_empty(), "{place} is empty");
    for secret in SECRETS {
        let hex = hex(secret);
        for text in [secret.as_bytes(), hex.as_bytes()] {
            assert!(!bytes.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text)), "{secret} is in {place}");
        }
    }
}

/// A text as hexadecimal digits.
pub(super) fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The bytes have at least one of the secrets: the search finds what is there.
#[track_caller]
pub(super) fn has_a_secret(place: &str, bytes: &[u8]) {
    let found = SECRETS.iter().any(|secret| bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
    assert!(found, "no secret is in {place}");
}

impl actix_idempotency::store::Store for Shared {
    fn begin<'a>(
        &'a self,
        request: &'a actix_idempotency::store::BeginRequest,
    ) -> actix_idempotency::store::StoreFuture<'a, actix_idempotency::store::Begin> {
        self.0.begin(request)
    }

    fn complete<'a>(
        &'a self,
        claim: &'a actix_idempotency::store::Claim,
        record: &'a actix_idempotency::record::Record,
        ttl: std::time::Duration,
    ) -> actix_idempotency::store::StoreFuture<'a, actix_idempotency::store::Completion> {
        self.0.complete(claim, record, ttl)
    }

    fn release<'a>(
        &'a self,
        claim: &'a actix_idempotency::store::Claim,
        release_as: actix_idempotency::store::ReleaseAs,
    ) -> actix_idempotency::store::StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }

    /// As a store that survives this process: its keys are checked.
    fn answers_at_once(&self) -> bool {
        false
    }

    fn needs_renewal(&self) -> bool {
        false
    }

    crate::common::delegate_to_inner_store!();
}
