//! Rows that handlers insert themselves, and the transition from claims to a ledger.

use std::sync::Arc;

use actix_idempotency::{
    Idempotency, IdempotencyInfo,
    key::RecordId,
    ledger::{Dialect, Ledger as _, LedgerEntry, NewRow, TransactionError, Transactions, Tx},
    settings::OnDisconnect,
    store::{Clock, MemoryLimits, MemoryStore, OwnerToken, RecordState, Store as _},
    testing::{LedgerCall, LedgerFault},
};
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;

use super::common::{
    Counts, Door, Faulty, World, ask, ask_for_another, begin, by_closure, by_itself, by_tx, eventually, leave, serve,
    settings,
};
use crate::common::in_process::{alone, post};

/// Inserts a row as a handler does that has a library of its own. `token`: another run's.
async fn insert(ledger: &Faulty, entry: &LedgerEntry, token: Option<OwnerToken>) {
    let ledger = ledger.inner();
    let look = ledger.look(entry.id()).await.unwrap();
    let token = token.unwrap_or(*entry.token());
    let mut row = NewRow::new(*entry.id(), *entry.fingerprint(), token, entry.record().clone(), &look);
    row.over = entry.over().copied();
    row.principal_tag = *entry.principal_tag();
    let mut tx = ledger.begin(None, &(), row.max_run).await.unwrap();
    ledger.write(&mut tx, &row).await.unwrap();
    ledger.commit(tx).await.unwrap();
}

/// A handler with an entry. `/ours` inserts it, `/theirs` inserts another run's, `/none` inserts nothing.
async fn by_hand(
    info: IdempotencyInfo,
    counts: web::Data<Counts>,
    ledger: web::Data<Faulty>,
    what: web::Path<String>,
) -> Result<HttpResponse, TransactionError> {
    let mut response = HttpResponse::Created().body(format!("run {}", counts.next_run()));
    let entry = info.ledger_entry(&mut response)?;
    assert_eq!(entry.record().response().unwrap().body().map(|body| body.to_vec()), Some(b"run 1".to_vec()));
    match what.as_str() {
        "ours" => insert(&ledger, &entry, None).await,
        "theirs" => insert(&ledger, &entry, Some(OwnerToken::random())).await,
        "refused" => return Ok(HttpResponse::Conflict().body("refused")),
        _ => {}
    }
    Ok(response)
}

macro_rules! app {
    ($world:expr, $wrap:expr) => {
        serve!($world, $wrap, "/{what}" => by_hand; web::Data::new($world.ledger.clone()))
    };
}

#[test]
fn a_row_that_the_handler_has_inserted_is_settled_before_its_answer_is_sent() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap());
        ask(&*app, "/ours", "k").await.is(201, "run 1");
        assert_eq!(world.faults.calls(LedgerCall::Settle), 1);
        assert_eq!(world.faults.calls(LedgerCall::Begin), 0, "the middleware writes no row");
        ask(&*app, "/ours", "k").await.is_replay(201, "run 1");
        world.has(0, 1);
    });
}

#[test]
fn a_row_of_another_run_is_the_answer_to_a_handler_with_an_entry() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap());
        ask(&*app, "/theirs", "k").await.is_replay(201, "run 1");
        ask(&*app, "/theirs", "k").await.is_replay(201, "run 1");
        world.has(0, 1);
    });
}

#[test]
fn a_success_whose_row_the_handler_has_not_inserted_is_no_success() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap());
        ask(&*app, "/none", "k").await.is_problem(500, "not-recorded");
        // The key is free.
        ask_for_another(&*app, "/refused", "l").await;
        let free = serve!(world, world.wrap(), "/{what}" => by_itself);
        ask(&*free, "/none?status=201", "k").await.is(201, "run 3");
    });
}

#[test]
fn a_refusal_after_an_entry_was_given_gets_a_row_of_the_middleware() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap());
        ask(&*app, "/refused", "k").await.is(409, "refused");
        ask(&*app, "/refused", "k").await.is_replay(409, "refused");
        world.has(0, 1);
    });
}

#[test]
fn a_row_by_hand_that_can_not_be_settled_holds_the_key_until_it_is() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap());
        world.faults.always(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, "/ours", "k").await.is_problem(503, "store-unavailable");
        world.faults.always(LedgerCall::Look, LedgerFault::Unavailable);
        ask(&*app, "/ours", "k").await.is_problem(423, "in-flight");
        world.faults.heal();
        ask(&*app, "/ours", "k").await.is_replay(201, "run 1");
        world.has(0, 1);
    });
}

#[test]
fn an_entry_is_not_given_where_no_row_would_be_written() {
    alone(|| async {
        let world = World::new();
        let app = app!(world, world.wrap_without_ledger());
        ask(&*app, "/ours", "k").await.is_problem(500, "transaction-misused");
        let exempt = app!(world, world.wrap().exempt("/{any}"));
        ask(&*exempt, "/ours", "k").await.is_problem(500, "transaction-misused");
        let streaming = |info: IdempotencyInfo| async move {
            let pieces = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"piece")) });
            let mut response = HttpResponse::Created().streaming(pieces);
            info.ledger_entry(&mut response)?;
            Ok::<_, TransactionError>(response)
        };
        let app = serve!(world, world.wrap(), "/" => streaming);
        ask(&*app, "/", "k").await.is_problem(500, "transaction-misused");
    });
}

#[test]
fn the_statements_of_an_entry_have_nothing_of_a_client_in_them() {
    alone(|| async {
        let world = World::new();
        let handler = |info: IdempotencyInfo| async move {
            let mut response = HttpResponse::Created().body("Robert'); DROP TABLE payments; --");
            let entry = info.ledger_entry(&mut response)?;
            for dialect in [Dialect::Postgres, Dialect::Sqlite] {
                let statements = entry.statements(dialect, "idempotency_ledger");
                assert_eq!(statements.len(), if entry.over().is_some() { 2 } else { 1 });
                let all = statements.join("\n");
                assert!(!all.contains("Robert") && !all.contains("secret-key"), "{all}");
                assert!(all.contains(&entry.id().to_string()), "{all}");
            }
            Ok::<_, TransactionError>(HttpResponse::Ok().body(entry.over().is_some().to_string()))
        };
        let app = serve!(world, world.wrap(), "/" => handler, "/tx" => by_tx);
        ask(&*app, "/", "secret-key").await.is_problem(500, "not-recorded");
        ask(&*app, "/tx?status=201", "other").await.is(201, "run 1");
        world.clock.advance(world.idempotency.settings().storage.ttl);
        ask(&*app, "/", "other").await.is_problem(500, "not-recorded");
    });
}

/// A world in transition, and its claims.
fn in_transition() -> (World, Arc<MemoryStore>) {
    let clock = Clock::steered();
    let store = Arc::new(MemoryStore::with_clock(MemoryLimits::default(), clock.clone()));
    let mut settings = settings();
    settings.on_disconnect = OnDisconnect::Cancel;
    let idempotency = Idempotency::builder().settings(settings).build().unwrap();
    (World::of(idempotency, clock), store)
}

async fn is_completed(store: &MemoryStore, id: RecordId) -> bool {
    store.inspect(&id).await.unwrap().is_some_and(|seen| seen.state == RecordState::Completed)
}

#[test]
fn in_transition_an_old_process_finds_the_answer_in_the_claims() {
    for (path, rows) in [("/tx?status=201", 1), ("/closure?status=201", 1), ("/none?status=409", 0)] {
        alone(move || async move {
            let (world, store) = in_transition();
            let new = serve!(world, world.wrap().store(store.clone()).ledger_transition(),
                "/tx" => by_tx, "/closure" => by_closure, "/none" => by_itself);
            let old = serve!(world, world.wrap_without_ledger().store(store.clone()), "/{any}" => by_itself);
            let first = ask(&*new, path, "k").await;
            assert!(is_completed(&store, world.id("k")).await, "{path}");
            let status = first.status;
            ask(&*old, path, "k").await.is_replay(status, "run 1");
            ask(&*new, path, "k").await.is_replay(status, "run 1");
            world.has(rows, 1);
        });
    }
}

#[test]
fn in_transition_an_old_process_finds_the_answer_of_a_row_by_hand() {
    alone(|| async {
        let (world, store) = in_transition();
        let app = app!(world, world.wrap().store(store.clone()).ledger_transition());
        ask(&*app, "/ours", "k").await.is(201, "run 1");
        assert!(is_completed(&store, world.id("k")).await);
    });
}

#[test]
fn in_transition_a_client_that_leaves_after_a_commit_leaves_the_answer_in_the_claims() {
    alone(|| async {
        let (world, store) = in_transition();
        let door = Door::new();
        let handler = {
            let door = door.clone();
            move |db: Transactions<Faulty>, counts: web::Data<Counts>| {
                let door = door.clone();
                async move {
                    let answer = db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await;
                    door.pass().await;
                    answer
                }
            }
        };
        let app = serve!(world, world.wrap().store(store.clone()).ledger_transition(), "/" => handler);
        let request = begin(&app, post("/", Some("k")));
        door.reached_by(1).await;
        leave(request).await;
        eventually("the claim is completed", async || is_completed(&store, world.id("k")).await).await;
    });
}

#[test]
fn in_transition_a_commit_whose_answer_was_lost_is_completed_as_well() {
    alone(|| async {
        let (world, store) = in_transition();
        let app = serve!(world, world.wrap().store(store.clone()).ledger_transition(), "/tx" => by_tx);
        world.faults.next(LedgerCall::Commit, LedgerFault::LoseAnswer);
        world.faults.next(LedgerCall::Settle, LedgerFault::Unavailable);
        ask(&*app, "/tx?status=201", "k").await.is_problem(503, "store-unavailable");
        eventually("the claim is completed", async || is_completed(&store, world.id("k")).await).await;
    });
}

#[test]
fn a_transaction_beside_an_entry_is_misused() {
    alone(|| async {
        let world = World::new();
        let handler = |info: IdempotencyInfo, mut tx: Tx<Faulty>, counts: web::Data<Counts>| async move {
            let mut response = counts.pay(&mut tx);
            info.ledger_entry(&mut response)?;
            Ok::<_, TransactionError>(response)
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        for _ in 0..2 {
            ask(&*app, "/", "k").await.is_problem(500, "transaction-misused");
            assert_eq!(world.faults.open(), 0);
        }
        world.has(0, 2);
    });
}
