//! A first run and a replay with a ledger in PostgreSQL, against the same work by hand: `cargo xtask bench --ledger`.
//!
//! The limit of a first run is the same handler with the same business transaction and one more insert of a row of the same
//! size, without the middleware. The limit of a replay is a handler that selects a row of that size by its primary key. The
//! arms take turns in one run, so that the machine's mood falls on both.

#![allow(clippy::unwrap_used, clippy::unused_self, reason = "a benchmark may, and the tests use more of the cluster")]

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use actix_http::Request;
use actix_idempotency::{
    Idempotency, IdempotencyKey,
    key::{Fingerprint, RecordId},
    ledger::{Ledger as _, NewRow, Tx, Write},
    record::Record,
    store::OwnerToken,
};
use actix_idempotency_sqlx::{Error, Isolation, SqlxPostgres};
use actix_web::{
    App, HttpResponse,
    body::to_bytes,
    dev::{Service, ServiceResponse},
    http::StatusCode,
    test::{TestRequest, init_service},
    web,
};
use futures_util::future::join_all;
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use self::cluster::Cluster;

mod common {
    pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
}
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/databases/cluster.rs"]
mod cluster;

/// The size of an answer's body.
const BODY: usize = 1024;
const ROUNDS: usize = 15;

async fn pay(connection: &mut PgConnection, n: u32) -> Result<(), sqlx::Error> {
    let account = i32::try_from(n % 1000).unwrap_or_default();
    sqlx::query("UPDATE accounts SET balance = balance - 1 WHERE id = $1")
        .bind(account)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO payments (account, amount) VALUES ($1, 1)").bind(account).execute(connection).await?;
    Ok(())
}

fn answer() -> HttpResponse {
    HttpResponse::Created().body(vec![b'x'; BODY])
}

async fn with_ledger(mut tx: Tx<SqlxPostgres>, n: web::Path<u32>) -> Result<HttpResponse, Error> {
    pay(&mut tx, *n).await?;
    Ok(answer())
}

async fn by_hand(pool: web::Data<PgPool>, n: web::Path<u32>) -> Result<HttpResponse, Error> {
    let mut tx = pool.begin().await?;
    pay(&mut tx, *n).await?;
    let id = OwnerToken::random();
    sqlx::query("INSERT INTO answers (id, fingerprint, record) VALUES ($1, $2, $3)")
        .bind([id.as_bytes().as_slice(), id.as_bytes()].concat())
        .bind(&[0_u8; 42][..])
        .bind(vec![b'x'; BODY + 80])
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(answer())
}

async fn select(pool: web::Data<PgPool>) -> Result<HttpResponse, Error> {
    let record: Vec<u8> = sqlx::query_scalar("SELECT record FROM answers WHERE id = $1")
        .bind(&[7_u8; 32][..])
        .fetch_one(pool.get_ref())
        .await?;
    Ok(HttpResponse::Created().body(record))
}

/// Sends `each` requests from each of `clients` at the same time.
async fn send<S, B>(app: &S, clients: u32, each: u32, request: impl Fn(u32) -> Request) -> Duration
where
    S: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: actix_web::body::MessageBody,
{
    let request = &request;
    let started = Instant::now();
    let sent = (0..clients).map(|client| async move {
        for n in 0..each {
            let response = app.call(request(client * each + n)).await.expect("an answer");
            assert!(response.status().is_success(), "{}", response.status());
            let _ = to_bytes(response.into_body()).await;
        }
    });
    join_all(sent).await;
    started.elapsed()
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// How many times the WAL was synchronised so far.
async fn syncs(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT wal_sync FROM pg_stat_wal").fetch_one(pool).await.expect("a count")
}

async fn settled_syncs(pool: &PgPool) -> i64 {
    // A backend reports what it did when it has been idle for ten seconds.
    actix_web::rt::time::sleep(Duration::from_secs(12)).await;
    syncs(pool).await
}

/// Compares two arms. `first` and `second` send the requests of a round.
macro_rules! compare {
    ($name:literal, $each:literal, $goal:literal, $first:expr, $second:expr) => {{
        let (mut ratios, mut limits) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let first: Duration = $first;
            let second: Duration = $second;
            ratios.push(first.as_secs_f64() / second.as_secs_f64());
            limits.push(second.as_secs_f64() * 1e3);
        }
        let (ratio, limit) = (median(ratios), median(limits) / f64::from($each));
        println!("{}: {ratio:.2} times the limit, which is {limit:.2} ms (goal: {})", $name, $goal);
    }};
}

#[actix_web::main]
async fn main() {
    let Some(cluster) = Cluster::start() else { return };
    let url = cluster.new_database().await;
    let pool = PgPoolOptions::new().max_connections(16).connect(&url).await.expect("the database answers");
    let ledger = SqlxPostgres::new(pool.clone()).prepared(true);
    ledger.create_table().await.expect("a new table");
    create_tables(&pool).await;
    compare_with_the_limit(&pool, &ledger, 0).await;
    // As on a disk that takes 3 ms for a synchronisation: on a faster one the round trips weigh more than the commit.
    let slow: PgConnectOptions = url.parse().expect("a URL");
    let slow = slow.options([("commit_delay", "3000"), ("commit_siblings", "0")]);
    let slow = PgPoolOptions::new().max_connections(16).connect_with(slow).await.expect("the database answers");
    println!("with commits that take 3 ms longer:");
    compare_with_the_limit(&slow, &SqlxPostgres::new(slow.clone()).prepared(true), 1000).await;
    statements(&cluster, &url, &ledger).await;
    space(&pool, &ledger).await;
}

async fn create_tables(pool: &PgPool) {
    sqlx::raw_sql(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL); \
         INSERT INTO accounts SELECT n, 0 FROM generate_series(0, 999) AS n; \
         CREATE TABLE payments (id bigserial PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL); \
         CREATE TABLE answers (id bytea PRIMARY KEY, fingerprint bytea NOT NULL, record bytea NOT NULL); \
         INSERT INTO answers VALUES (decode(repeat('07', 32), 'hex'), '', decode(repeat('78', 1104), 'hex'))",
    )
    .execute(pool)
    .await
    .expect("new tables");
}

/// `series`: the first number of the keys, which no other comparison uses.
async fn compare_with_the_limit(pool: &PgPool, ledger: &SqlxPostgres, series: u32) {
    let app = init_service(
        App::new()
            .app_data(web::Data::new(pool.clone()))
            .route("/hand/{n}", web::post().to(by_hand))
            .route("/select", web::post().to(select))
            .service(
                web::scope("/ledger").route("/{n}", web::post().to(with_ledger)).wrap(
                    IdempotencyKey::default()
                        .using(&Idempotency::in_memory())
                        .ledger(ledger)
                        .configure(|settings| settings.conflict_status_code = None),
                ),
            ),
    )
    .await;
    let keyed =
        |path: String, key: String| TestRequest::post().uri(&path).insert_header(("idempotency-key", key)).to_request();
    let series = std::cell::Cell::new(series);
    let first_runs = |n: u32| keyed(format!("/ledger/{n}"), format!("{}-{n}", series.get()));
    let by_hand = |n: u32| TestRequest::post().uri(&format!("/hand/{n}")).to_request();
    let replays = |_: u32| keyed("/ledger/1".into(), "replayed".into());
    let selects = |_: u32| TestRequest::post().uri("/select").to_request();
    let next = || series.set(series.get() + 1);

    send(&app, 16, 20, |n| keyed(format!("/ledger/{n}"), format!("warm-{}-{n}", series.get()))).await;
    send(&app, 16, 20, by_hand).await;
    send(&app, 1, 1, replays).await;
    compare!(
        "first run, 1 connection, latency",
        100,
        "at most 1.15",
        {
            next();
            send(&app, 1, 100, first_runs).await
        },
        send(&app, 1, 100, by_hand).await
    );
    compare!(
        "first run, 16 connections, time a request",
        640,
        "at most 1.18, which is 0.85 of the throughput",
        {
            next();
            send(&app, 16, 40, first_runs).await
        },
        send(&app, 16, 40, by_hand).await
    );
    compare!(
        "replay, 1 connection, latency",
        300,
        "at most 1.3",
        send(&app, 1, 300, replays).await,
        send(&app, 1, 300, selects).await
    );
    compare!(
        "replay, 16 connections, time a request",
        1600,
        "at most 1.3",
        send(&app, 16, 100, replays).await,
        send(&app, 16, 100, selects).await
    );

    for (name, is_ledger) in [("by hand", false), ("with the ledger", true)] {
        next();
        let before = settled_syncs(pool).await;
        if is_ledger {
            send(&app, 1, 200, first_runs).await
        } else {
            send(&app, 1, 200, by_hand).await
        };
        println!("200 runs {name}: {} synchronisations of the WAL", settled_syncs(pool).await - before);
    }
}

/// The statement of a replay against a bare select, by pgbench.
async fn statements(cluster: &Cluster, url: &str, ledger: &SqlxPostgres) {
    let Some(pgbench) = cluster.program("pgbench") else {
        println!("the statement of a replay: NOT MEASURED: pgbench is missing");
        return;
    };
    let id = RecordId::from_bytes([9; 32]);
    commit(ledger, id).await;
    let hex = "09".repeat(32);
    let bare = format!("SELECT record FROM idempotency_ledger WHERE id = '\\\\x{hex}';\n").replace("\\\\", "\\");
    let look = format!("{};\n", ledger.look_statement(&id));
    let folder = std::env::temp_dir();
    let (bare_file, look_file) = (folder.join("bare.sql"), folder.join("look.sql"));
    fs::write(&bare_file, bare).expect("a file");
    fs::write(&look_file, look).expect("a file");
    let mut ratios = Vec::new();
    for _ in 0..5 {
        let (look, bare) = (latency(&pgbench, url, &look_file), latency(&pgbench, url, &bare_file));
        ratios.push(look / bare);
    }
    println!("the statement of a replay, by pgbench: {:.2} times a bare select (goal: at most 1.3)", median(ratios));
}

/// Milliseconds a transaction.
fn latency(pgbench: &Path, url: &str, script: &Path) -> f64 {
    let output = Command::new(pgbench)
        .args(["-n", "-T", "2", "-c", "1", "-f"])
        .arg(script)
        .arg(url)
        .output()
        .expect("pgbench starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("latency average = ")).expect("a latency");
    line.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

async fn commit(ledger: &SqlxPostgres, id: RecordId) {
    let look = ledger.look(&id).await.expect("an answer");
    let record = Record::new(StatusCode::CREATED, [], Some(&[b'x'; BODY]));
    let row = NewRow::new(id, Fingerprint::from_bytes([0; 42]), OwnerToken::random(), record, &look);
    let mut tx = ledger.begin(None, &Isolation::Default, Duration::from_secs(60)).await.expect("a transaction");
    assert!(matches!(ledger.write(&mut tx, &row).await, Ok(Write::Written)));
    ledger.commit(tx).await.expect("a commit");
}

async fn space(pool: &PgPool, ledger: &SqlxPostgres) {
    sqlx::raw_sql("TRUNCATE idempotency_ledger").execute(pool).await.expect("an empty table");
    for n in 0..2000_u32 {
        let mut id = [0; 32];
        id[..16].copy_from_slice(OwnerToken::random().as_bytes());
        id[16..20].copy_from_slice(&n.to_be_bytes());
        commit(ledger, RecordId::from_bytes(id)).await;
    }
    let bytes: i64 = sqlx::query_scalar("SELECT pg_total_relation_size('idempotency_ledger')")
        .fetch_one(pool)
        .await
        .expect("a size");
    println!("{} bytes on disk a record with a body of {BODY} bytes, indexes included", bytes / 2000);
}
