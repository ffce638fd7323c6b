//! The ledger in PostgreSQL.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use actix_idempotency::{
    Idempotency, IdempotencyKey,
    key::{Fingerprint, RecordId},
    ledger::{Ledger as _, LedgerError, NewRow, Transactions, Tx, Write},
    record::Record,
    store::OwnerToken,
    testing::accept_ledger,
};
use actix_idempotency_sqlx::{Error, Isolation, SqlxPostgres};
use actix_web::{
    App, FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    error::ErrorImATeapot,
    http::StatusCode,
    test::{TestRequest, call_service, init_service},
    web,
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::databases::{Bouncer, Cluster, connect};

const RUN: Duration = Duration::from_secs(60);

/// A ledger in a new database with a table `effects`.
async fn ledger(pool: &PgPool) -> SqlxPostgres {
    of(pool, SqlxPostgres::new(pool.clone())).await
}

async fn of(pool: &PgPool, ledger: SqlxPostgres) -> SqlxPostgres {
    ledger.create_table().await.unwrap();
    sqlx::raw_sql("CREATE TABLE effects (key text NOT NULL)").execute(pool).await.unwrap();
    ledger
}

async fn effects(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM effects").persistent(false).fetch_one(pool).await.unwrap()
}

fn id(n: u8) -> RecordId {
    RecordId::from_bytes([n; 32])
}

fn record(body: &str) -> Record {
    Record::new(StatusCode::CREATED, [], Some(body.as_bytes()))
}

async fn new_row(ledger: &SqlxPostgres, n: u8, body: &str) -> NewRow {
    let look = ledger.look(&id(n)).await.unwrap();
    NewRow::new(id(n), Fingerprint::from_bytes([n; 42]), OwnerToken::random(), record(body), &look)
}

async fn committed(ledger: &SqlxPostgres, row: &NewRow) -> Write {
    let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
    let written = ledger.write(&mut tx, row).await.unwrap();
    match written {
        Write::Written => ledger.commit(tx).await.unwrap(),
        _ => ledger.rollback(tx).await,
    }
    written
}

#[actix_web::test]
async fn a_handler_that_commits_itself_is_noticed() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(2).await;
    let ledger = ledger(&pool).await.prepared(true);
    for end in ["COMMIT", "COMMIT; BEGIN", "ROLLBACK; BEGIN"] {
        let row = new_row(&ledger, 1, "a").await;
        let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
        sqlx::raw_sql(end).execute(&mut *tx).await.unwrap();
        assert!(matches!(ledger.write(&mut tx, &row).await, Ok(Write::Misused)), "{end}");
        ledger.rollback(tx).await;
        let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
        sqlx::raw_sql(end).execute(&mut *tx).await.unwrap();
        assert!(ledger.probe(&mut tx).await.is_err(), "{end}");
        ledger.rollback(tx).await;
    }
    assert!(ledger.look(&id(1)).await.unwrap().row.is_none());
}

#[actix_web::test]
async fn a_transaction_with_a_failed_statement_is_never_taken_for_committed() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(2).await;
    let ledger = ledger(&pool).await;
    let row = new_row(&ledger, 1, "a").await;
    let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
    sqlx::raw_sql("SELECT 1 / 0").execute(&mut *tx).await.unwrap_err();
    assert!(matches!(ledger.write(&mut tx, &row).await, Err(LedgerError::Refused(_))));
    ledger.rollback(tx).await;
    let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
    sqlx::raw_sql("SELECT 1 / 0").execute(&mut *tx).await.unwrap_err();
    assert!(ledger.probe(&mut tx).await.is_err());
}

#[actix_web::test]
async fn stricter_isolation_says_conflict_where_a_row_is_taken() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(4).await;
    let ledger = ledger(&pool).await;
    for (n, isolation) in [(1, Isolation::RepeatableRead), (2, Isolation::Serializable)] {
        let (first, second) = (new_row(&ledger, n, "a").await, new_row(&ledger, n, "b").await);
        let mut tx = ledger.begin(None, &isolation, RUN).await.unwrap();
        // Takes the snapshot.
        sqlx::raw_sql("SELECT count(*) FROM effects").execute(&mut *tx).await.unwrap();
        assert!(matches!(committed(&ledger, &first).await, Write::Written));
        let written = ledger.write(&mut tx, &second).await;
        assert!(matches!(written, Err(LedgerError::Conflict(_))), "{isolation:?}: {written:?}");
        ledger.rollback(tx).await;
        let settled = ledger.settle(&id(n), RUN).await.unwrap().row.unwrap();
        assert_eq!(settled.token, first.token);
    }
}

#[actix_web::test]
async fn without_its_table_the_check_prints_the_definition() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(1).await;
    let ledger = SqlxPostgres::new(pool.clone()).table("shop.Our ledger");
    let error = ledger.check().await.unwrap_err().to_string();
    assert!(error.contains("CREATE TABLE IF NOT EXISTS \"shop\".\"Our ledger\""), "{error}");
    sqlx::raw_sql("CREATE SCHEMA shop").execute(&pool).await.unwrap();
    ledger.create_table().await.unwrap();
    ledger.check().await.unwrap();
}

#[actix_web::test]
async fn without_the_right_to_write_the_check_fails() {
    let Some(cluster) = Cluster::shared() else { return };
    let url = cluster.new_database().await;
    let pool = connect(&url, 1).await;
    let ledger = ledger(&pool).await;
    for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
        let role = format!("without_{}", right.to_lowercase());
        let rights = ["SELECT", "INSERT", "UPDATE", "DELETE"].into_iter().filter(|other| *other != right);
        let rights = rights.collect::<Vec<_>>().join(", ");
        let sql = format!("CREATE ROLE {role} LOGIN; GRANT {rights} ON idempotency_ledger TO {role}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        let restricted = connect(&url.replace("postgres@", &format!("{role}@")), 1).await;
        assert!(SqlxPostgres::new(restricted).check().await.is_err(), "{right}");
    }
    ledger.check().await.unwrap();
}

#[actix_web::test]
async fn a_shorter_limit_of_the_role_for_idle_transactions_stays() {
    let Some(cluster) = Cluster::shared() else { return };
    for (limit, expected) in [("0", "1min"), ("5s", "5s"), ("2h", "1min")] {
        let url = cluster.new_database().await;
        let name = url.rsplit('/').next().unwrap();
        let admin = connect(&url, 1).await;
        let sql = format!("ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '{limit}'");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&admin).await.unwrap();
        let ledger = SqlxPostgres::new(connect(&url, 1).await);
        let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
        let shown: String =
            sqlx::query_scalar("SHOW idle_in_transaction_session_timeout").fetch_one(&mut *tx).await.unwrap();
        assert_eq!(shown, expected);
    }
}

#[actix_web::test]
async fn it_passes_the_acceptance_suite_at_every_isolation_level() {
    let Some(cluster) = Cluster::shared() else { return };
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        accept_ledger(async || {
            let is_prepared = isolation != Isolation::RepeatableRead;
            let ledger = SqlxPostgres::new(cluster.pool(4).await).isolation(isolation).prepared(is_prepared);
            ledger.create_table().await.unwrap();
            ledger
        })
        .await;
    }
}

/// The row is there and expired; a run that may replace it has done so and not committed yet.
#[actix_web::test]
async fn settle_waits_for_the_replacement_of_an_expired_row() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(4).await;
    let ledger = ledger(&pool).await;
    let first = new_row(&ledger, 1, "a").await;
    committed(&ledger, &first).await;
    sqlx::raw_sql("UPDATE idempotency_ledger SET expires = clock_timestamp()").execute(&pool).await.unwrap();
    let second = new_row(&ledger, 1, "b").await;
    assert_eq!(second.over, Some(first.token));
    let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
    assert!(matches!(ledger.write(&mut tx, &second).await, Ok(Write::Written)));
    let early = ledger.settle(&id(1), Duration::from_millis(50)).await;
    assert!(matches!(early, Err(LedgerError::Conflict(_))), "{early:?}");
    let id = id(1);
    let (settled, ()) = tokio::join!(ledger.settle(&id, RUN), async { ledger.commit(tx).await.unwrap() });
    assert_eq!(settled.unwrap().row.unwrap().token, second.token);
}

/// A row that was replaced by a run with the same token, and lives, is not replaced again.
#[actix_web::test]
async fn a_live_row_is_never_replaced() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(2).await;
    let ledger = ledger(&pool).await;
    let first = new_row(&ledger, 1, "a").await;
    committed(&ledger, &first).await;
    let mut late = new_row(&ledger, 1, "b").await;
    late.over = Some(first.token);
    assert!(matches!(committed(&ledger, &late).await, Write::Taken(row) if row.token == first.token));
}

#[actix_web::test]
async fn forget_waits_for_a_row_that_is_about_to_be_committed_and_tells_of_it() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(4).await;
    let ledger = ledger(&pool).await;
    let row = new_row(&ledger, 1, "a").await;
    let mut tx = ledger.begin(None, &Isolation::Default, RUN).await.unwrap();
    ledger.write(&mut tx, &row).await.unwrap();
    let id = id(1);
    let (forgotten, ()) = tokio::join!(ledger.forget(&id), async {
        // Until the other one waits for this transaction.
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while sqlx::query_scalar::<_, i64>(waits).persistent(false).fetch_one(&pool).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        ledger.commit(tx).await.unwrap();
    });
    assert!(forgotten.unwrap());
    let look = ledger.look(&id).await.unwrap();
    assert!(look.row.is_none() && look.over.is_some() && look.over != Some(row.token));
}

async fn pay(mut tx: Tx<SqlxPostgres>) -> Result<HttpResponse, Error> {
    sqlx::query("INSERT INTO effects (key) VALUES ('k')").persistent(false).execute(&mut **tx).await?;
    Ok(HttpResponse::Created().body("paid"))
}

async fn transfer(db: Transactions<SqlxPostgres>) -> Result<HttpResponse, Error> {
    db.with(Isolation::Serializable)
        .run(async |tx| {
            sqlx::query("INSERT INTO effects (key) VALUES ('k')").persistent(false).execute(&mut **tx).await?;
            Ok(HttpResponse::Created().body("paid"))
        })
        .await
}

/// Pays by both forms, twice each with one key.
async fn pays_once(pool: &PgPool, ledger: &SqlxPostgres) {
    let app = init_service(
        App::new()
            .route("/pay", web::post().to(pay))
            .route("/transfer", web::post().to(transfer))
            .wrap(IdempotencyKey::default().using(&Idempotency::in_memory()).ledger(ledger)),
    )
    .await;
    let post =
        |path: &str| TestRequest::post().uri(path).insert_header(("idempotency-key", path.to_owned())).to_request();
    for path in ["/pay", "/transfer"] {
        assert_eq!(call_service(&app, post(path)).await.status(), 201);
        let again = call_service(&app, post(path)).await;
        assert!(again.headers().contains_key("idempotent-replayed"));
    }
    assert_eq!(effects(pool).await, 2);
}

#[actix_web::test]
async fn a_pool_of_one_connection_is_enough() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(1).await;
    pays_once(&pool, &ledger(&pool).await).await;
    let pool = cluster.pool(1).await;
    pays_once(&pool, &of(&pool, SqlxPostgres::new(pool.clone()).prepared(true)).await).await;
}

#[actix_web::test]
async fn a_look_gives_its_connection_back_to_a_handler_that_uses_the_pool_before_its_transaction() {
    async fn pay(
        pool: web::Data<PgPool>,
        transactions: Transactions<SqlxPostgres>,
    ) -> Result<HttpResponse, actix_web::Error> {
        let price: i32 = sqlx::query_scalar("SELECT 7").fetch_one(pool.get_ref()).await.map_err(ErrorImATeapot)?;
        let paid = transactions.run(async |tx| {
            sqlx::query("INSERT INTO effects VALUES ('paid')").execute(&mut **tx).await?;
            Ok::<_, Error>(HttpResponse::Created().body(price.to_string()))
        });
        Ok(paid.await?)
    }
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(1).await;
    let ledger = ledger(&pool).await;
    let app = init_service(
        App::new()
            .app_data(web::Data::new(pool.clone()))
            .route("/pay", web::post().to(pay))
            .wrap(IdempotencyKey::default().using(&Idempotency::in_memory()).ledger(&ledger)),
    )
    .await;
    let post = TestRequest::post().uri("/pay").insert_header(("idempotency-key", "one")).to_request();
    let paid = tokio::time::timeout(Duration::from_secs(5), call_service(&app, post)).await;
    assert_eq!(paid.expect("no wait for a connection that a look keeps").status(), 201);
    assert_eq!(effects(&pool).await, 1);
}

#[actix_web::test]
async fn a_pooling_proxy_in_transaction_mode_is_enough() {
    let Some(cluster) = Cluster::shared() else { return };
    let Some(bouncer) = Bouncer::start(cluster) else { return };
    let pool = connect(&bouncer.through(&cluster.new_database().await), 3).await;
    let ledger = ledger(&pool).await;
    pays_once(&pool, &ledger).await;
    let row = new_row(&ledger, 1, "a").await;
    assert!(matches!(committed(&ledger, &row).await, Write::Written));
    assert_eq!(ledger.settle(&id(1), RUN).await.unwrap().row.unwrap().token, row.token);
    assert!(ledger.forget(&id(1)).await.unwrap());
    assert!(ledger.list(None, 10).await.unwrap().iter().all(|row| row.id != id(1)));
}

/// An extractor that fails at once, or after it was pending.
struct Fails<const LATER: bool>;

impl<const LATER: bool> FromRequest for Fails<LATER> {
    type Error = actix_web::Error;
    type Future = futures_util::future::Either<Ready<Result<Self, Self::Error>>, LaterError<Self>>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> Self::Future {
        let refused = || Err(ErrorImATeapot("no"));
        if LATER {
            futures_util::future::Either::Right(Box::pin(async move {
                tokio::task::yield_now().await;
                refused()
            }))
        } else {
            futures_util::future::Either::Left(ready(refused()))
        }
    }
}

type LaterError<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, actix_web::Error>>>>;

/// A cancelled BEGIN would leave its connection in a transaction.
#[actix_web::test]
async fn extractors_that_fail_beside_a_transaction_leave_no_connection_in_one() {
    let Some(cluster) = Cluster::shared() else { return };
    let pool = cluster.pool(1).await;
    let ledger = ledger(&pool).await;
    let app = init_service(
        App::new()
            .route("/before", web::post().to(async |_: Fails<false>, _: Tx<SqlxPostgres>| HttpResponse::Ok()))
            .route("/behind", web::post().to(async |_: Tx<SqlxPostgres>, _: Fails<false>| HttpResponse::Ok()))
            .route("/later", web::post().to(async |_: Tx<SqlxPostgres>, _: Fails<true>| HttpResponse::Ok()))
            .route("/pay", web::post().to(pay))
            .wrap(IdempotencyKey::default().using(&Idempotency::in_memory()).ledger(&ledger)),
    )
    .await;
    for n in 0..1000 {
        let path = ["/before", "/behind", "/later"][n % 3];
        let request = TestRequest::post().uri(path).insert_header(("idempotency-key", format!("k{n}")));
        assert_eq!(call_service(&app, request.to_request()).await.status(), 418, "{path}");
    }
    let request = TestRequest::post().uri("/pay").insert_header(("idempotency-key", "k"));
    assert_eq!(call_service(&app, request.to_request()).await.status(), 201);
    assert_eq!(effects(&pool).await, 1);
}
