//! `fingerprint.differences`: a mismatch says which members of a JSON body differ, to whoever has the key, and to nobody who
//! reads a store.

use std::future::pending;

use actix_idempotency::{
    ConfigError, Idempotency, IdempotencyKey, Principal, Settings,
    ledger::{Ledger as _, MemoryLedger, Tx},
    problem::Refusal,
    settings::{Encryption, Mode, SealingMode},
    store::Store as _,
};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    test::init_service,
    web,
};
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::{
    common::{KEY, SUBJECT, Shared, build, keys, settings, with_index},
    dumps::Map,
};
use crate::common::in_process::{post, send};

/// Settings with differences.
fn explaining(encryption: Encryption) -> Settings {
    let mut settings = settings(encryption);
    settings.fingerprint.differences = true;
    settings
}

fn indexed() -> Encryption {
    with_index(Encryption::default(), 9)
}

fn client(mut encryption: Encryption) -> Encryption {
    encryption.mode = SealingMode::Client;
    encryption
}

async fn service(
    idempotency: &Idempotency,
) -> impl Service<actix_http::Request, Response = ServiceResponse<impl MessageBody + use<>>, Error = Error> + use<> {
    let wrap = IdempotencyKey::default().using(idempotency).principal(|_| Some(Principal::new(SUBJECT)));
    let app = App::new().wrap(wrap).route("/pay", web::post().to(HttpResponse::Created));
    init_service(app.route("/never", web::post().to(pending::<HttpResponse>))).await
}

/// Sends a JSON text. Returns the status, and the problem.
async fn pay<S, B>(app: &S, path: &str, key: &str, body: &str) -> (u16, Value)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    send_as(app, path, key, "application/json", body).await
}

async fn send_as<S, B>(app: &S, path: &str, key: &str, kind: &str, body: &str) -> (u16, Value)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let request = post(path, Some(key)).insert_header(("content-type", kind)).set_payload(body.to_owned());
    let (status, _, body) = send(app, request).await;
    (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
}

#[track_caller]
fn differs((status, problem): (u16, Value), expected: &[&str]) {
    assert_eq!(status, 422, "{problem}");
    assert!(problem["type"].as_str().unwrap().ends_with("/key-reused"), "{problem}");
    assert_eq!(problem["differences"], json!(expected), "{problem}");
}

#[track_caller]
fn is_unexplained((status, problem): (u16, Value)) {
    assert_eq!(status, 422, "{problem}");
    assert_eq!(problem.get("differences"), None, "{problem}");
}

const FIRST: &str = r#"{"amount":100,"to":{"name":"x","tags":["a","b"]},"note":""}"#;

/// Sends the first body and others under the same key.
async fn explains_mismatches<S, B>(app: &S)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    assert_eq!(pay(app, "/pay", KEY, FIRST).await.0, 201);
    assert_eq!(pay(app, "/pay", KEY, FIRST).await.0, 201, "a replay");
    let other = async |body: &str| pay(app, "/pay", KEY, body).await;
    differs(other(r#"{"amount":900,"to":{"name":"x","tags":["a","b"]},"note":""}"#).await, &["/amount"]);
    differs(other(r#"{"note":"","more":[{"a/b":1}],"to":{"name":"X"}}"#).await, &["/more/0/a~1b", "/to/name"]);
    differs(other(r#"{"note":""}"#).await, &[]);
    differs(other("[]").await, &[""]);
    // The same values in other bytes are a mismatch for the encoder `basic`.
    differs(other(&format!(" {FIRST}")).await, &[]);
    differs(pay(app, "/pay?more=1", KEY, FIRST).await, &[]);
    differs(send_as(app, "/pay", KEY, "application/merge-patch+json; v=1", r#"{"amount":1}"#).await, &["/amount"]);
    is_unexplained(other("{").await);
    is_unexplained(other(r#"{"amount":1,"amount":2}"#).await);
    is_unexplained(send_as(app, "/pay", KEY, "text/plain", r#"{"amount":1}"#).await);
    is_unexplained(other(&format!("[{}]", vec!["1"; 65].join(","))).await);
}

#[actix_web::test]
async fn over_memory_whatever_is_sealed() {
    for encryption in [indexed(), with_index(keys(&[(1, 1)]), 9), client(with_index(keys(&[(1, 1)]), 9))] {
        explains_mismatches(&service(&build(&Shared::default(), explaining(encryption.clone())).unwrap()).await).await;
        // The memory store itself, which answers at once.
        let idempotency = Idempotency::builder().settings(explaining(encryption)).build().unwrap();
        explains_mismatches(&service(&idempotency).await).await;
    }
}

#[actix_web::test]
async fn without_a_lock() {
    let mut settings = explaining(client(with_index(keys(&[(1, 1)]), 9)));
    settings.lock.enable = false;
    explains_mismatches(&service(&build(&Shared::default(), settings).unwrap()).await).await;
}

#[actix_web::test]
async fn over_a_storage_of_ones_own() {
    let map = Map::default();
    let mut settings = explaining(client(with_index(keys(&[(1, 1)]), 9)));
    settings.storage.class = "map".into();
    let idempotency = Idempotency::builder().settings(settings).storage("map", map.clone()).build().unwrap();
    explains_mismatches(&service(&idempotency).await).await;
    let values = map.0.lock();
    shows_nothing("a storage", &values.values().flat_map(|value| value.to_vec()).collect::<Vec<_>>());
}

#[cfg(feature = "sqlite")]
#[actix_web::test]
async fn over_sqlite() {
    let folder = crate::store::sqlite::fixture::Folder::new();
    for encryption in [indexed(), client(with_index(keys(&[(1, 1)]), 9))] {
        let mut settings = explaining(encryption);
        settings.storage.class = "sqlite".into();
        let file = folder.new_file();
        settings.storage.location = file.to_str().unwrap().into();
        settings.storage.timeout = crate::common::PATIENCE;
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        idempotency.check().await.unwrap();
        explains_mismatches(&service(&idempotency).await).await;
        let files = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        shows_nothing("sqlite", &files.flat_map(|file| std::fs::read(file).unwrap_or_default()).collect::<Vec<_>>());
    }
}

#[cfg(feature = "redis")]
#[actix_web::test]
async fn over_redis() {
    for encryption in [indexed(), client(with_index(keys(&[(1, 1)]), 9))] {
        let redis = crate::store::redis::fixture::Redis::start();
        let mut settings = explaining(encryption);
        settings.storage.class = "redis".into();
        settings.storage.location = redis.url().into();
        settings.storage.timeout = crate::common::PATIENCE;
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        idempotency.check().await.unwrap();
        explains_mismatches(&service(&idempotency).await).await;
        let (mut connection, mut dump) = (redis.connect(), Vec::new());
        for name in redis.names() {
            let fields: std::collections::HashMap<Vec<u8>, Vec<u8>> =
                redis::cmd("HGETALL").arg(&name).query(&mut connection).unwrap_or_default();
            dump.extend(fields.into_iter().flat_map(|(name, value)| [name, value].concat()));
        }
        shows_nothing("redis", &dump);
    }
}

/// Neither pointers nor values of `FIRST` are in the bytes, which are those of records that are perhaps not sealed.
#[track_caller]
fn shows_nothing(place: &str, bytes: &[u8]) {
    assert!(!bytes.is_empty(), "{place}");
    for secret in [&b"amount"[..], b"/to/name", b"tags", b"note", FIRST.as_bytes()] {
        assert!(!bytes.windows(secret.len()).any(|part| part.eq_ignore_ascii_case(secret)), "{place}");
    }
}

#[actix_web::test]
async fn a_memory_store_shows_neither_pointers_nor_values_and_equal_bodies_look_different() {
    let store = Shared::default();
    let app = service(&build(&store, explaining(indexed())).unwrap()).await;
    for key in ["k1", "k2"] {
        assert_eq!(pay(&app, "/pay", key, FIRST).await.0, 201);
    }
    let mut records = Vec::new();
    for seen in store.0.list(None, 10).await.unwrap() {
        let Some(record) = seen.record.filter(|record| record.len() > 60) else { continue };
        shows_nothing("memory", &record.to_bytes());
        records.push(record.to_bytes());
    }
    assert_eq!(records.len(), 2, "each has the pairs of five leaves");
    let pairs: Vec<Vec<&[u8]>> = records.iter().map(|record| record[record.len() - 40..].chunks(4).collect()).collect();
    assert!(pairs[0].iter().all(|half| !pairs[1].contains(half)), "{pairs:?}");
}

async fn pay_with_row(_: Tx<MemoryLedger>) -> HttpResponse {
    HttpResponse::Created().finish()
}

#[actix_web::test]
async fn rows_of_a_ledger_explain_mismatches_too() {
    for encryption in [indexed(), client(with_index(keys(&[(1, 1)]), 9))] {
        let ledger = MemoryLedger::default();
        // Claims are in the memory of each process, and the ledger is shared.
        for n in 0..2 {
            let idempotency = Idempotency::builder().settings(explaining(encryption.clone())).build().unwrap();
            let wrap = IdempotencyKey::default().using(&idempotency).ledger(&ledger);
            let wrap = wrap.principal(|_| Some(Principal::new(SUBJECT)));
            let routes = App::new().wrap(wrap).route("/pay", web::post().to(pay_with_row));
            let app = init_service(routes.route("/none", web::post().to(HttpResponse::Created))).await;
            if n == 0 {
                explains_mismatches(&app).await;
                assert_eq!(pay(&app, "/none", "none", FIRST).await.0, 201);
            }
            differs(pay(&app, "/pay", KEY, r#"{"amount":1}"#).await, &["/amount"]);
            differs(pay(&app, "/none", "none", r#"{"amount":1}"#).await, &["/amount"]);
        }
        for row in ledger.list(None, 10).await.unwrap() {
            shows_nothing("a row", &row.record.to_bytes());
        }
    }
}

#[actix_web::test]
async fn without_the_setting_or_without_pairs_a_mismatch_is_not_explained() {
    let store = Shared::default();
    let off = service(&build(&store, settings(indexed())).unwrap()).await;
    let on = service(&build(&store, explaining(indexed())).unwrap()).await;
    assert_eq!(pay(&off, "/pay", "before", FIRST).await.0, 201);
    is_unexplained(pay(&off, "/pay", "before", "{}").await);
    is_unexplained(pay(&on, "/pay", "before", "{}").await);
    assert_eq!(pay(&on, "/pay", "after", FIRST).await.0, 201);
    is_unexplained(pay(&off, "/pay", "after", "{}").await);
    for (key, kind, body) in [
        ("text", "text/plain", FIRST.to_owned()),
        ("broken", "application/json", "{".to_owned()),
        ("many", "application/json", format!("[{}]", vec!["1"; 65].join(","))),
        ("large", "application/json", format!("\"{}\"", "x".repeat(64 << 10))),
    ] {
        assert_eq!(send_as(&on, "/pay", key, kind, &body).await.0, 201);
        is_unexplained(pay(&on, "/pay", key, "{}").await);
    }
}

#[actix_web::test]
async fn a_record_that_does_not_open_explains_nothing() {
    let store = Shared::default();
    let with = async |ring: &[(u16, u8)]| service(&build(&store, explaining(with_index(keys(ring), 9))).unwrap()).await;
    assert_eq!(pay(&with(&[(1, 1)]).await, "/pay", KEY, FIRST).await.0, 201);
    differs(pay(&with(&[(2, 2), (1, 1)]).await, "/pay", KEY, "{}").await, &[""]);
    is_unexplained(pay(&with(&[(2, 2)]).await, "/pay", KEY, "{}").await);
}

#[actix_web::test]
async fn while_the_first_request_runs_nothing_is_known_of_its_body() {
    for idempotency in [
        build(&Shared::default(), explaining(indexed())).unwrap(),
        Idempotency::builder().settings(explaining(indexed())).build().unwrap(),
    ] {
        let app = service(&idempotency).await;
        let mut first = Box::pin(pay(&app, "/never", KEY, FIRST));
        for _ in 0..20 {
            assert_eq!(first.as_mut().now_or_never(), None);
            actix_web::rt::task::yield_now().await;
        }
        is_unexplained(pay(&app, "/never", KEY, "{}").await);
    }
}

#[actix_web::test]
async fn ignored_members_are_not_named() {
    let mut settings = explaining(indexed());
    settings.encoder = "canonical-json".into();
    settings.fingerprint.ignore = vec!["/sent_at".into(), "/items/0".into()];
    let app = service(&build(&Shared::default(), settings).unwrap()).await;
    assert_eq!(pay(&app, "/pay", KEY, r#"{"sent_at":1,"items":[1,2],"n":1}"#).await.0, 201);
    assert_eq!(pay(&app, "/pay", KEY, r#"{"sent_at":2,"items":[9,2],"n":1}"#).await.0, 201, "a replay");
    let other = pay(&app, "/pay", KEY, r#"{"sent_at":3,"items":[8,3],"n":1}"#).await;
    differs(other, &["/items/1"]);
}

#[actix_web::test]
async fn a_shape_of_refusals_gets_the_differences() {
    let mut settings = explaining(indexed());
    settings.mismatch_status_code = actix_web::http::StatusCode::CONFLICT;
    let builder = Idempotency::builder().settings(settings).refusal(|refusal: &Refusal<'_>, response| {
        let named = refusal.differences.map(<[String]>::to_vec);
        response.set_body(json!({ "fields": named }).to_string()).map_into_boxed_body()
    });
    let app = service(&builder.build().unwrap()).await;
    assert_eq!(pay(&app, "/pay", KEY, FIRST).await.0, 201);
    let (status, body) = pay(&app, "/pay", KEY, r#"{"amount":1,"\"q\"\n":2}"#).await;
    assert_eq!((status, body), (409, json!({ "fields": ["/\"q\"\n", "/amount"] })));
}

#[actix_web::test]
async fn an_observed_request_leaves_no_pairs() {
    let store = Shared::default();
    let mut kept = Vec::new();
    for mut settings in [settings(indexed()), explaining(indexed())] {
        settings.mode = Mode::Observe;
        let idempotency = build(&store, settings).unwrap();
        let app = service(&idempotency).await;
        let key = format!("k{}", kept.len());
        assert_eq!(pay(&app, "/pay", &key, FIRST).await.0, 201);
        assert_eq!(pay(&app, "/pay", &key, "{}").await, (201, Value::Null));
        // An observed response is written in the background.
        idempotency.drain().await;
        let records = store.0.list(None, 10).await.unwrap().into_iter().filter_map(|seen| seen.record);
        kept = records.map(|record| record.len()).collect();
    }
    // The value of the check of the index key, and both records.
    kept.sort_unstable();
    assert_eq!((kept.len(), kept[1]), (3, kept[2]));
}

#[test]
fn without_an_index_key_it_is_a_mistake() {
    for encryption in [Encryption::default(), keys(&[(1, 1)])] {
        let built = Idempotency::builder().settings(explaining(encryption)).build();
        let Err(ConfigError::Combination(error)) = built else { panic!("{built:?}") };
        assert!(error.contains("`fingerprint.differences`") && error.contains("`encryption.index_key`"), "{error}");
    }
}

#[test]
fn the_member_is_described_where_there_is_one() {
    let described = |settings: &Settings| {
        let components = actix_idempotency::openapi::components(settings);
        let components: Value = serde_json::from_str(&components).unwrap();
        components["schemas"]["IdempotencyProblem"]["properties"]["differences"].clone()
    };
    assert!(described(&settings(indexed())).is_null());
    assert_eq!(described(&explaining(indexed()))["type"], "array");
}
