//! What commits and what rolls back, by the answer of a handler.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, ResponseExt as _,
    ledger::{MemoryLedger, TransactionError, Transactions, Tx},
};
use actix_web::{App, HttpResponse, http::StatusCode, test::init_service, web};
use serde::Deserialize;

use crate::common::in_process::{MARKER, alone, post, send};

/// Rows that were committed, and how often the handler ran.
#[derive(Clone, Default)]
struct Counts {
    rows: Arc<AtomicU32>,
    runs: Arc<AtomicU32>,
}

#[derive(Deserialize)]
struct How {
    status: u16,
    #[serde(default)]
    fail: String,
}

async fn by_tx(
    mut tx: Tx<MemoryLedger>,
    counts: web::Data<Counts>,
    how: web::Query<How>,
) -> Result<HttpResponse, TransactionError> {
    let rows = counts.rows.clone();
    tx.on_commit(move || {
        rows.fetch_add(1, SeqCst);
    });
    answer(&counts, &how)
}

async fn by_closure(
    db: Transactions<MemoryLedger>,
    counts: web::Data<Counts>,
    how: web::Query<How>,
) -> Result<HttpResponse, TransactionError> {
    db.run(async |tx| {
        let rows = counts.rows.clone();
        tx.on_commit(move || {
            rows.fetch_add(1, SeqCst);
        });
        answer(&counts, &how)
    })
    .await
}

fn answer(counts: &Counts, how: &How) -> Result<HttpResponse, TransactionError> {
    let run = counts.runs.fetch_add(1, SeqCst) + 1;
    let response = HttpResponse::build(StatusCode::from_u16(how.status).unwrap()).body(format!("run {run}"));
    match how.fail.as_str() {
        "error" => Err(TransactionError::Failed("on purpose".into())),
        "panic" => panic!("on purpose"),
        "unstored" => Ok(response.do_not_store()),
        _ => Ok(response),
    }
}

/// Sends a request twice with one key. Statuses, the second answer's marker, and what was committed.
fn twice(path: &'static str, statuses: [u16; 2], replayed: bool, rows: u32, runs: u32) {
    alone(move || async move {
        let counts = Counts::default();
        let ledger = MemoryLedger::default();
        let app = init_service(
            App::new()
                .app_data(web::Data::new(Idempotency::in_memory()))
                .app_data(web::Data::new(counts.clone()))
                .route("/tx", web::post().to(by_tx))
                .route("/closure", web::post().to(by_closure))
                .wrap(IdempotencyKey::default().ledger(&ledger).configure(|settings| {
                    settings.conflict_status_code = None;
                    settings.storage.store_on_statuses = "2xx,3xx,4xx".parse().unwrap();
                })),
        )
        .await;
        let (first, _, body) = send(&app, post(path, Some("k"))).await;
        let (second, headers, again) = send(&app, post(path, Some("k"))).await;
        let text = format!("{path}: {:?} {:?}", String::from_utf8_lossy(&body), String::from_utf8_lossy(&again));
        assert_eq!([first.as_u16(), second.as_u16()], statuses, "{text}");
        assert_eq!(headers.contains_key(MARKER), replayed, "{text}");
        assert_eq!(body == again && replayed, replayed, "{text}");
        assert_eq!((counts.rows.load(SeqCst), counts.runs.load(SeqCst)), (rows, runs), "{text}");
    });
}

#[test]
fn a_success_is_committed_with_its_answer() {
    for path in ["/tx?status=201", "/closure?status=201", "/tx?status=303", "/closure?status=303"] {
        let status = path[path.len() - 3..].parse().unwrap();
        twice(path, [status, status], true, 1, 1);
    }
}

#[test]
fn a_refusal_of_the_handler_rolls_back_and_its_status_decides_on_a_row() {
    for path in ["/tx?status=409", "/closure?status=409"] {
        twice(path, [409, 409], true, 0, 1);
    }
    for path in ["/tx?status=503", "/closure?status=503"] {
        twice(path, [503, 503], false, 0, 2);
    }
}

#[test]
fn an_error_and_a_panic_roll_back_and_free_the_key() {
    for path in ["/tx?status=201&fail=error", "/closure?status=201&fail=error"] {
        twice(path, [500, 500], false, 0, 2);
    }
    for path in ["/tx?status=201&fail=panic", "/closure?status=201&fail=panic"] {
        twice(path, [500, 500], false, 0, 2);
    }
}

#[test]
fn a_success_that_must_not_be_recorded_is_rolled_back() {
    for path in ["/tx?status=201&fail=unstored", "/closure?status=201&fail=unstored"] {
        twice(path, [500, 500], false, 0, 2);
    }
}
