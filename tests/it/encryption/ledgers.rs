//! Rows of a ledger: sealed, opened by the same keys, and never run again where none opens them.

use actix_idempotency::{
    Idempotency, IdempotencyInfo, IdempotencyKey, Principal,
    ledger::{Dialect, Ledger as _, MemoryLedger, Tx},
    settings::{Encryption, SealingMode},
};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    test::init_service,
    web,
};
use parking_lot::Mutex;

use super::common::{BODY, HEADER, KEY, SUBJECT, ask, has_a_secret, has_no_secret, keys, settings, with_index};

type Seen = web::Data<Mutex<Vec<String>>>;

async fn pay(_: Tx<MemoryLedger>, seen: Seen) -> HttpResponse {
    seen.lock().push("run".into());
    HttpResponse::Created().insert_header(("x-secret", HEADER)).body(BODY)
}

/// Shows the statements of a row that it does not insert.
async fn by_hand(info: IdempotencyInfo, seen: Seen) -> Result<HttpResponse, Error> {
    let mut response = HttpResponse::Created().body(BODY);
    let entry = info.ledger_entry(&mut response)?;
    seen.lock().extend(entry.statements(Dialect::Postgres, "t"));
    Ok(response)
}

/// A process: its claims are its own, and the ledger is shared.
async fn service(
    ledger: &MemoryLedger,
    encryption: Encryption,
    seen: &Seen,
) -> (
    Idempotency,
    impl Service<actix_http::Request, Response = ServiceResponse<impl MessageBody + use<>>, Error = Error> + use<>,
) {
    let idempotency = Idempotency::builder().settings(settings(encryption)).build().unwrap();
    let wrap =
        IdempotencyKey::default().using(&idempotency).ledger(ledger).principal(|_| Some(Principal::new(SUBJECT)));
    let app = App::new()
        .app_data(seen.clone())
        .wrap(wrap)
        .route("/pay", web::post().to(pay))
        .route("/by-hand", web::post().to(by_hand));
    (idempotency, init_service(app).await)
}

fn client(mut encryption: Encryption) -> Encryption {
    encryption.mode = SealingMode::Client;
    encryption
}

async fn dump(ledger: &MemoryLedger) -> Vec<u8> {
    let rows = ledger.list(None, 100).await.unwrap();
    let dump = rows.iter().flat_map(|row| [format!("{row:?}").as_bytes(), &row.record.to_bytes()].concat());
    dump.collect()
}

#[actix_web::test]
async fn rows_are_sealed_and_other_processes_open_them() {
    for encryption in [keys(&[(1, 1)]), with_index(keys(&[(1, 1)]), 9), client(keys(&[(1, 1)]))] {
        let (ledger, seen) = (MemoryLedger::default(), Seen::default());
        let (_, app) = service(&ledger, encryption.clone(), &seen).await;
        assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
        has_no_secret("the ledger", &dump(&ledger).await);
        let (idempotency, app) = service(&ledger, encryption.clone(), &seen).await;
        assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
        assert_eq!(seen.lock().len(), 1);
        let listed = idempotency.list("default", None, 100).await.unwrap();
        assert_eq!(listed.len(), 1, "the values of the checks are no rows of requests");
        assert_eq!(listed[0].record.as_ref().unwrap().is_sealed(), encryption.mode == SealingMode::Client);
        assert_eq!(listed[0].id, idempotency.record_id("default", &Principal::new(SUBJECT), KEY));
        let found = idempotency.find("default", &Principal::new(SUBJECT), KEY).await.unwrap().unwrap();
        assert_eq!(found.record.unwrap().response().unwrap().body().unwrap(), BODY);
        assert_eq!(idempotency.forget_principal("default", &Principal::new(SUBJECT)).await.unwrap().removed, 1);
        assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    }
    let (ledger, seen) = (MemoryLedger::default(), Seen::default());
    let (_, app) = service(&ledger, Encryption::default(), &seen).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    has_a_secret("a plain ledger", &dump(&ledger).await);
}

#[actix_web::test]
async fn a_row_that_does_not_open_does_not_run() {
    let (ledger, seen) = (MemoryLedger::default(), Seen::default());
    let (_, app) = service(&ledger, keys(&[(1, 1)]), &seen).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    for other in [keys(&[(2, 2)]), keys(&[(1, 3)]), with_index(keys(&[(1, 1)]), 9), Encryption::default()] {
        let (_, app) = service(&ledger, other, &seen).await;
        let (status, problem, _) = ask(&app, "/pay", KEY).await;
        assert_eq!((status, problem.contains("store-unavailable")), (503, true), "{problem}");
        assert_eq!(seen.lock().len(), 1);
    }
    let (_, app) = service(&ledger, keys(&[(2, 2), (1, 1)]), &seen).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
}

#[actix_web::test]
async fn another_index_key_is_refused_unless_it_is_meant() {
    let (ledger, seen) = (MemoryLedger::default(), Seen::default());
    let (_, app) = service(&ledger, with_index(keys(&[(1, 1)]), 8), &seen).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    for other in [with_index(keys(&[(1, 1)]), 9), keys(&[(1, 1)]), Encryption::default()] {
        let (_, app) = service(&ledger, other, &seen).await;
        assert_eq!(ask(&app, "/pay", KEY).await.0, 503);
    }
    let mut meant = with_index(keys(&[(1, 1)]), 9);
    meant.index_key_is_new = true;
    let (_, app) = service(&ledger, meant, &seen).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false), "earlier rows are not found");
    let (_, app) = service(&ledger, with_index(keys(&[(1, 1)]), 8), &seen).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 503);
}

#[actix_web::test]
async fn a_row_by_hand_is_sealed_too() {
    for (encryption, is_plain) in [(keys(&[(1, 1)]), false), (Encryption::default(), true)] {
        let (ledger, seen) = (MemoryLedger::default(), Seen::default());
        let (_, app) = service(&ledger, encryption, &seen).await;
        assert_eq!(ask(&app, "/by-hand", KEY).await.0, 500, "nobody has inserted the row");
        let statements = seen.lock().concat();
        let hex = super::common::hex(BODY);
        assert_eq!(statements.contains(&hex), is_plain, "{statements}");
        has_no_secret("the statements", if is_plain { b"-" } else { statements.as_bytes() });
    }
}
