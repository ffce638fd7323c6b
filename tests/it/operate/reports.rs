//! Reports to a listener: every governed request is reported once, with its outcome and without its key.

use std::sync::{Arc, Mutex, OnceLock};

use actix_idempotency::{
    ExemptIdempotencyKey, Idempotency, IdempotencyInfo, IdempotencyKey, Policy, Settings,
    observe::{Outcome, Report},
    settings::Mode,
};
use actix_web::{
    App, HttpRequest, HttpResponse,
    body::to_bytes,
    dev::Service as _,
    rt,
    test::{TestRequest, init_service},
    web,
};

use futures_util::{FutureExt as _, stream};

use crate::common::in_process::{alone, post, send};

/// The reports that a listener got.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<Reported>>>);

/// Outcome, route, policy, attempt, and whether anything was stored.
type Reported = (Outcome, Option<String>, Policy, u32, bool);

impl Reports {
    fn idempotency(&self, change: impl FnOnce(&mut Settings)) -> Idempotency {
        let reports = self.clone();
        let mut settings = Settings::default();
        change(&mut settings);
        let listener = move |report: &Report<'_>| {
            let route = report.route.map(str::to_owned);
            let stored = report.stored_bytes.is_some_and(|bytes| bytes > 0);
            reports.0.lock().unwrap().push((report.outcome, route, report.policy, report.attempt, stored));
        };
        Idempotency::builder().settings(settings).listener(listener).build().unwrap()
    }

    fn take(&self) -> Vec<Reported> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// The outcome of the only request since the last call.
    fn one(&self) -> Outcome {
        let reports = self.take();
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports[0].0
    }
}

async fn handler(request: HttpRequest) -> HttpResponse {
    match request.match_info().get("what") {
        Some("fail") => HttpResponse::InternalServerError().finish(),
        Some("panic") => panic!("on purpose"),
        Some("slow") => {
            rt::time::sleep(std::time::Duration::from_secs(60)).await;
            HttpResponse::Ok().finish()
        }
        Some("stream") => HttpResponse::Ok().streaming(stream::pending::<Result<web::Bytes, std::io::Error>>()),
        Some("broken") => HttpResponse::Ok()
            .streaming(stream::iter([Ok(web::Bytes::from_static(b"half")), Err(std::io::Error::other("broken"))])),
        _ => HttpResponse::Created().body("done"),
    }
}

macro_rules! app {
    ($idempotency:expr) => {
        init_service(
            App::new()
                .app_data(web::Data::new($idempotency))
                .wrap(IdempotencyKey::default().rule("/do/optional", Policy::Optional))
                .service(web::resource("/do/free").wrap(ExemptIdempotencyKey::default()).to(handler))
                .route("/do/{what}", web::to(handler)),
        )
        .await
    };
}

#[test]
fn every_outcome_is_reported_once() {
    alone(|| async {
        let reports = Reports::default();
        let app = app!(reports.idempotency(|_| {}));
        let pattern = Some("/do/{what}".to_owned());
        send(&app, post("/do/it", Some("a"))).await;
        assert_eq!(reports.take(), [(Outcome::Stored, pattern.clone(), Policy::Required, 1, true)]);
        send(&app, post("/do/it", Some("a"))).await;
        assert_eq!(reports.take(), [(Outcome::Replayed, pattern, Policy::Required, 0, false)]);
        for (request, outcome) in [
            (post("/do/it", Some("a")).set_payload("other"), Outcome::KeyReused),
            (post("/do/it", None), Outcome::MissingKey),
            (post("/do/it", Some("a b")), Outcome::InvalidKey),
            (post("/do/it", Some("b")).set_payload(vec![0; 3 << 20]), Outcome::BodyTooLarge),
            (post("/do/optional", None), Outcome::Keyless),
            (post("/do/fail", Some("c")), Outcome::NotStored),
            (post("/do/panic", Some("d")), Outcome::Panicked),
        ] {
            send(&app, request).await;
            assert_eq!(reports.one(), outcome);
        }
        // Requests that no instance governs are not reported.
        send(&app, TestRequest::get().uri("/do/it")).await;
        send(&app, post("/do/free", Some("e"))).await;
        assert_eq!(reports.take(), []);
    });
}

#[test]
fn requests_that_waited_or_were_abandoned_are_reported() {
    alone(|| async {
        let reports = Reports::default();
        let idempotency =
            reports.idempotency(|settings| settings.on_disconnect = actix_idempotency::settings::OnDisconnect::Cancel);
        let app = app!(idempotency);
        let mut first = Box::pin(app.call(post("/do/slow", Some("a")).to_request()));
        assert!((&mut first).now_or_never().is_none());
        send(&app, post("/do/slow", Some("a"))).await;
        assert_eq!(reports.one(), Outcome::InFlight);
        drop(first);
        assert_eq!(reports.one(), Outcome::Abandoned);
    });
}

/// A listener may inspect the record, or repeat the request. So the claim is released and the operation is no longer in
/// flight before the report. One struct declares this drop order, and it is moved into the body of a streamed response.
#[test]
fn a_listener_finds_the_key_free_and_the_operation_no_longer_in_flight() {
    alone(|| async {
        let (known, found) = (Arc::new(OnceLock::<Idempotency>::new()), Arc::new(Mutex::new(Vec::new())));
        let (known_later, found_later) = (known.clone(), found.clone());
        let listener = move |report: &Report<'_>| {
            let idempotency = known_later.get().unwrap();
            let record = idempotency.inspect("default", &report.record.unwrap()).now_or_never().unwrap().unwrap();
            found_later.lock().unwrap().push((report.outcome, record.is_some(), idempotency.running()));
        };
        let mut settings = Settings::default();
        settings.on_disconnect = actix_idempotency::settings::OnDisconnect::Cancel;
        let idempotency = Idempotency::builder().settings(settings).listener(listener).build().unwrap();
        known.set(idempotency.clone()).unwrap();
        let app = app!(idempotency.clone());
        let mut left = Box::pin(app.call(post("/do/slow", Some("a")).to_request()));
        assert!((&mut left).now_or_never().is_none());
        drop(left);
        send(&app, post("/do/panic", Some("b"))).await;
        // The operation moves into a streamed body: its client leaves half way, or the stream fails.
        let half_read = app.call(post("/do/stream", Some("c")).to_request()).await.unwrap();
        drop(half_read);
        while idempotency.running() > 0 {
            actix_web::rt::task::yield_now().await;
        }
        let broken = app.call(post("/do/broken", Some("d")).to_request()).await.unwrap();
        assert!(to_bytes(broken.into_body()).await.is_err());
        let free = [Outcome::Abandoned, Outcome::Panicked, Outcome::Abandoned, Outcome::NotStored];
        assert_eq!(*found.lock().unwrap(), free.map(|outcome| (outcome, false, 0)));
    });
}

#[test]
fn a_listener_that_panics_does_not_break_the_request() {
    alone(|| async {
        let idempotency = Idempotency::builder().listener(|_: &Report<'_>| panic!("on purpose")).build().unwrap();
        let app = app!(idempotency);
        assert_eq!(send(&app, post("/do/it", Some("a"))).await.0, 201);
        assert_eq!(send(&app, post("/do/it", Some("a"))).await.0, 409);
    });
}

#[test]
fn in_observe_mode_everything_runs_and_the_outcome_of_enforcing_is_reported() {
    alone(|| async {
        let reports = Reports::default();
        let app = app!(reports.idempotency(|settings| {
            settings.mode = Mode::Observe;
            settings.observe_header = Some("idempotency-observed".parse().unwrap());
        }));
        let long = vec![7; 3 << 20];
        for (request, outcome) in [
            (post("/do/it", Some("a")), Outcome::Stored),
            (post("/do/it", Some("a")), Outcome::Replayed),
            (post("/do/it", Some("a")).set_payload("other"), Outcome::KeyReused),
            (post("/do/it", None), Outcome::MissingKey),
            (post("/do/it", Some("a b")), Outcome::InvalidKey),
            (post("/do/it", Some("b")).set_payload(long), Outcome::BodyTooLarge),
            (post("/do/optional", None), Outcome::Keyless),
        ] {
            let (status, headers, body) = send(&app, request).await;
            assert_eq!((status.as_u16(), &body[..]), (201, &b"done"[..]), "{outcome:?}");
            assert_eq!(reports.one(), outcome);
            let observed = headers.get("idempotency-observed").map(|value| value.to_str().unwrap());
            let expected = (!matches!(outcome, Outcome::Stored | Outcome::Keyless)).then(|| outcome.name());
            assert_eq!(observed, expected, "{outcome:?}");
        }
    });
}

/// The first attempt may be observed and the retry enforced. Both must call other services with the same derived keys.
#[test]
fn derived_keys_are_the_same_on_every_attempt_in_every_mode() {
    alone(|| async {
        let mut derived = Vec::new();
        for mode in [Mode::Observe, Mode::Enforce] {
            let idempotency = Reports::default().idempotency(|settings| {
                settings.mode = mode;
                settings.storage.store_on_statuses = "201".parse().unwrap();
            });
            let handler = |info: web::ReqData<IdempotencyInfo>| async move {
                let keys = [("stripe", "charge"), ("stripe", "refund"), ("mail", "charge")];
                let keys = keys.map(|(service, call)| info.derive(service, call).expect("a key").as_str().to_owned());
                assert!(keys[0] != keys[1] && keys[0] != keys[2] && !keys[0].contains("secret"), "{keys:?}");
                HttpResponse::Ok().body(keys.join(" "))
            };
            let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
            let app = init_service(app.route("/pay", web::post().to(handler))).await;
            for _ in 0..2 {
                derived.push(send(&app, post("/pay", Some("a-secret"))).await.2);
            }
        }
        assert_eq!(derived[0].len(), 3 * 64 + 2);
        assert!(derived.iter().all(|keys| *keys == derived[0]), "{derived:?}");
    });
}
