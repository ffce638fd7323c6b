//! Handlers that read bodies as they arrive (`body = stream`): they leave the bodies, keep them, send them back,
//! and pass over their errors.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

use actix_idempotency::{Idempotency, IdempotencyKey, Settings, lost::Verdict, settings::BodyMode, store::OnUnknown};
use actix_web::{
    App, HttpMessage as _, HttpRequest, HttpResponse, HttpServer,
    body::SizedStream,
    dev::{Payload, ServerHandle},
    http::header,
    middleware::{Next, from_fn},
    rt, web,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use crate::common::{Connection, Reply, Request, eventually, fresh_key};

struct Uploads {
    address: SocketAddr,
    handle: ServerHandle,
    runs: Arc<AtomicU32>,
}

/// The length of a body that is sent back with its length.
const LENGTH: usize = 100_000;

impl Uploads {
    fn start() -> Self {
        Self::with(|_| {}, |wrap| wrap)
    }

    /// Serves handlers on a thread of this process.
    fn with(change: fn(&mut Settings), more: fn(IdempotencyKey) -> IdempotencyKey) -> Self {
        let idempotency = Idempotency::in_memory();
        let runs = Arc::new(AtomicU32::new(0));
        let count = runs.clone();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let app = move || {
                let wrap = more(IdempotencyKey::default().configure(move |settings| {
                    settings.body = BodyMode::Stream;
                    change(settings);
                }));
                App::new()
                    .app_data(web::Data::new(idempotency.clone()))
                    .app_data(web::Data::new(count.clone()))
                    .wrap(wrap)
                    .wrap(from_fn(doubled))
                    .route("/stubborn", web::post().to(stubborn))
                    .route("/events", web::post().to(events))
                    .route("/sized", web::post().to(sized))
                    .route("/relay", web::post().to(relay))
                    .route("/panics", web::post().to(panics))
                    .route("/stalls", web::post().to(stalls))
                    .route("/plain", web::post().to(plain))
            };
            rt::System::new().block_on(async {
                let server = HttpServer::new(app).workers(1).disable_signals();
                let server = server.bind_auto_h2c("127.0.0.1:0").expect("a free port");
                let address = server.addrs()[0];
                let server = server.run();
                sender.send((address, server.handle())).expect("the test waits");
                server.await.expect("the server serves");
            });
        });
        let (address, handle) = receiver.recv().expect("the server starts");
        Self { address, handle, runs }
    }

    fn send(&self, request: &Request) -> Reply {
        Connection::open(self.address).send(request)
    }

    fn runs(&self) -> u32 {
        self.runs.load(SeqCst)
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

type Runs = web::Data<Arc<AtomicU32>>;

fn next(runs: &Runs) -> String {
    (runs.fetch_add(1, SeqCst) + 1).to_string()
}

/// A layer outside that decodes bodies with `Content-Encoding: doubled`: each byte is sent twice.
async fn doubled(
    mut request: actix_web::dev::ServiceRequest,
    next: Next<impl actix_web::body::MessageBody>,
) -> Result<actix_web::dev::ServiceResponse<impl actix_web::body::MessageBody>, actix_web::Error> {
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "doubled") {
        let payload = request.take_payload();
        let halves = payload.map_ok(|piece| piece.iter().step_by(2).copied().collect::<Bytes>());
        request.set_payload(Payload::Stream { payload: Box::pin(halves) });
    }
    next.call(request).await
}

/// Passes over errors until the body has ended.
async fn stubborn(runs: Runs, mut payload: web::Payload) -> HttpResponse {
    let mut length = 0;
    while let Some(piece) = payload.next().await {
        length += piece.map_or(0, |piece| piece.len());
    }
    HttpResponse::Ok().body(format!("{} {length}", next(&runs)))
}

/// Does not read the body, and answers with events.
async fn events(runs: Runs) -> HttpResponse {
    let event = format!("data: {}\n\n", next(&runs));
    let events = stream::iter([Ok::<_, actix_web::Error>(Bytes::from(event))]);
    HttpResponse::Ok().content_type("text/event-stream").streaming(events)
}

/// Sends the body back with its length.
async fn sized(runs: Runs, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    next(&runs);
    let length = request.headers().get(header::CONTENT_LENGTH).unwrap().to_str().unwrap().parse().unwrap();
    HttpResponse::Ok().body(SizedStream::new(length, payload))
}

/// Sends the body back as it arrives.
async fn relay(runs: Runs, payload: web::Payload) -> HttpResponse {
    next(&runs);
    HttpResponse::Ok().streaming(payload)
}

/// Panics where the body fails.
async fn panics(runs: Runs, payload: web::Payload) -> HttpResponse {
    let n = next(&runs);
    let body = payload.to_bytes().await.expect("a body");
    HttpResponse::Ok().body(format!("{n} {}", body.len()))
}

/// Leaves the body to a task that reads one piece, waits for the next one for a while, and then keeps the body.
async fn stalls(runs: Runs, mut payload: web::Payload) -> HttpResponse {
    rt::spawn(async move {
        let _first = payload.next().await;
        let _next = rt::time::timeout(Duration::from_millis(100), payload.next()).await;
        rt::time::sleep(Duration::from_secs(60)).await;
        drop(payload);
    });
    HttpResponse::Ok().body(next(&runs))
}

async fn plain(runs: Runs) -> HttpResponse {
    HttpResponse::Ok().body(next(&runs))
}

fn digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

fn upload(path: &str, key: &str, body: &[u8]) -> Request {
    Request::post(path).key(key).body(body)
}

fn wrong(path: &str, key: &str) -> Request {
    upload(path, key, b"bodY").header("Content-Digest", &digest(b"body"))
}

/// Once, the error came again for as long as somebody asked, and the worker did nothing else any more.
#[test]
fn a_handler_that_passes_over_errors_finds_the_end_of_its_body() {
    let server = Uploads::start();
    let key = fresh_key();
    server.send(&wrong("/stubborn", &key)).is_problem(400, "wrong-digest");
    assert_eq!(server.send(&upload("/stubborn", &key, b"body")).body, b"2 4");
}

#[test]
fn a_stream_of_events_is_stored_where_its_handler_has_left_the_body() {
    let server = Uploads::start();
    for body in [&b""[..], b"body"] {
        let request = upload("/events", &fresh_key(), body);
        let before = server.runs();
        assert!(!server.send(&request).is_replay());
        let again = server.send(&request);
        assert!(again.is_replay(), "{again:?}");
        assert_eq!(server.runs(), before + 1);
    }
    server.send(&wrong("/events", &fresh_key())).is_problem(400, "wrong-digest");
}

#[test]
fn a_body_that_is_sent_back_with_its_length_is_stored_without_a_pause() {
    let server = Uploads::start();
    let started = Instant::now();
    let request = upload("/sized", &fresh_key(), &vec![7; LENGTH]);
    let first = server.send(&request);
    assert_eq!(first.body, vec![7; LENGTH]);
    let again = server.send(&request);
    assert!(again.is_replay() && again.body == first.body, "{again:?}");
    server.send(&request.body(vec![8; LENGTH])).is_problem(422, "key-reused");
    server.send(&wrong("/sized", &fresh_key())).is_problem(400, "wrong-digest");
    // Too large to keep, and known only when it has been sent.
    let large = server.send(&upload("/sized", &fresh_key(), &vec![7; 20 * LENGTH]));
    assert_eq!(large.body.len(), 20 * LENGTH);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_wrong_body_leaves_a_free_key_where_its_response_is_sent_as_it_arrives() {
    let server = Uploads::with(|settings| settings.on_unknown = OnUnknown::Reject, |wrap| wrap);
    let key = fresh_key();
    assert!(Connection::open(server.address).try_send(&wrong("/relay", &key)).is_err());
    assert_eq!(server.send(&upload("/relay", &key, b"body")).body, b"body");
}

/// The effects of a handler that panicked are not known.
#[test]
fn a_panic_over_a_wrong_body_is_a_panic() {
    for on_unknown in [OnUnknown::Rerun, OnUnknown::Reject] {
        let server = match on_unknown {
            OnUnknown::Rerun => Uploads::start(),
            _ => Uploads::with(|settings| settings.on_unknown = OnUnknown::Reject, |wrap| wrap),
        };
        let key = fresh_key();
        assert_eq!(server.send(&wrong("/panics", &key)).status, 500);
        let again = server.send(&upload("/panics", &key, b"body"));
        match on_unknown {
            OnUnknown::Rerun => assert_eq!(again.body, b"2 4"),
            _ => again.is_problem(409, "outcome-unknown"),
        }
    }
}

/// The handler has done its work, and was not told that its body would break off.
#[test]
fn a_run_that_ended_before_its_body_broke_off_is_for_on_unknown_to_judge() {
    for (server, status) in
        [(Uploads::start(), 200), (Uploads::with(|settings| settings.on_unknown = OnUnknown::Reject, |wrap| wrap), 409)]
    {
        let request = upload("/plain", &fresh_key(), b"0123456789");
        let bytes = request.bytes();
        let mut connection = Connection::open(server.address);
        connection.write(&bytes[..bytes.len() - 5]);
        eventually("a run", || if server.runs() == 1 { Ok(()) } else { Err(()) });
        connection.reset();
        eventually("an end", || match server.send(&request) {
            reply if reply.status == status => Ok(()),
            reply => Err(reply),
        });
        assert_eq!(server.runs(), if status == 200 { 2 } else { 1 });
    }
}

/// Once, the timer woke the task that had read last and did not read any more, and the key was locked.
#[test]
fn a_body_that_a_task_keeps_holds_no_key_for_longer_than_a_pause() {
    let idle = |settings: &mut Settings| settings.limits.body_idle_timeout = Duration::from_millis(400);
    let server = Uploads::with(idle, |wrap| wrap);
    let key = fresh_key();
    let bytes = upload("/stalls", &key, b"0123456789").bytes();
    let mut connection = Connection::open(server.address);
    connection.write(&bytes[..bytes.len() - 10]);
    std::thread::sleep(Duration::from_millis(100));
    connection.write(&bytes[bytes.len() - 10..bytes.len() - 5]);
    let started = Instant::now();
    assert_eq!(connection.reply().body, b"1");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(server.send(&upload("/plain", &key, b"0123456789")).status, 200);
}

/// The bytes after the head of an upgrade are no body.
#[test]
fn an_upgrade_has_an_empty_body() {
    let idle = |settings: &mut Settings| settings.limits.body_idle_timeout = Duration::from_millis(400);
    let server = Uploads::with(idle, |wrap| wrap);
    let key = fresh_key();
    let upgrade = |key: &str, more: &str| {
        let head = format!("POST /plain HTTP/1.1\r\nHost: a\r\nIdempotency-Key: {key}\r\n{more}");
        let mut connection = Connection::open(server.address);
        connection.write(format!("{head}Connection: Upgrade\r\nUpgrade: other\r\n\r\n").as_bytes());
        connection.reply()
    };
    assert_eq!(upgrade(&key, "").body, b"1");
    let again = upgrade(&key, "");
    assert!(again.is_replay(), "{again:?}");
    server.send(&upload("/plain", &key, b"a body")).is_problem(422, "key-reused");
    let wrong = format!("Content-Digest: {}\r\n", digest(b"a body"));
    upgrade(&fresh_key(), &wrong).is_problem(400, "wrong-digest");
}

#[test]
fn a_verdict_on_a_lost_upload_is_the_answer_to_the_body_that_asked() {
    let done = |wrap: IdempotencyKey| wrap.on_unknown(async |_| Verdict::Done(HttpResponse::Created().body("done")));
    let server = Uploads::with(|_| {}, done);
    let key = fresh_key();
    assert_eq!(server.send(&wrong("/panics", &key)).status, 500);
    let right = upload("/panics", &key, b"body");
    assert_eq!(server.send(&right).body, b"done");
    assert_eq!(server.send(&right).body, b"done");
    server.send(&right.body("Body")).is_problem(422, "key-reused");
    assert_eq!(server.runs(), 1);
}

/// The length of what is sent is not that of what is hashed.
#[test]
fn a_body_that_a_layer_outside_decodes_is_compared_as_its_handler_gets_it() {
    let server = Uploads::start();
    let doubled = |body: &[u8]| upload("/stubborn", "k", body).header("Content-Encoding", "doubled");
    let first = server.send(&doubled(b"aabbcc"));
    assert_eq!(first.body, b"1 3");
    let again = server.send(&doubled(b"aabbcc"));
    assert!(again.is_replay(), "{again:?}");
    server.send(&doubled(b"aabbccdd")).is_problem(422, "key-reused");
}
