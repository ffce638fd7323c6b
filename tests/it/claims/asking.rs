//! Lost runs about which the service is asked before the next one begins.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyInfo, IdempotencyKey, Settings,
    ledger::{MemoryLedger, Transactions},
    lost::{Lost, Verdict},
    record::Record,
    settings::{Mode, OnDisconnect, OnUnknown},
    steps::StepError,
    store::{Begin, BeginRequest, Claim, Completion, MemoryStore, ReleaseAs, Store, StoreFuture},
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{
    App, Error, HttpResponse,
    dev::{AppConfig, Service as _},
    http::StatusCode,
    rt,
    test::init_service,
    web,
};
use parking_lot::Mutex;

use crate::common::{
    Request, RunLog, Server, eventually, fresh_key,
    in_process::{MARKER, Runs, alone, post, send},
};

/// What hooks were told, on this thread.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local!(static VERDICT: Cell<u16> = const { Cell::new(0) });

/// 0 is unknown, 1 not done, 2 a panic, 3 a hang; other numbers are statuses of what was done.
async fn hook(lost: &Lost) -> Verdict {
    assert!(lost.since.is_some());
    let request = &lost.request;
    let key = lost.request.headers.iter().find(|(name, _)| name == "idempotency-key").unwrap().1.to_str().unwrap();
    let (charge, derived) = (lost.result::<u32>("charge"), lost.derive("step", "charge"));
    assert_eq!(lost.step_key("charge"), derived);
    let text = String::from_utf8_lossy(&request.body);
    TOLD.lock().push(format!("{key} {} {} {text} {} {charge:?}", request.method, request.uri, lost.attempt));
    match VERDICT.get() {
        0 => Verdict::Unknown,
        1 => Verdict::NotDone,
        2 => panic!("the hook panics, on purpose"),
        3 => std::future::pending().await,
        4 => {
            rt::time::sleep(Duration::from_millis(30)).await;
            Verdict::Done(HttpResponse::Created().body("found"))
        }
        status => Verdict::Done(HttpResponse::build(StatusCode::from_u16(status).unwrap()).body("found")),
    }
}

/// How often a hook was asked about this key.
fn asked(key: &str) -> usize {
    TOLD.lock().iter().filter(|told| told.starts_with(&format!("{key} "))).count()
}

fn wrap() -> IdempotencyKey {
    IdempotencyKey::default()
        .on_unknown(hook)
        .configure(|settings| settings.storage.timeout = Duration::from_millis(20))
}

/// An App whose handler panics at its first run and answers 503 at its second one.
macro_rules! failing {
    ($wrap:expr, $runs:expr) => {{
        let runs: Runs = $runs.clone();
        let handler = move |info: IdempotencyInfo| {
            let n = runs.next();
            async move {
                info.step("charge", async |_| Ok::<_, StepError>(7)).await.unwrap();
                match n {
                    1 => panic!("the handler panics, on purpose"),
                    2 => HttpResponse::ServiceUnavailable().body(format!("{}", info.taken_over())),
                    _ => HttpResponse::Created().body(format!("{}", info.taken_over())),
                }
            }
        };
        let app = App::new().app_data(web::Data::new(Idempotency::in_memory())).wrap($wrap);
        init_service(app.route("/", web::post().to(handler))).await
    }};
}

#[test]
fn what_was_done_is_stored_whatever_its_status_and_the_handler_does_not_run() {
    alone(|| async {
        for status in [201, 404] {
            let (runs, key) = (Runs::default(), fresh_key());
            let app = failing!(wrap(), runs);
            let ask = || post("/", Some(&key)).set_payload("body");
            assert_eq!(send(&app, ask()).await.0, 500);
            VERDICT.set(status);
            let (first, headers, body) = send(&app, ask()).await;
            assert_eq!((first.as_u16(), headers.contains_key(MARKER), &body[..]), (status, false, &b"found"[..]));
            let (again, headers, body) = send(&app, ask()).await;
            assert_eq!((again.as_u16(), headers.contains_key(MARKER), &body[..]), (409, true, &b"found"[..]));
            assert_eq!(runs.0.get(), 1);
            let told: Vec<String> = TOLD.lock().iter().filter(|told| told.starts_with(&key)).cloned().collect();
            assert_eq!(told, [format!("{key} POST / body 1 Some(7)")]);
        }
    });
}

#[test]
fn what_was_not_done_runs_and_finds_its_steps() {
    alone(|| async {
        let (runs, key) = (Runs::default(), fresh_key());
        let app = failing!(wrap(), runs);
        assert_eq!(send(&app, post("/", Some(&key))).await.0, 500);
        VERDICT.set(1);
        assert_eq!(send(&app, post("/", Some(&key))).await.2, "false", "the lost owner is forgotten");
        assert_eq!(send(&app, post("/", Some(&key))).await.0, 201);
    });
}

#[test]
fn a_record_forgets_a_lost_owner_that_did_nothing() {
    alone(|| async {
        let (runs, key) = (Runs::default(), fresh_key());
        let count = runs.clone();
        let handler = move || {
            let n = count.next();
            async move {
                match n {
                    1 => panic!("the handler panics, on purpose"),
                    2 => HttpResponse::ServiceUnavailable().finish(),
                    _ => HttpResponse::Created().finish(),
                }
            }
        };
        let app = App::new().app_data(web::Data::new(Idempotency::in_memory())).wrap(wrap());
        let app = init_service(app.route("/", web::post().to(handler))).await;
        VERDICT.set(1);
        for status in [500, 503, 201] {
            assert_eq!(send(&app, post("/", Some(&key))).await.0, status);
        }
        assert_eq!(asked(&key), 1);
    });
}

#[test]
fn what_nobody_knows_stays_unknown_and_is_asked_about_again() {
    alone(|| async {
        let (runs, key) = (Runs::default(), fresh_key());
        let app = failing!(wrap(), runs);
        assert_eq!(send(&app, post("/", Some(&key))).await.0, 500);
        for (verdict, n) in [(0, 1), (2, 2), (3, 3), (304, 4)] {
            VERDICT.set(verdict);
            let (status, _, body) = send(&app, post("/", Some(&key))).await;
            assert!(status == 409 && String::from_utf8_lossy(&body).contains("outcome-unknown"), "{body:?}");
            assert_eq!((asked(&key), runs.0.get()), (n, 1));
        }
        VERDICT.set(201);
        assert_eq!(send(&app, post("/", Some(&key))).await.0, 201);
    });
}

#[test]
fn the_question_outlives_its_client_unless_a_client_that_leaves_cancels() {
    alone(|| async {
        for cancel in [false, true] {
            let (runs, key) = (Runs::default(), fresh_key());
            let on_disconnect = if cancel { OnDisconnect::Cancel } else { OnDisconnect::Finish };
            let app = failing!(wrap().configure(move |settings| settings.on_disconnect = on_disconnect), runs);
            assert_eq!(send(&app, post("/", Some(&key))).await.0, 500);
            VERDICT.set(4);
            let left = app.call(post("/", Some(&key)).to_request());
            assert!(rt::time::timeout(Duration::from_millis(5), left).await.is_err());
            rt::time::sleep(Duration::from_millis(60)).await;
            let (status, headers, _) = send(&app, post("/", Some(&key))).await;
            assert_eq!(headers.contains_key(MARKER), !cancel);
            assert_eq!((status.as_u16(), asked(&key)), if cancel { (201, 2) } else { (409, 1) });
            assert_eq!(runs.0.get(), 1);
        }
    });
}

#[test]
fn nobody_is_asked_about_a_run_that_was_not_lost_or_is_only_observed() {
    alone(|| async {
        let (key, runs) = (fresh_key(), Runs::default());
        let count = runs.clone();
        let handler = move || {
            count.next();
            std::future::ready(HttpResponse::ServiceUnavailable())
        };
        let app = App::new().app_data(web::Data::new(Idempotency::in_memory())).wrap(wrap());
        let app = init_service(app.route("/", web::post().to(handler))).await;
        for _ in 0..2 {
            assert_eq!(send(&app, post("/", Some(&key))).await.0, 503);
        }
        let observing = failing!(wrap().configure(|settings| settings.mode = Mode::Observe), Runs(runs.0.clone()));
        for _ in 0..2 {
            assert_eq!(send(&observing, post("/", Some(&key))).await.0, 201);
        }
        assert_eq!(asked(&key), 0);
    });
}

#[test]
fn a_wrap_that_asks_has_somebody_to_ask() {
    alone(|| async {
        let mut settings = Settings::default();
        settings.on_unknown = OnUnknown::Ask;
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().wrap(wrap.using(&idempotency)).route("/", web::post().to(HttpResponse::Created));
            app.service(idempotency.admin_scope()).into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        assert!(!starts(IdempotencyKey::default()).await);
        assert!(starts(IdempotencyKey::default().on_unknown(hook)).await);
    });
    let output = Server::fails_to_start(&[("IDEMPOTENCY_KEY__ON_UNKNOWN", "ask")]);
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("listening"), "{output:?}");
}

/// A store whose next claim has lost its owner before.
struct Haunted(MemoryStore, Arc<AtomicBool>);

impl Store for Haunted {
    crate::common::delegate_to_inner_store!();
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        StoreFuture::boxed(async move {
            let mut begun = self.0.begin(request).await?;
            if let Begin::Acquired(acquired) = &mut begun {
                acquired.claim.taken_over |= self.1.swap(false, SeqCst);
            }
            Ok(begun)
        })
    }
    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.0.complete(claim, record, ttl)
    }
    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }
}

/// A row says that the database's part was committed. Nobody has to be asked then.
#[test]
fn with_a_ledger_the_question_is_about_runs_without_a_row() {
    alone(|| async {
        let (lost, key) = (Arc::<AtomicBool>::default(), fresh_key());
        let handler = |db: Transactions<MemoryLedger>| async move {
            db.run(async |_| Ok::<_, Error>(HttpResponse::Created().finish())).await
        };
        let store = Arc::new(Haunted(MemoryStore::default(), lost.clone()));
        let wrap = wrap().using(&Idempotency::in_memory()).store(store).ledger(&MemoryLedger::default());
        let app = init_service(App::new().wrap(wrap).route("/", web::post().to(handler))).await;
        VERDICT.set(404);
        lost.store(true, SeqCst);
        assert_eq!(send(&app, post("/", Some(&key))).await.0, 404);
        let (status, headers, body) = send(&app, post("/", Some(&key))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER), &body[..]), (409, true, &b"found"[..]));
        assert_eq!(asked(&key), 1);
        let other = fresh_key();
        VERDICT.set(1);
        lost.store(true, SeqCst);
        assert_eq!(send(&app, post("/", Some(&other))).await.0, 201, "it was not done, and runs");
        assert_eq!(asked(&other), 1);
        lost.store(true, SeqCst);
        assert_eq!(send(&app, post("/", Some(&other))).await.0, 409, "its row is the answer");
        assert_eq!(asked(&other), 1);
    });
}

#[cfg(feature = "sqlite")]
#[test]
fn a_service_is_asked_about_the_run_of_a_process_that_died() {
    use crate::store::sqlite::fixture::{Folder, server};
    let folder = Folder::new();
    for (verdict, status, runs) in [("done", 201, 1), ("not-done", 200, 2), ("unknown", 409, 1)] {
        let (file, log, key) = (folder.new_file(), RunLog::new(), fresh_key());
        let path = format!("/ask?verdict={verdict}&as=abort");
        let mut first = server(&file, &log, &[]);
        assert!(first.connect().try_send(&Request::post(&path).key(&key)).is_err());
        eventually("the process has died", || first.has_exited().map(drop).ok_or("it lives"));
        let second = server(&file, &log, &[]);
        let answer = second.post(&path, &key);
        assert_eq!((answer.status, log.count("start")), (status, runs), "{answer:?}");
        match verdict {
            "done" => assert_eq!(answer.body, br#"{"verdict":"done"}"#),
            "unknown" => answer.is_problem(409, "outcome-unknown"),
            _ => {}
        }
        assert_eq!(second.post(&path, &key).is_replay(), verdict != "unknown");
    }
}
