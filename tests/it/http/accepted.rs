//! Clients that prefer an answer at once, and look up the other one later.

use std::time::{Duration, Instant};

use actix_idempotency::{
    Idempotency, IdempotencyInfo, IdempotencyKey, Principal, Settings,
    ledger::{MemoryLedger, Transactions},
    settings::{OnDisconnect, Scope},
    store::MemoryStore,
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{
    App, Error, HttpMessage as _, HttpResponse,
    dev::{AppConfig, Service as _},
    rt,
    test::{TestRequest, init_service},
    web,
};

use crate::common::{
    Reply, Request, RunLog, Server, fresh_key,
    in_process::{Runs, alone, post, send},
};

const ALICE: (&str, &str) = ("Authorization", "Bearer alice-1");

fn request(path: &str, key: &str, prefer: &str) -> Request {
    Request::post(path).key(key).header(ALICE.0, ALICE.1).header("Prefer", prefer)
}

fn look(path: &str, prefer: &str) -> Request {
    Request::get(path).header(ALICE.0, ALICE.1).header("Prefer", prefer)
}

/// The path in the `Location` of a 202.
#[track_caller]
fn location(reply: &Reply) -> String {
    assert_eq!((reply.status, reply.body.len()), (202, 0), "{reply:?}");
    assert_eq!((reply.value("retry-after"), reply.value("preference-applied")), (Some("1"), Some("respond-async")));
    assert!(!reply.is_replay());
    reply.value("location").unwrap().to_owned()
}

#[test]
fn a_client_that_prefers_it_is_told_where_the_answer_will_be() {
    let server = Server::start(&[]);
    let (key, start) = (fresh_key(), Instant::now());
    let location = location(&server.send(request("/async?ms=700", &key, "respond-async")));
    assert!(start.elapsed() < Duration::from_millis(650) && location.starts_with("/operations/"), "{location}");
    assert_eq!(server.send(look(&location, "return=minimal")).status, 202);
    let by_key = || look("/operations", "wait=9").key(&key);
    for answer in [server.send(look(&location, "wait=9")), server.send(by_key())] {
        assert_eq!((answer.status, answer.is_replay(), answer.n()), (200, true, 1), "{answer:?}");
        assert_eq!(answer.value("cache-control"), Some("no-store"));
    }
    assert!(start.elapsed() >= Duration::from_millis(700));
    let again = server.send(request("/async?ms=700", &key, "respond-async"));
    assert_eq!((again.status, again.is_replay()), (409, true), "a retry gets the status of retries");
    assert_eq!(server.runs("/async"), 1);
}

#[test]
fn an_operation_within_the_time_that_its_client_waits_is_answered_directly() {
    let server = Server::start(&[]);
    assert_eq!(server.send(request("/async?ms=300", &fresh_key(), "respond-async, wait=9")).status, 200);
    assert_eq!(server.send(request("/async?ms=0", &fresh_key(), "respond-async")).status, 200);
    assert_eq!(server.send(request("/async?ms=100", &fresh_key(), "wait=0")).status, 200, "it wants no 202");
    assert_eq!(server.send(request("/slow?ms=100", &fresh_key(), "respond-async")).status, 200, "not allowed here");
}

#[test]
fn a_duplicate_waits_as_long_as_its_client_wants_or_is_told_where_to_look() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "5")]);
    for path in ["/async?ms=900", "/slow?ms=900"] {
        let key = fresh_key();
        let mut first = server.begin(&request(path, &key, "return=minimal"));
        server.wait_for_runs(path.split('?').next().unwrap(), 1);
        let start = Instant::now();
        server.send(request(path, &key, "wait=0")).is_problem(423, "in-flight");
        let at_once = server.send(request(path, &key, "respond-async, wait=0"));
        if path.starts_with("/async") {
            assert_eq!(server.send(look(&location(&at_once), "wait=9")).status, 200);
        } else {
            at_once.is_problem(423, "in-flight");
            assert!(start.elapsed() < Duration::from_millis(800));
            assert!(server.send(request(path, &key, "wait=9")).is_replay());
        }
        assert_eq!(first.reply().status, 200);
        server.send(request(path, &key, "respond-async").body("another")).is_problem(422, "key-reused");
    }
}

#[test]
fn the_longest_wait_is_a_setting() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__LOCK__MAX_WAIT", "0.2")]);
    let (key, start) = (fresh_key(), Instant::now());
    let location = location(&server.send(request("/async?ms=3000", &key, "respond-async, wait=9")));
    assert_eq!(server.send(look(&location, "wait=9")).status, 202);
    server.send(request("/async?ms=3000", &key, "wait=9")).is_problem(423, "in-flight");
    assert!((Duration::from_millis(600)..Duration::from_millis(2500)).contains(&start.elapsed()), "{start:?}");
}

/// By key alone, without the payload, whoever guesses a key would read a response that a replay refuses.
#[test]
fn a_look_up_is_for_the_same_principal() {
    let server = Server::start(&[]);
    let key = fresh_key();
    assert_eq!(server.send(request("/async?ms=0", &key, "wait=9")).status, 200);
    let location = location(&server.send(request("/async?ms=300", &fresh_key(), "respond-async")));
    for path in [&*location, "/operations"] {
        let from = |who: Option<&str>| {
            let request = Request::get(path).key(&key);
            server.send(match who {
                Some(who) => request.header("Authorization", who),
                None => request,
            })
        };
        for reply in [from(Some("Bearer bob-1")), from(None)] {
            assert_eq!((reply.status, reply.value("retry-after")), (404, None));
        }
        assert_ne!(from(Some("Bearer alice-2")).status, 404);
    }
    for unknown in ["/operations/0000", &format!("/operations/{}", "0".repeat(64))] {
        assert_eq!(server.send(look(unknown, "wait=1")).status, 404);
    }
    server.send(look("/operations", "wait=1")).is_problem(400, "missing-key");
}

#[cfg(feature = "sqlite")]
#[test]
fn the_outcome_of_an_operation_whose_process_died_is_unknown() {
    use crate::store::sqlite::fixture::{Folder, server};
    let (folder, log) = (Folder::new(), RunLog::new());
    let file = folder.new_file();
    let mut first = server(&file, &log, &[]);
    let location = location(&first.send(request("/async?ms=60000", &fresh_key(), "respond-async")));
    let second = server(&file, &log, &[]);
    assert_eq!(second.send(look(&location, "wait=0")).status, 202, "another process runs it");
    first.kill();
    crate::common::eventually("the death is seen", || match second.send(look(&location, "wait=0")) {
        reply if reply.status == 409 => {
            reply.is_problem(409, "outcome-unknown");
            Ok(())
        }
        reply => Err(reply.status),
    });
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.operations.path = Some("/operations/".into());
    settings
}

/// A request of a principal that prefers an answer at once.
fn of_carol(request: TestRequest) -> TestRequest {
    let request = request.insert_header(("prefer", "respond-async"));
    request.insert_header(("x-api-key", "carol"))
}

#[test]
fn a_run_that_ended_without_a_stored_response_is_told_and_can_be_sent_again() {
    alone(|| async {
        let idempotency = Idempotency::builder().settings(settings()).build().unwrap();
        let runs = Runs::default();
        let handler = move |info: IdempotencyInfo| {
            let n = runs.next();
            async move {
                assert_eq!(info.attempt(), n);
                rt::time::sleep(Duration::from_millis(40)).await;
                match n {
                    1 => HttpResponse::ServiceUnavailable().finish(),
                    2 => panic!("the handler panics, on purpose"),
                    _ => HttpResponse::Created().finish(),
                }
            }
        };
        let wrap = IdempotencyKey::default().using(&idempotency).respond_async();
        let app = App::new().service(web::scope("/operations").service(idempotency.operations_scope()));
        let app = init_service(app.service(web::resource("/").wrap(wrap).route(web::post().to(handler)))).await;
        let get = |path: &str| of_carol(TestRequest::get().uri(path)).insert_header(("prefer", "wait=5"));
        for ended in [409, 409, 201] {
            let (status, headers, _) = send(&app, of_carol(post("/", Some("k")))).await;
            assert_eq!(status, 202);
            let location = headers.get("location").unwrap().to_str().unwrap().to_owned();
            let (status, _, body) = send(&app, get(&location)).await;
            assert_eq!(status, ended);
            assert_eq!(String::from_utf8_lossy(&body).contains("/not-completed"), ended == 409, "{body:?}");
        }
    });
}

/// Whoever was not promised an answer leaves nothing behind.
#[test]
fn a_run_without_a_promise_leaves_no_memory() {
    alone(|| async {
        let idempotency = Idempotency::builder().settings(settings()).build().unwrap();
        let wrap = IdempotencyKey::default().using(&idempotency).respond_async();
        let app = App::new().service(web::scope("/operations").service(idempotency.operations_scope()));
        let route = web::post().to(HttpResponse::ServiceUnavailable);
        let app = init_service(app.service(web::resource("/").wrap(wrap).route(route))).await;
        assert_eq!(send(&app, of_carol(post("/", Some("k")))).await.0, 503);
        let by_key = of_carol(TestRequest::get().uri("/operations")).insert_header(("idempotency-key", "k"));
        assert_eq!(send(&app, by_key).await.0, 404);
    });
}

#[test]
fn a_row_of_a_ledger_is_found_too_and_anonymous_callers_where_they_are_allowed() {
    alone(|| async {
        let idempotency = Idempotency::builder().settings(settings()).build().unwrap();
        let handler = |db: Transactions<MemoryLedger>| async move {
            db.run(async |_| Ok::<_, Error>(HttpResponse::Created().body("row"))).await
        };
        let wrap = IdempotencyKey::default().using(&idempotency).ledger(&MemoryLedger::default());
        let app = App::new()
            .service(web::scope("/operations").service(idempotency.operations_scope()))
            .service(web::scope("/open").service(idempotency.operations_scope().allow_anonymous().cache("default")))
            .service(web::resource("/").wrap(wrap).route(web::post().to(handler)));
        let app = init_service(app).await;
        assert_eq!(send(&app, post("/", Some("k"))).await.0, 201);
        let get = |path: &str| TestRequest::get().uri(path).insert_header(("idempotency-key", "k"));
        assert_eq!(send(&app, get("/operations")).await.0, 404);
        let (status, _, body) = send(&app, get("/open")).await;
        assert_eq!((status.as_u16(), &body[..]), (201, &b"row"[..]));
        let carol = Principal::new("carol");
        let of_carol = get("/open").to_request();
        of_carol.extensions_mut().insert(carol);
        assert_eq!(app.call(of_carol).await.unwrap().status(), 404, "it is not hers");
    });
}

#[test]
fn a_server_that_can_not_keep_its_promises_does_not_start() {
    alone(|| async {
        let of = |settings: Settings| Idempotency::builder().settings(settings).build().unwrap();
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().wrap(wrap).route("/", web::post().to(HttpResponse::Created));
            app.into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        let wrap = |settings: Settings| IdempotencyKey::default().using(&of(settings)).respond_async();
        assert!(starts(wrap(settings())).await);
        assert!(!starts(wrap(Settings::default())).await, "nobody knows where the answer will be");
        let cancelling = |settings: &mut Settings| settings.on_disconnect = OnDisconnect::Cancel;
        assert!(!starts(wrap(settings()).configure(cancelling)).await);
        assert!(!starts(wrap(settings()).store(std::sync::Arc::new(MemoryStore::default()))).await);
        let looks_up = async |change: fn(&mut Settings), cache: &str| {
            let mut settings = settings();
            change(&mut settings);
            let scope = of(settings).operations_scope().cache(cache);
            App::new().service(scope).into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        assert!(looks_up(|_| {}, "default").await);
        assert!(!looks_up(|_| {}, "other").await);
        assert!(!looks_up(|settings| settings.scope = Scope::Endpoint, "default").await);
        assert!(!looks_up(|settings| settings.encoder = "django".into(), "default").await);
    });
}
