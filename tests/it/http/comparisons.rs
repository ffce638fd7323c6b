//! What the settings `fingerprint.*` compare when a key comes again.

use std::sync::Arc;

use actix_idempotency::{
    Idempotency, IdempotencyKey, Settings,
    key::{BasicKeyEncoder, CanonicalJsonEncoder},
    settings::{CompareQuery, ConfigError},
    store::{MemoryLimits, MemoryStore, Store},
};
use actix_service::{IntoServiceFactory as _, ServiceFactory as _};
use actix_web::{App, HttpResponse, dev::AppConfig, test::init_service, web};

use crate::common::{
    Request, Server, fresh_key,
    in_process::{MARKER, alone, post, send},
};

/// Sends two requests under one key. Whether the second one is a replay; else it was refused as another operation.
#[track_caller]
fn is_same(server: &Server, requests: [Request; 2]) -> bool {
    let key = fresh_key();
    let [first, second] = requests.map(|request| server.send(request.key(&key)));
    assert!(first.status < 300, "{first:?}");
    if second.is_replay() {
        return true;
    }
    second.is_problem(422, "key-reused");
    false
}

#[test]
fn named_headers_are_compared_too() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__FINGERPRINT__HEADERS", "X-Tenant, stripe-account")]);
    let of = |tenant: &str| Request::post("/items").header("X-Tenant", tenant);
    assert!(is_same(&server, [of("a"), of("a")]));
    assert!(is_same(&server, [of("a"), of("a").header("X-Other", "1")]));
    assert!(is_same(&server, [Request::post("/items"), Request::post("/items")]));
    assert!(!is_same(&server, [of("a"), of("b")]));
    assert!(!is_same(&server, [of("a"), Request::post("/items")]));
    assert!(!is_same(&server, [of(""), Request::post("/items")]));
    assert!(!is_same(&server, [of("a"), of("a").header("X-Tenant", "a")]));
    assert!(!is_same(&server, [of("a"), Request::post("/items").header("Stripe-Account", "a")]));
    let server = Server::start(&[]);
    assert!(is_same(&server, [of("a"), of("b")]));
}

#[test]
fn hosts_are_compared_without_case_where_the_setting_names_them() {
    alone(|| async {
        let mut settings = Settings::ietf();
        settings.fingerprint.headers = vec!["host".parse().unwrap()];
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let wrap = IdempotencyKey::default().using(&idempotency);
        let app = init_service(App::new().route("/", web::post().to(HttpResponse::Created)).wrap(wrap)).await;
        let ask = async |host: &str| send(&app, post("/", Some("k")).insert_header(("host", host))).await.0.as_u16();
        assert_eq!((ask("a.example").await, ask("A.Example").await, ask("b.example").await), (201, 201, 422));
    });
}

#[test]
fn the_order_of_a_query_counts_unless_it_is_sorted() {
    let of = |query: &str| Request::post(&format!("/items?{query}"));
    let server = Server::start(&[("IDEMPOTENCY_KEY__FINGERPRINT__QUERY", "sorted")]);
    assert!(is_same(&server, [of("a=1&b=2"), of("b=2&a=1")]));
    assert!(!is_same(&server, [of("a=1&b=2"), of("b=2&a=3")]));
    assert!(!is_same(&server, [of("a=1&a=2"), of("a=2&a=1")]), "the order of one field's values may mean something");
    assert!(!is_same(&server, [of("a=1"), of("a=1&a=1")]));
    let server = Server::start(&[]);
    assert!(!is_same(&server, [of("a=1&b=2"), of("b=2&a=1")]));
}

#[test]
fn a_new_boundary_counts_only_where_forms_are_compared_by_their_bytes() {
    let of = |boundary: &str| {
        let body = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--{boundary}--\r\n");
        Request::post("/items").header("Content-Type", &format!("multipart/form-data; boundary={boundary}")).body(body)
    };
    for (how, is_replayed) in [("parts", true), ("bytes", false)] {
        let server = Server::start(&[("IDEMPOTENCY_KEY__FINGERPRINT__MULTIPART", how)]);
        assert_eq!(is_same(&server, [of("x"), of("y")]), is_replayed, "{how}");
        assert!(is_same(&server, [of("x"), of("x")]), "{how}");
    }
}

#[test]
fn ignored_members_of_a_body_do_not_count() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__ENCODER", "canonical-json"),
        ("IDEMPOTENCY_KEY__FINGERPRINT__IGNORE", "/sent_at,/meta/attempt"),
    ]);
    let of = |body: &str| Request::post("/items").header("Content-Type", "application/json").body(body);
    let first = r#"{"amount":1,"sent_at":1700000000.123456789,"meta":{"attempt":1,"id":7}}"#;
    assert!(is_same(&server, [of(first), of(r#"{"sent_at":"later","meta":{"id":7,"attempt":2},"amount":1}"#)]));
    assert!(is_same(&server, [of(first), of(r#"{"amount":1,"meta":{"id":7}}"#)]), "an absent member is ignored too");
    assert!(!is_same(&server, [of(first), of(r#"{"amount":2,"meta":{"id":7}}"#)]));
    assert!(!is_same(&server, [of(first), of(r#"{"amount":1,"meta":{"id":8}}"#)]));
    // What is no JSON is compared by its bytes.
    let text = |body: &str| Request::post("/items").header("Content-Type", "text/plain").body(body);
    assert!(!is_same(&server, [text(r#"{"sent_at":1}"#), text(r#"{"sent_at":2}"#)]));
}

#[test]
fn members_are_ignored_by_the_encoder_that_knows_them_only() {
    let output = Server::fails_to_start(&[("IDEMPOTENCY_KEY__FINGERPRINT__IGNORE", "/sent_at")]);
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && says.contains("fingerprint.ignore") && says.contains("canonical-json"),
        "{says}"
    );

    let mut settings = Settings::default();
    settings.fingerprint.ignore = vec!["sent_at".into()];
    assert!(
        matches!(settings.check(), Err(ConfigError::InvalidValue { setting, .. }) if setting == "fingerprint.ignore")
    );

    alone(|| async {
        let wrap = || {
            let ignoring = |settings: &mut Settings| settings.fingerprint.ignore = vec!["/sent_at".into()];
            IdempotencyKey::default().using(&Idempotency::in_memory()).configure(ignoring)
        };
        let starts = async |wrap: IdempotencyKey| {
            let app = App::new().route("/", web::post().to(HttpResponse::Created)).wrap(wrap);
            app.into_factory().new_service(AppConfig::default()).await.is_ok()
        };
        assert!(!starts(wrap()).await, "the encoder of the process");
        assert!(!starts(wrap().encoder(BasicKeyEncoder)).await);
        assert!(starts(wrap().encoder(CanonicalJsonEncoder)).await);
    });
}

/// A deploy that changes a setting must not turn live keys into mismatches.
#[test]
fn records_from_before_a_change_of_settings_are_compared_by_method_and_path() {
    alone(|| async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(MemoryLimits::default()));
        let with = |query| {
            let wrap = IdempotencyKey::default().using(&Idempotency::in_memory()).store(store.clone());
            wrap.configure(move |settings| settings.fingerprint.query = query)
        };
        let app = |wrap: IdempotencyKey| {
            let app = App::new().route("/", web::post().to(HttpResponse::Created));
            init_service(app.route("/other", web::post().to(HttpResponse::Created)).wrap(wrap))
        };
        let (before, after) = (app(with(CompareQuery::Sent)).await, app(with(CompareQuery::Sorted)).await);
        assert_eq!(send(&before, post("/?b=1&a=2", Some("k"))).await.0, 201);
        assert!(send(&after, post("/?b=1&a=2", Some("k"))).await.1.contains_key(MARKER));
        assert_eq!(send(&after, post("/other", Some("k"))).await.0, 422);
    });
}
