//! The requests that the benches send, and the Apps and stores that answer them.

use std::{hint::black_box, rc::Rc, time::Duration};

use actix_http::Request;
use actix_idempotency::{
    Idempotency, Settings,
    key::{Fingerprint, RecordId},
    record::Record,
    store::{Begin, BeginRequest, MemoryStore, OwnerToken, Store},
};
use actix_web::http::StatusCode;
use actix_web::{
    Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    test::TestRequest,
    web,
};
use futures_util::{FutureExt as _, future::LocalBoxFuture};

/// Sends a request to an App in this process, and returns the status of the answer.
pub(crate) type Send = Box<dyn Fn(Request) -> LocalBoxFuture<'static, u16>>;

pub(crate) fn sender<S, B>(app: S) -> Send
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let app = Rc::new(app);
    Box::new(move |request| {
        let app = app.clone();
        async move {
            let response = app.call(request).await.expect("an answer");
            let status = response.status().as_u16();
            black_box(response.into_body().try_into_bytes().ok());
            status
        }
        .boxed_local()
    })
}

pub(crate) async fn answer(_: web::Bytes) -> HttpResponse {
    HttpResponse::Created().content_type("application/json").body("x".repeat(1024))
}

pub(crate) fn routes(config: &mut web::ServiceConfig) {
    config.route("/", web::post().to(answer)).route("/", web::get().to(answer));
}

/// An `Idempotency` that keeps `records` records. When the store is full, each new record evicts the oldest one.
pub(crate) fn idempotency(records: usize) -> Idempotency {
    let mut settings = Settings::default();
    settings.storage.max_entries = records;
    settings.storage.min_retention = Duration::ZERO;
    Idempotency::builder().settings(settings).build().expect("sound settings")
}

pub(crate) fn request(path: &str, body: &'static [u8]) -> Request {
    payment(path, body).to_request()
}

pub(crate) fn with_key(path: &str, body: &'static [u8], key: &str) -> Request {
    payment(path, body).insert_header(("idempotency-key", key)).to_request()
}

fn payment(path: &str, body: &'static [u8]) -> TestRequest {
    TestRequest::post()
        .uri(path)
        .insert_header(("content-type", "application/json"))
        .insert_header(("user-agent", "bench"))
        .insert_header(("accept", "*/*"))
        .set_payload(body)
}

pub(crate) const SMALL: &[u8] = &[b'x'; 200];

pub(crate) fn id(n: u64) -> RecordId {
    let mut bytes = [0; 32];
    for (i, part) in (0_u32..).zip(bytes.chunks_mut(8)) {
        let x = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(13 * i + 7);
        part.copy_from_slice(&x.wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    RecordId::from_bytes(bytes)
}

pub(crate) fn ask(n: u64) -> BeginRequest {
    BeginRequest::new(id(n), Fingerprint::from_bytes([1; 42]), OwnerToken::random())
}

pub(crate) fn record() -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[b'x'; 200]))
}

pub(crate) fn complete(store: &MemoryStore, n: u64, record: &Record) {
    let ttl = Duration::from_secs(86_400);
    if let Some(Ok(Begin::Acquired(acquired))) = store.begin(&ask(n)).now_or_never() {
        black_box(store.complete(&acquired.claim, record, ttl).now_or_never());
    }
}
