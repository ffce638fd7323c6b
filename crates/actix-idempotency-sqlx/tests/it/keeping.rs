//! How long a row is kept, when its handler says so.

use std::time::Duration;

use actix_idempotency::{
    Idempotency, IdempotencyKey, ResponseExt as _, Settings,
    ledger::{Ledger, TransactionError, Transactions, Tx},
};
use actix_idempotency_sqlx::{SqlxPostgres, SqlxSqlite};
use actix_web::{
    App, HttpResponse,
    test::{TestRequest, call_service, init_service},
    web,
};
use sqlx::sqlite::SqliteJournalMode;

use crate::{databases::Cluster, sqlite::Files};

fn paid(seconds: &str) -> HttpResponse {
    HttpResponse::Created().body("paid").keep_for(Duration::from_secs(seconds.parse().unwrap()))
}

async fn by_tx<L: Ledger>(_: Tx<L>, seconds: String) -> HttpResponse {
    paid(&seconds)
}

async fn by_closure<L: Ledger>(db: Transactions<L>, seconds: String) -> Result<HttpResponse, TransactionError> {
    db.run(async |_| Ok::<_, TransactionError>(paid(&seconds))).await
}

/// Pays for each time, and looks how long its row is kept. The settings say a day, and two days at most.
async fn rows_are_kept_as_their_handlers_say<L: Ledger>(ledger: L) {
    let mut settings = Settings::ietf();
    settings.storage.max_ttl = Some(Duration::from_secs(2 * 24 * 60 * 60));
    let idempotency = Idempotency::builder().settings(settings).build().unwrap();
    let wrap = IdempotencyKey::default().using(&idempotency).ledger(&ledger);
    let app = App::new().wrap(wrap).route("/tx", web::post().to(by_tx::<L>));
    let app = init_service(app.route("/closure", web::post().to(by_closure::<L>))).await;
    let is_replay = async |path: &'static str, seconds: &'static str| {
        let key = format!("{path}-{seconds}").replace('/', "");
        let request = TestRequest::post().uri(path).insert_header(("idempotency-key", key)).set_payload(seconds);
        let response = call_service(&app, request.to_request()).await;
        assert_eq!(response.status(), 201);
        response.headers().contains_key("idempotent-replayed")
    };
    for path in ["/tx", "/closure"] {
        for (asked, kept) in [("1", 1), ("7200", 7200), ("604800", 172_800)] {
            assert!(!is_replay(path, asked).await && is_replay(path, asked).await);
            let rows = ledger.list(None, 9).await.unwrap();
            let is_kept =
                |left: Duration| left <= Duration::from_secs(kept) && left + SLACK >= Duration::from_secs(kept);
            assert_eq!(rows.iter().filter(|row| is_kept(row.remaining)).count(), 1, "{path}, {asked}: {rows:?}");
            if kept == 1 {
                tokio::time::sleep(Duration::from_millis(1100)).await;
                assert!(ledger.list(None, 9).await.unwrap().iter().all(|row| !is_kept(row.remaining)));
                assert!(!is_replay(path, asked).await, "the row has expired");
            }
            for row in ledger.list(None, 9).await.unwrap() {
                ledger.forget(&row.id).await.unwrap();
            }
        }
    }
}

/// How long a look at the rows may take.
const SLACK: Duration = Duration::from_secs(10);

#[actix_web::test]
async fn in_postgres() {
    let Some(cluster) = Cluster::shared() else { return };
    let ledger = SqlxPostgres::new(cluster.pool(4).await);
    ledger.create_table().await.unwrap();
    rows_are_kept_as_their_handlers_say(ledger).await;
}

#[actix_web::test]
async fn in_sqlite() {
    let files = Files::default();
    let ledger = SqlxSqlite::new(files.pool(SqliteJournalMode::Wal).await);
    ledger.create_table().await.unwrap();
    rows_are_kept_as_their_handlers_say(ledger).await;
}
