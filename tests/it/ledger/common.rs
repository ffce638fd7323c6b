//! Helpers: a service under a wrap with a ledger that fails on demand, its handlers, and the answers of clients.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use actix_idempotency::{
    Idempotency, IdempotencyKey, Principal, ResponseExt as _, Settings,
    key::RecordId,
    ledger::{MemoryLedger, MemoryTx, TransactionError, Transactions, Tx},
    store::{Clock, MemoryLimits, MemoryStore},
    testing::{FaultyLedger, LedgerFaults},
};
use actix_web::{HttpResponse, http::StatusCode, web};
use serde::Deserialize;

pub(super) use super::replies::{
    Door, Reply, answer_to, ask, ask_for_another, begin, eventually, key_of, leave, send, within,
};

pub(super) type Faulty = FaultyLedger<MemoryLedger>;

/// A ledger, claims in memory, and what handlers did.
pub(super) struct World {
    pub(super) ledger: Faulty,
    pub(super) faults: LedgerFaults,
    /// The clock of claims and rows.
    pub(super) clock: Clock,
    pub(super) idempotency: Idempotency,
    pub(super) counts: Counts,
}

/// Rows that were committed, and how often a handler ran.
#[derive(Clone, Default)]
pub(super) struct Counts {
    rows: Arc<AtomicU32>,
    runs: Arc<AtomicU32>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let clock = Clock::steered();
        let mut settings = settings();
        change(&mut settings);
        let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        settings.storage.class = "own".into();
        let idempotency = Idempotency::builder().settings(settings).store("own", store).build().unwrap();
        Self::of(idempotency, clock)
    }

    pub(super) fn of(idempotency: Idempotency, clock: Clock) -> Self {
        let (ledger, faults) = FaultyLedger::new(MemoryLedger::with_clock(clock.clone()));
        Self { ledger, faults, clock, idempotency, counts: Counts::default() }
    }

    /// The same ledger and handlers in another process.
    pub(super) fn beside(&self, idempotency: Idempotency) -> Self {
        let (ledger, faults) = (self.ledger.clone(), self.faults.clone());
        Self { ledger, faults, clock: self.clock.clone(), idempotency, counts: self.counts.clone() }
    }

    pub(super) fn wrap(&self) -> IdempotencyKey {
        self.wrap_without_ledger().ledger(&self.ledger)
    }

    /// A wrap of the same claims.
    pub(super) fn wrap_without_ledger(&self) -> IdempotencyKey {
        IdempotencyKey::default().using(&self.idempotency)
    }

    pub(super) fn id(&self, key: &str) -> RecordId {
        self.idempotency.record_id("default", &Principal::anonymous(), &key_of(key))
    }

    /// What was committed, and how often a handler ran.
    #[track_caller]
    pub(super) fn has(&self, rows: u32, runs: u32) {
        assert_eq!((self.counts.rows(), self.counts.runs()), (rows, runs), "rows and runs");
    }

    /// Waits until each transaction was committed or rolled back by a call.
    pub(super) async fn ends_transactions(&self) {
        eventually("all transactions have ended", async || self.faults.open() == 0).await;
    }
}

pub(super) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.conflict_status_code = None;
    settings.storage.store_on_statuses = "2xx,3xx,4xx".parse().unwrap();
    settings
}

impl Counts {
    pub(super) fn rows(&self) -> u32 {
        self.rows.load(SeqCst)
    }

    pub(super) fn runs(&self) -> u32 {
        self.runs.load(SeqCst)
    }

    /// The number of this run.
    pub(super) fn next_run(&self) -> u32 {
        self.runs.fetch_add(1, SeqCst) + 1
    }

    /// Adds a row, which is there when the transaction is committed.
    pub(super) fn add_row(&self, tx: &mut MemoryTx) {
        let rows = self.rows.clone();
        tx.on_commit(move || {
            rows.fetch_add(1, SeqCst);
        });
    }

    /// Adds a row, and answers 201 with the number of the run.
    pub(super) fn pay(&self, tx: &mut MemoryTx) -> HttpResponse {
        self.add_row(tx);
        HttpResponse::Created().body(format!("run {}", self.next_run()))
    }
}

/// What a handler answers.
#[derive(Deserialize)]
pub(super) struct How {
    pub(super) status: u16,
    #[serde(default)]
    pub(super) fail: String,
}

pub(super) async fn by_tx(
    mut tx: Tx<Faulty>,
    counts: web::Data<Counts>,
    how: web::Query<How>,
) -> Result<HttpResponse, TransactionError> {
    counts.add_row(&mut tx);
    answer(&counts, &how)
}

pub(super) async fn by_closure(
    db: Transactions<Faulty>,
    counts: web::Data<Counts>,
    how: web::Query<How>,
) -> Result<HttpResponse, TransactionError> {
    db.run(async |tx| {
        counts.add_row(tx);
        answer(&counts, &how)
    })
    .await
}

/// A handler without a transaction.
pub(super) async fn by_itself(
    counts: web::Data<Counts>,
    how: web::Query<How>,
) -> Result<HttpResponse, TransactionError> {
    answer(&counts, &how)
}

fn answer(counts: &Counts, how: &How) -> Result<HttpResponse, TransactionError> {
    let run = counts.next_run();
    let response = HttpResponse::build(StatusCode::from_u16(how.status).unwrap()).body(format!("run {run}"));
    match how.fail.as_str() {
        "error" => Err(TransactionError::Failed("on purpose".into())),
        "panic" => panic!("on purpose"),
        "unstored" => Ok(response.do_not_store()),
        _ => Ok(response),
    }
}

/// Serves handlers at paths.
macro_rules! serve {
    ($world:expr, $wrap:expr $(, $path:literal => $handler:expr)* $(,)? $(; $data:expr)?) => {
        std::rc::Rc::new(
            actix_web::test::init_service(
                actix_web::App::new()
                    .app_data(actix_web::web::Data::new($world.counts.clone()))
                    $(.app_data($data))?
                    $(.route($path, actix_web::web::post().to($handler)))*
                    .wrap($wrap),
            )
            .await,
        )
    };
}
pub(super) use serve;
