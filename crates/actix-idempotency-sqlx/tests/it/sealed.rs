//! Rows that are sealed: whoever reads the database finds no key, no principal and no response, and a row that does not
//! open keeps its operation from running.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use actix_http::Request;
use actix_idempotency::{
    Idempotency, IdempotencyKey, Principal, Settings,
    ledger::{Ledger, Tx},
    settings::{Encryption, SealingKey, SealingMode, SecretSource},
};
use actix_idempotency_sqlx::{SqlxPostgres, SqlxSqlite};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    test::{TestRequest, init_service},
    web,
};
use sqlx::{AssertSqlSafe, PgPool, Row as _, sqlite::SqliteJournalMode};

use crate::{common::fresh_key, databases::Cluster, sqlite::Files};

/// The secrets that a database must not show, different in each test: its tables may lie in one file.
struct Secrets {
    key: String,
    principal: String,
    header: String,
    body: String,
    payload: String,
}

impl Secrets {
    fn new() -> Self {
        let of = |what: &str| format!("{what}-of-alice-{}", fresh_key());
        Self { key: of("key"), principal: of("name"), header: of("header"), body: of("body"), payload: of("payload") }
    }

    /// The secrets that are in the bytes: as they are, in other letters, as hexadecimal digits or as base64.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text));
        let all = [&self.key, &self.principal, &self.header, &self.body, &self.payload];
        let found = all.into_iter().filter(|secret| {
            let hex = secret.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            has(secret.as_bytes()) || has(hex.as_bytes()) || (0..3).any(|skip| has(&base64(&secret.as_bytes()[skip..])))
        });
        found.map(String::as_str).collect()
    }
}

/// The digits of base64 for the whole groups of three bytes.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.as_chunks::<3>().0.iter().map(|[a, b, c]| u32::from_be_bytes([0, *a, *b, *c]));
    groups.flat_map(|bits| [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize])).collect()
}

fn keys(keys: &[(u16, u8)]) -> Encryption {
    let mut encryption = Encryption::default();
    encryption.keys = keys.iter().map(|(id, byte)| SealingKey::new(*id, SecretSource::given([*byte; 32]))).collect();
    encryption.index_key = Some(SecretSource::given([99; 32]));
    encryption
}

fn client(mut encryption: Encryption) -> Encryption {
    encryption.mode = SealingMode::Client;
    encryption
}

/// A database with a ledger, and a look into all of it.
trait Database {
    type Ledger: Ledger;

    fn ledger(&self) -> &Self::Ledger;

    /// Everything that the database has: the columns as they are and as text, and the files of the table.
    async fn dump(&self) -> Vec<u8>;

    /// The row of the request, without those of the checks of keys.
    async fn row(&self) -> Vec<u8>;
}

struct InPostgres(PgPool, SqlxPostgres);

impl Database for InPostgres {
    type Ledger = SqlxPostgres;

    fn ledger(&self) -> &SqlxPostgres {
        &self.1
    }

    async fn dump(&self) -> Vec<u8> {
        let rows = "SELECT id, fingerprint, token, principal_tag, record, t::text FROM idempotency_ledger t";
        let mut dump = Vec::new();
        for row in sqlx::query(rows).fetch_all(&self.0).await.unwrap() {
            for column in 0..5 {
                dump.extend(row.get::<Vec<u8>, _>(column));
            }
            dump.extend(row.get::<String, _>(5).into_bytes());
        }
        sqlx::raw_sql("CHECKPOINT").execute(&self.0).await.unwrap();
        for name in ["idempotency_ledger", "idempotency_ledger_pkey", "idempotency_ledger_expires"] {
            let file = format!("SELECT pg_read_binary_file(pg_relation_filepath('{name}'))");
            dump.extend(sqlx::query_scalar::<_, Vec<u8>>(AssertSqlSafe(file)).fetch_one(&self.0).await.unwrap());
        }
        dump
    }

    async fn row(&self) -> Vec<u8> {
        let row = "SELECT t::text FROM idempotency_ledger t WHERE substr(fingerprint, 1, 2) <> '\\x0000'";
        sqlx::query_scalar::<_, String>(row).fetch_one(&self.0).await.unwrap().into_bytes()
    }
}

struct InSqlite(sqlx::SqlitePool, SqlxSqlite);

impl Database for InSqlite {
    type Ledger = SqlxSqlite;

    fn ledger(&self) -> &SqlxSqlite {
        &self.1
    }

    async fn dump(&self) -> Vec<u8> {
        let rows = "SELECT id, fingerprint, token, principal_tag, record FROM idempotency_ledger";
        let mut dump = Vec::new();
        for row in sqlx::query(rows).fetch_all(&self.0).await.unwrap() {
            for column in 0..5 {
                dump.extend(row.get::<Vec<u8>, _>(column));
            }
        }
        let file = self.0.connect_options().get_filename().display().to_string();
        let wal = std::fs::read(format!("{file}-wal")).unwrap();
        assert!(!wal.is_empty(), "the rows are in the log");
        dump.extend(wal);
        sqlx::raw_sql("PRAGMA wal_checkpoint(FULL)").execute(&self.0).await.unwrap();
        dump.extend(std::fs::read(file).unwrap());
        dump
    }

    async fn row(&self) -> Vec<u8> {
        let row = "SELECT concat(hex(id), hex(fingerprint), hex(token), attempt, hex(principal_tag), born, expires, \
                   hex(record)) FROM idempotency_ledger WHERE substr(fingerprint, 1, 2) <> x'0000'";
        sqlx::query_scalar::<_, String>(row).fetch_one(&self.0).await.unwrap().into_bytes()
    }
}

/// A process over a database.
struct Process {
    idempotency: Idempotency,
    runs: web::Data<AtomicU32>,
    secrets: web::Data<Secrets>,
}

impl Process {
    fn new(encryption: Encryption, before: Option<&Self>) -> Self {
        let mut settings = Settings::ietf();
        settings.encryption = encryption;
        let idempotency = Idempotency::builder().settings(settings).build().unwrap();
        let (runs, secrets) = match before {
            Some(before) => (before.runs.clone(), before.secrets.clone()),
            None => (web::Data::default(), web::Data::new(Secrets::new())),
        };
        Self { idempotency, runs, secrets }
    }

    async fn service<L: Ledger>(
        &self,
        ledger: &L,
    ) -> impl Service<Request, Response = ServiceResponse<impl MessageBody + use<L>>, Error = Error> + use<L> {
        async fn pay<L: Ledger>(
            _: Tx<L>,
            body: String,
            runs: web::Data<AtomicU32>,
            secrets: web::Data<Secrets>,
        ) -> HttpResponse {
            assert_eq!(body, secrets.payload);
            runs.fetch_add(1, SeqCst);
            HttpResponse::Created().insert_header(("x-header", secrets.header.as_str())).body(secrets.body.clone())
        }
        let principal = self.secrets.principal.clone();
        let wrap = IdempotencyKey::default()
            .using(&self.idempotency)
            .ledger(ledger)
            .principal(move |_| Some(Principal::new(&principal)));
        let app = App::new().app_data(self.runs.clone()).app_data(self.secrets.clone()).wrap(wrap);
        init_service(app.route("/pay", web::post().to(pay::<L>))).await
    }

    /// Pays. The status, and whether the answer is the handler's.
    async fn pays<L: Ledger>(&self, ledger: &L, is_replay: bool) -> u16 {
        let app = self.service(ledger).await;
        let request = TestRequest::post().uri("/pay").insert_header(("idempotency-key", self.secrets.key.as_str()));
        let response = app.call(request.set_payload(self.secrets.payload.clone()).to_request()).await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers().contains_key("idempotent-replayed"), is_replay && status == 201);
        let header = response.headers().get("x-header").cloned();
        let Ok(body) = actix_web::body::to_bytes(response.into_body()).await else { panic!("the body broke off") };
        if status == 201 {
            assert_eq!(header.unwrap(), self.secrets.header.as_str());
            assert_eq!(body, self.secrets.body);
        } else {
            assert!(body.windows(17).any(|part| part == b"store-unavailable"), "{body:?}");
        }
        status
    }
}

async fn a_dump_has_no_secret<D: Database>(new: impl AsyncFn() -> D) {
    for encryption in [keys(&[(1, 1)]), client(keys(&[(1, 1)]))] {
        let (database, process) = (new().await, Process::new(encryption.clone(), None));
        assert_eq!(process.pays(database.ledger(), false).await, 201);
        assert_eq!(process.pays(database.ledger(), true).await, 201);
        assert_eq!(process.secrets.found_in(&database.dump().await), [""; 0]);
        let other = Process::new(encryption, Some(&process));
        assert_eq!(other.pays(database.ledger(), true).await, 201);
        assert_eq!(process.runs.load(SeqCst), 1);
    }
    // The search finds what is there.
    let (database, process) = (new().await, Process::new(Encryption::default(), None));
    assert_eq!(process.pays(database.ledger(), false).await, 201);
    let secrets = &process.secrets;
    assert_eq!(secrets.found_in(&database.dump().await), [&secrets.header, &secrets.body]);
    assert_eq!(secrets.found_in(&base64(format!("-{}", secrets.key).as_bytes())), [&secrets.key]);
}

async fn a_row_opens_with_its_key_or_not_at_all<D: Database>(new: impl AsyncFn() -> D) {
    let (database, first) = (new().await, Process::new(keys(&[(1, 1)]), None));
    let ledger = database.ledger();
    assert_eq!(first.pays(ledger, false).await, 201);
    let row = database.row().await;
    for encryption in [keys(&[(2, 2)]), client(keys(&[(2, 2)])), keys(&[])] {
        let without = Process::new(encryption, Some(&first));
        assert_eq!(without.pays(ledger, true).await, 503);
        assert_eq!(without.pays(ledger, true).await, 503);
    }
    for encryption in [keys(&[(1, 1), (2, 2)]), keys(&[(2, 2), (1, 1)]), client(keys(&[(2, 2), (1, 1)]))] {
        assert_eq!(Process::new(encryption, Some(&first)).pays(ledger, true).await, 201, "a rotated key opens");
    }
    assert_eq!((first.runs.load(SeqCst), database.row().await == row), (1, true), "the row is as it was");
}

async fn the_clients_key_is_needed_too<D: Database>(new: impl AsyncFn() -> D) {
    let (database, process) = (new().await, Process::new(client(keys(&[(1, 1)])), None));
    assert_eq!(process.pays(database.ledger(), false).await, 201);
    let (idempotency, secrets) = (&process.idempotency, &process.secrets);
    let listed = idempotency.list("default", None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|seen| seen.record.as_ref().unwrap().is_sealed()).collect::<Vec<_>>(), [true]);
    let principal = Principal::new(&secrets.principal);
    let found = idempotency.find("default", &principal, &secrets.key).await.unwrap().unwrap();
    assert_eq!(found.record.unwrap().response().unwrap().body().unwrap(), secrets.body.as_str());
    assert!(idempotency.find("default", &principal, "another").await.unwrap().is_none());
}

macro_rules! in_both {
    ($($name:ident)*) => {
        mod in_postgres {
            $(#[actix_web::test]
            async fn $name() {
                let Some(cluster) = super::Cluster::shared() else { return };
                super::$name(async || {
                    let pool = cluster.pool(4).await;
                    let ledger = super::SqlxPostgres::new(pool.clone());
                    ledger.create_table().await.unwrap();
                    super::InPostgres(pool, ledger)
                })
                .await;
            })*
        }

        mod in_sqlite {
            $(#[actix_web::test]
            async fn $name() {
                let files = super::Files::default();
                super::$name(async || {
                    let pool = files.pool(super::SqliteJournalMode::Wal).await;
                    let ledger = super::SqlxSqlite::new(pool.clone());
                    ledger.create_table().await.unwrap();
                    super::InSqlite(pool, ledger)
                })
                .await;
            })*
        }
    };
}

in_both! { a_dump_has_no_secret a_row_opens_with_its_key_or_not_at_all the_clients_key_is_needed_too }
