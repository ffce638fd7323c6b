//! A database with the tables of the recipes, and processes that serve them.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use actix_http::Request;
use actix_idempotency::{Idempotency, IdempotencyKey, Settings};
use actix_idempotency_recipes::{TABLES, diesel, seaorm, sqlx as by_hand, tokio_postgres};
use actix_idempotency_sqlx::SqlxPostgres;
use actix_web::{
    App, Error,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    rt::time::sleep,
    test::{TestRequest, call_service, init_service, read_body},
    web,
};
use deadpool_postgres::Runtime;
use diesel_async::{
    AsyncPgConnection,
    pooled_connection::{AsyncDieselConnectionManager, deadpool::Pool as DieselPool},
};
use sea_orm::ConnectOptions;
use sqlx::{PgPool, Postgres, Transaction, postgres::PgPoolOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    common::PATIENCE,
    databases::{Cluster, connect},
    undecided,
};

/// Each has a recipe of its own, under its own path.
pub(crate) const LIBRARIES: [&str; 4] = ["sqlx", "seaorm", "diesel", "tokio-postgres"];

/// How long a handler waits for a connection of its library.
const ACQUIRE: Duration = Duration::from_millis(500);

pub(crate) struct Shop {
    pub(crate) url: String,
    pub(crate) port: u16,
    pub(crate) pool: PgPool,
    ledger: SqlxPostgres,
    _permit: SemaphorePermit<'static>,
}

/// What a client gets.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) is_replay: bool,
    pub(crate) body: String,
}

impl Shop {
    /// `None`: PostgreSQL is not installed, which is printed.
    pub(crate) async fn open() -> Option<Self> {
        // The server has 60 connections.
        static TESTS: Semaphore = Semaphore::const_new(2);
        let permit = TESTS.acquire().await.unwrap();
        let Some(cluster) = Cluster::shared() else {
            // Not by `println!`, which the test runner captures.
            let _ = writeln!(io::stderr(), "SKIPPED: PostgreSQL is not installed; `cargo xtask test` installs it");
            return None;
        };
        let url = cluster.new_database().await;
        let pool = connect(&url, 3).await;
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        let ledger = SqlxPostgres::new(pool.clone());
        ledger.create_table().await.unwrap();
        Some(Self { url, port: cluster.port, pool, ledger, _permit: permit })
    }

    /// A process with claims of its own in memory, and pools of this size.
    pub(crate) async fn process(
        &self,
        size: u32,
    ) -> impl Service<Request, Response = ServiceResponse<impl MessageBody>, Error = Error> {
        self.process_at(&self.url, size).await
    }

    /// A process whose handlers use the database at this URL. The ledger does not.
    pub(crate) async fn process_at(
        &self,
        url: &str,
        size: u32,
    ) -> impl Service<Request, Response = ServiceResponse<impl MessageBody>, Error = Error> {
        let idempotency = Idempotency::builder().settings(Settings::ietf()).build().unwrap();
        let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(ACQUIRE).connect_lazy(url).unwrap();
        let mut options = ConnectOptions::new(url);
        options.max_connections(size).acquire_timeout(ACQUIRE).connect_lazy(true).sqlx_logging(false);
        let sea = sea_orm::Database::connect(options).await.unwrap();
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(url);
        let diesel_pool = DieselPool::builder(manager).max_size(size as usize);
        let diesel_pool = diesel_pool.wait_timeout(Some(ACQUIRE)).runtime(Runtime::Tokio1).build().unwrap();
        let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), ::tokio_postgres::NoTls);
        let tokio_pool = deadpool_postgres::Pool::builder(manager).max_size(size as usize);
        let tokio_pool = tokio_pool.wait_timeout(Some(ACQUIRE)).runtime(Runtime::Tokio1).build().unwrap();
        let app = App::new()
            .app_data(web::Data::new(pool))
            .app_data(web::Data::new(sea))
            .app_data(web::Data::new(diesel_pool))
            .app_data(web::Data::new(tokio_pool))
            .route("/sqlx/pay", by_hand::pay_route())
            .route("/seaorm/pay", seaorm::pay_route())
            .route("/diesel/pay", diesel::pay_route())
            .route("/tokio-postgres/pay", tokio_postgres::pay_route())
            .route("/sqlx/undecided/{status}", web::post().to(undecided::sqlx))
            .route("/seaorm/undecided/{status}", web::post().to(undecided::seaorm))
            .route("/diesel/undecided/{status}", web::post().to(undecided::diesel))
            .route("/tokio-postgres/undecided/{status}", web::post().to(undecided::tokio_postgres));
        init_service(app.wrap(IdempotencyKey::default().using(&idempotency).ledger(&self.ledger))).await
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn payments(&self) -> i64 {
        self.count("SELECT count(*) FROM payments").await
    }

    /// The number of rows in the ledger that have not expired.
    pub(crate) async fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM idempotency_ledger WHERE expires > clock_timestamp()").await
    }

    /// Until the transaction ends, every handler waits at its INSERT into `payments`.
    pub(crate) async fn gate(&self) -> Transaction<'static, Postgres> {
        let mut gate = self.pool.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE payments IN EXCLUSIVE MODE").execute(&mut *gate).await.unwrap();
        gate
    }

    pub(crate) async fn wait_for_handlers_at_the_gate(&self, n: i64) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'payments'::regclass AND NOT granted";
        self.wait_until(waiting, n).await;
    }

    pub(crate) async fn has_no_open_transaction(&self) {
        let open = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL";
        self.wait_until(open, 0).await;
    }

    async fn wait_until(&self, sql: &'static str, n: i64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.count(sql).await;
            if now == n {
                return;
            }
            assert!(Instant::now() < until, "still {now}, not {n}: {sql}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sends a request to a process.
pub(crate) async fn post(
    process: &impl Service<Request, Response = ServiceResponse<impl MessageBody>, Error = Error>,
    path: &str,
    key: &str,
    amount: i64,
) -> Answer {
    let order = serde_json::json!({ "amount": amount });
    let request = TestRequest::post().uri(path).insert_header(("idempotency-key", key)).set_json(order);
    let response = call_service(process, request.to_request()).await;
    Answer {
        status: response.status().as_u16(),
        is_replay: response.headers().contains_key("idempotent-replayed"),
        body: String::from_utf8(read_body(response).await.to_vec()).unwrap(),
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn is_first(&self) {
        assert_eq!((self.status, self.is_replay), (201, false), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn replays(&self, first: &Self) {
        assert_eq!((self.status, self.is_replay, &self.body), (first.status, true, &first.body), "{self:?}");
    }

    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, kind: &str) {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        let uri = problem["type"].as_str().unwrap();
        assert_eq!((self.status, uri.rsplit('/').next()), (status, Some(kind)), "{self:?}");
    }
}
