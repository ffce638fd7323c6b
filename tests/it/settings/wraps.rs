//! Mistakes at wraps, and how a wrap finds its `Idempotency`.

use std::sync::Arc;

use actix_idempotency::{
    Idempotency, IdempotencyKey, Policy, Settings,
    key::{BasicKeyEncoder, CanonicalJsonEncoder},
    ledger::MemoryLedger,
    settings::{BodyMode, KeySource},
    store::{MemoryLimits, MemoryStore},
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{App, HttpResponse, dev::AppConfig, test::init_service, web};

use crate::common::{
    Server,
    in_process::{MARKER, alone, post, send},
};

/// The memory store is laid out for the largest body of its cache. Once, larger ones were left out silently.
#[test]
fn a_wrap_promises_no_larger_bodies_than_its_memory_cache_keeps() {
    alone(|| async {
        let mut settings = Settings::default();
        settings.storage.max_bytes = 8 << 20;
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let with = |bytes: usize| IdempotencyKey::default().configure(move |s| s.storage.max_response_body = bytes);
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().wrap(wrap).route("/", web::post().to(HttpResponse::Created));
            app.into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        assert!(!starts(with(32 << 20).using(&idempotency)).await);
        assert!(starts(with(1 << 10).using(&idempotency)).await, "less is no promise");
        let own = MemoryStore::new(MemoryLimits { max_response_body: 32 << 20, ..MemoryLimits::default() });
        assert!(starts(with(32 << 20).store(Arc::new(own)).using(&idempotency)).await);
        // Where the `Idempotency` is found at the first request, requests fail.
        let app = App::new().app_data(web::Data::new(idempotency)).wrap(with(32 << 20));
        let app = init_service(app.route("/", web::post().to(HttpResponse::Created))).await;
        assert_eq!(send(&app, post("/", Some("k"))).await.0, 500);
    });
}

#[test]
fn an_idempotency_in_app_data_is_found_with_and_without_data_around_it() {
    alone(|| async {
        let idempotency = Idempotency::in_memory();
        let app = |app: App<_>| {
            init_service(app.wrap(IdempotencyKey::default()).route("/", web::post().to(HttpResponse::Created)))
        };
        let with_data = app(App::new().app_data(web::Data::new(idempotency.clone()))).await;
        let without = app(App::new().app_data(idempotency)).await;
        assert_eq!(send(&without, post("/", Some("k"))).await.0, 201);
        let (status, headers, _) = send(&with_data, post("/", Some("k"))).await;
        assert_eq!((status.as_u16(), headers.contains_key(MARKER)), (409, true), "both have the same records");
    });
}

/// Each of these needs the body before the run.
#[test]
fn a_wrap_that_streams_bodies_can_not_need_them_before_the_run() {
    alone(|| async {
        let mut settings = Settings::default();
        settings.operations.path = Some("/operations".into());
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().wrap(wrap.using(&idempotency)).route("/", web::post().to(HttpResponse::Created));
            app.into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        let wrap = || IdempotencyKey::default().configure(|settings| settings.body = BodyMode::Stream);
        assert!(starts(wrap()).await && starts(wrap().encoder(BasicKeyEncoder)).await);
        assert!(!starts(wrap().manual()).await);
        assert!(!starts(wrap().rule("/", Policy::Manual)).await);
        assert!(!starts(wrap().ledger(&MemoryLedger::default())).await);
        assert!(!starts(wrap().respond_async()).await);
        assert!(!starts(wrap().encoder(CanonicalJsonEncoder)).await);
        let in_body = |settings: &mut Settings| settings.key_sources = vec![KeySource::Json("/key".into())];
        assert!(!starts(wrap().configure(in_body)).await);
    });
}

#[test]
fn settings_that_stream_bodies_can_not_need_them_before_the_run() {
    for (name, value, named) in [
        ("KEY_SOURCES", "json:/key", "`key_sources` has `json:/key`"),
        ("ENCODER", "canonical-json", "in place of `canonical-json`"),
        ("MANUAL", "/a", "`manual`"),
    ] {
        let output = Server::fails_to_start(&[
            (&format!("IDEMPOTENCY_KEY__{name}"), value),
            ("IDEMPOTENCY_KEY__BODY", "stream"),
        ]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("`body = stream`") && text.contains(named), "{text}");
    }
}

/// What a server says that does not start because of this pattern.
fn refused(pattern: &str) -> String {
    let output = Server::fails_to_start(&[("IDEMPOTENCY_KEY__EXEMPT", pattern)]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Patterns that the router refuses.
const MALFORMED: [&str; 7] = ["nowhere", "/a/{", "/a/}b{", "/{}", "/{a}/{a}", "/{a:[}", "/{a-b}"];

#[test]
fn a_route_pattern_that_the_router_refuses_is_an_error() {
    for pattern in MALFORMED {
        let text = refused(pattern);
        assert!(text.contains(&format!("`{pattern}`")), "{pattern}: {text}");
    }
}

/// A panic, caught or not, ends a process that was built with `panic = "abort"`.
#[test]
fn a_route_pattern_that_the_router_refuses_is_found_without_a_panic() {
    for pattern in MALFORMED {
        let text = refused(pattern);
        assert!(!text.contains("panicked at"), "{pattern}: {text}");
    }
}
