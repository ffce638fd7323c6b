//! Tools for ledgers: the rules that every ledger must follow, and a ledger that fails on demand.
#![allow(clippy::needless_pass_by_value, reason = "short checks of constants")]

mod expiry;
mod faulty;
mod operators;
mod rows;
mod writers;

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

use actix_web::http::StatusCode;

pub use self::faulty::{FaultyLedger, LedgerCall, LedgerFault, LedgerFaults, LedgerGate};
use crate::{
    key::{Fingerprint, PrincipalTag, RecordId},
    ledger::{Ledger, LedgerError, Look, NewRow, Row, Write},
    record::Record,
    store::OwnerToken,
};

/// How long a call may take, whatever it waits for.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a call that has to wait is watched: it must not have ended by then.
const WATCHED: Duration = Duration::from_millis(150);
/// How long a writer waits for one that will not end.
const SHORT: Duration = Duration::from_millis(300);
/// How long a writer waits for one that will end soon.
const LONG: Duration = Duration::from_secs(15);
/// How long a row is kept that the suite waits to expire.
const BRIEF: Duration = Duration::from_millis(100);

/// A ledger under test.
struct Subject<L> {
    ledger: L,
}

/// Runs the acceptance suite on a ledger.
///
/// `make` returns a ledger without rows. It is called once for each rule and twice for one, and each ledger must be
/// apart from those before it: another table, another file. The suite goes by real time and takes some seconds.
///
/// The suite knows no statement of the database, so what becomes of a handler's own rows has to be tested beside it:
/// they must be committed with the ledger's row, or not at all.
///
/// # The rules
///
/// - A row is seen once it is committed, whole, and not before. A transaction that is rolled back, or merely dropped,
///   leaves nothing, and its id is free.
/// - An id is unique while its row lives. A second writer waits for the first: it gets [`Write::Taken`] when that one
///   is committed, and [`Write::Written`] when it is rolled back. When that one stays open for longer than
///   [`NewRow::patience`], it gets [`LedgerError::Conflict`].
/// - A serializable database may say `Conflict` instead of `Taken`, at the write or at the COMMIT, and a database with
///   one writer may refuse to begin a second transaction. [`Ledger::settle`] then tells the winner.
/// - An expired row counts as none. Only a run that looked at it replaces it; any other is [`Write::Stale`].
/// - A run that is older than [`NewRow::max_run`] is `Stale`.
/// - [`Ledger::forget`] leaves a tombstone, so that a run that began before is `Stale`, also where there was no row,
///   and also when its row was written and not committed yet.
/// - `settle` waits for a transaction with a row of the id, and leaves nothing.
/// - [`Ledger::list`] has the rows in the order of their ids, in pages, without expired rows and tombstones.
/// - [`Ledger::sweep`] keeps rows that have expired lately: they stop runs that have overslept them.
/// - Two ledgers are apart, and have names of their own. Clones are one ledger.
///
/// A pool needs three connections at least, besides the ledger's own.
///
/// ```
/// use actix_idempotency::{ledger::MemoryLedger, testing::accept_ledger};
///
/// # actix_web::rt::System::new().block_on(async {
/// accept_ledger(async || MemoryLedger::default()).await;
/// # });
/// ```
///
/// # Panics
/// With the first rule that the ledger breaks.
pub async fn accept_ledger<L: Ledger>(make: impl AsyncFn() -> L) {
    subject(&make).await.shows_a_row_once_it_is_committed().await;
    subject(&make).await.keeps_every_byte_of_an_answer().await;
    subject(&make).await.leaves_nothing_of_a_rolled_back_transaction().await;
    subject(&make).await.leaves_nothing_of_a_dropped_transaction().await;
    subject(&make).await.commits_a_transaction_without_a_row().await;
    subject(&make).await.keeps_ids_apart().await;
    subject(&make).await.passes_its_own_check().await;

    subject(&make).await.gives_the_first_answer_to_later_writers().await;
    subject(&make).await.lets_a_second_writer_wait_for_a_commit().await;
    subject(&make).await.lets_a_second_writer_wait_for_a_rollback().await;
    subject(&make).await.lets_no_writer_wait_longer_than_its_patience().await;
    subject(&make).await.lets_one_of_many_writers_win().await;
    subject(&make).await.settles_what_is_over().await;
    subject(&make).await.waits_for_an_open_transaction_to_settle().await;
    subject(&make).await.settles_no_longer_than_its_patience().await;

    subject(&make).await.counts_an_expired_row_as_none().await;
    subject(&make).await.replaces_only_the_expired_row_that_a_run_saw().await;
    subject(&make).await.refuses_a_run_that_is_too_old().await;

    subject(&make).await.stops_runs_that_began_before_a_forget().await;
    subject(&make).await.forgets_what_was_never_there().await;
    subject(&make).await.forgets_a_row_that_is_about_to_be_committed().await;
    subject(&make).await.lists_in_pages().await;
    subject(&make).await.keeps_what_has_expired_lately().await;

    let (one, other) = (subject(&make).await, subject(&make).await);
    one.is_apart_from(&other).await;
}

async fn subject<L: Ledger>(make: &impl AsyncFn() -> L) -> Subject<L> {
    Subject { ledger: make().await }
}

fn id(n: u8) -> RecordId {
    let mut bytes = [0x5a; 32];
    bytes[31] = n;
    RecordId::from_bytes(bytes)
}

fn fingerprint(n: u8) -> Fingerprint {
    Fingerprint::from_bytes([n; Fingerprint::LENGTH])
}

fn record(n: u8) -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[n]))
}

/// A row whose parts all differ from those of other `n`.
fn row(at: u8, n: u8, look: &Look) -> NewRow {
    let row = NewRow::new(id(at), fingerprint(n), OwnerToken::random(), record(n), look);
    NewRow {
        attempt: u32::from(n) + 1,
        principal_tag: PrincipalTag::from_bytes([n.wrapping_add(7); 8]),
        patience: LONG,
        ..row
    }
}

#[track_caller]
fn same<T: PartialEq + Debug>(rule: &str, got: T, expected: T) {
    assert_eq!(got, expected, "{rule}; what the ledger says is the left");
}

/// A call that ends, whatever it waits for.
async fn ends<T>(rule: &str, call: impl Future<Output = T>) -> T {
    let Ok(answer) = tokio::time::timeout(LIMIT, call).await else {
        panic!("{rule}: a call has not ended after {LIMIT:?}");
    };
    answer
}

/// The end of a run that has tried to commit its row.
#[derive(Debug)]
enum Try {
    Committed,
    /// The row of a run that was first.
    Taken(Row),
    Stale,
    /// Another transaction stood in the way: at the write, at the COMMIT, or because the database has one writer.
    Hindered,
}

impl<L: Ledger> Subject<L> {
    async fn look(&self, rule: &str, at: u8) -> Look {
        ends(rule, self.ledger.look(&id(at))).await.unwrap_or_else(|error| panic!("{rule}: look: {error}"))
    }

    async fn settle(&self, rule: &str, at: u8) -> Look {
        let settled = ends(rule, self.ledger.settle(&id(at), LONG)).await;
        settled.unwrap_or_else(|error| panic!("{rule}: settle: {error}"))
    }

    async fn begin(&self, rule: &str) -> L::Tx {
        let begun = ends(rule, self.ledger.begin(None, &L::Options::default(), LIMIT)).await;
        begun.unwrap_or_else(|error| panic!("{rule}: begin: {error}"))
    }

    /// Begins, and writes a row that must be accepted.
    async fn written(&self, rule: &str, row: &NewRow) -> L::Tx {
        let mut tx = self.begin(rule).await;
        match ends(rule, self.ledger.write(&mut tx, row)).await {
            Ok(Write::Written) => tx,
            other => panic!("{rule}: expected Written, got {other:?}"),
        }
    }

    async fn commit(&self, rule: &str, tx: L::Tx) {
        ends(rule, self.ledger.commit(tx)).await.unwrap_or_else(|error| panic!("{rule}: commit: {error}"));
    }

    async fn committed(&self, rule: &str, row: &NewRow) {
        let tx = self.written(rule, row).await;
        self.commit(rule, tx).await;
    }

    /// Tries to commit a row, as a run does.
    async fn attempt(&self, rule: &str, row: &NewRow) -> Try {
        let mut tx = match ends(rule, self.ledger.begin(None, &L::Options::default(), LIMIT)).await {
            Ok(tx) => tx,
            Err(LedgerError::Conflict(_) | LedgerError::Unavailable(_)) => return Try::Hindered,
            Err(error) => panic!("{rule}: begin: {error}"),
        };
        let what = match ends(rule, self.ledger.write(&mut tx, row)).await {
            Ok(Write::Written) => {
                return match ends(rule, self.ledger.commit(tx)).await {
                    Ok(()) => Try::Committed,
                    Err(LedgerError::Conflict(_)) => Try::Hindered,
                    Err(error) => panic!("{rule}: commit: {error}"),
                };
            }
            Ok(Write::Taken(first)) => Try::Taken(*first),
            Ok(Write::Stale) => Try::Stale,
            Ok(Write::Misused) => panic!("{rule}: a transaction that nobody touched is Misused"),
            Err(LedgerError::Conflict(_)) => Try::Hindered,
            Err(error) => panic!("{rule}: write: {error}"),
        };
        ends(rule, self.ledger.rollback(tx)).await;
        what
    }

    /// Tries until nothing stands in the way.
    async fn unhindered(&self, rule: &str, row: &NewRow) -> Try {
        let until = Instant::now() + LIMIT;
        loop {
            match self.attempt(rule, row).await {
                Try::Hindered if Instant::now() < until => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    }

    async fn is_stale(&self, rule: &str, row: &NewRow) {
        match self.unhindered(rule, row).await {
            Try::Stale => {}
            other => panic!("{rule}: expected Stale, got {other:?}"),
        }
    }

    async fn is_committed(&self, rule: &str, row: &NewRow) {
        match self.unhindered(rule, row).await {
            Try::Committed => self.has(rule, row).await,
            other => panic!("{rule}: expected Written and a COMMIT, got {other:?}"),
        }
    }

    /// The ledger has this row.
    async fn has(&self, rule: &str, row: &NewRow) {
        let Look { row: found, over, .. } = ends(rule, self.ledger.look(&row.id)).await.expect(rule);
        let Some(found) = found else { panic!("{rule}: there is no row") };
        self.is_row(rule, &found, row);
        assert!(over.is_none(), "{rule}: `over` is for expired rows");
    }

    #[expect(clippy::unused_self, reason = "so that the rules read alike")]
    fn is_row(&self, rule: &str, found: &Row, row: &NewRow) {
        same(rule, found.id, row.id);
        same(rule, found.token, row.token);
        same(rule, found.fingerprint, row.fingerprint);
        same(rule, found.attempt, row.attempt);
        same(rule, found.principal_tag, row.principal_tag);
        same(rule, &found.record, &row.record);
        let most = row.keep + Duration::from_secs(1);
        assert!(found.remaining <= most && !found.remaining.is_zero(), "{rule}: it remains for {:?}", found.remaining);
    }

    async fn has_none(&self, rule: &str, at: u8) -> Look {
        let look = self.look(rule, at).await;
        assert!(look.row.is_none(), "{rule}: there is a row: {:?}", look.row);
        look
    }

    /// Waits until a row has expired. Its look then has a token in `over`.
    async fn expires(&self, rule: &str, at: u8) -> Look {
        let until = Instant::now() + LIMIT;
        loop {
            let look = self.look(rule, at).await;
            if look.row.is_none() {
                return look;
            }
            assert!(Instant::now() < until, "{rule}: a row that was kept for {BRIEF:?} has not expired");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
