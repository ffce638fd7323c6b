//! Transactions as closures: further tries, further runs, and handlers that stop waiting for one.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_idempotency::{
    ledger::{TransactionError, Transactions, Tx},
    testing::{LedgerCall, LedgerFault},
};
use actix_web::{HttpResponse, ResponseError, rt, web};

use super::common::{Counts, Door, Faulty, World, ask, ask_for_another, begin, by_closure, serve, within};
use crate::common::in_process::{alone, post};

const PATH: &str = "/?status=201";

#[test]
fn a_conflict_at_the_row_or_at_the_commit_is_tried_again() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => by_closure);
        // The first request of a wrap brings looks of its own.
        ask(&*app, PATH, "first").await.is(201, "run 1");
        for call in [LedgerCall::Write, LedgerCall::Commit] {
            let (key, runs) = (format!("{call:?}"), world.counts.runs());
            let looks = world.faults.calls(LedgerCall::Look);
            world.faults.next_calls(4, call, LedgerFault::Conflict);
            ask(&*app, PATH, &key).await.is(201, &format!("run {}", runs + 5));
            assert_eq!(world.faults.calls(LedgerCall::Look) - looks, 5, "once before, and before each further try");
            ask(&*app, PATH, &key).await.is_replay(201, &format!("run {}", runs + 5));
        }
        world.has(3, 11);
        world.ends_transactions().await;
    });
}

/// A run is not longer than it may be because it is several tries.
#[test]
fn a_closure_is_not_tried_again_when_its_run_has_lasted_too_long() {
    async fn slow(db: Transactions<Faulty>, counts: web::Data<Counts>) -> Result<HttpResponse, TransactionError> {
        db.run(async |tx| {
            counts.add_row(tx);
            counts.next_run();
            rt::time::sleep(Duration::from_millis(200)).await;
            Ok(HttpResponse::Created().finish())
        })
        .await
    }
    alone(|| async {
        let world = World::with(|settings| settings.limits.max_run = Duration::from_millis(350));
        let app = serve!(world, world.wrap(), "/" => slow);
        world.faults.next_calls(5, LedgerCall::Write, LedgerFault::Conflict);
        ask(&*app, "/", "k").await.is_problem(503, "store-unavailable");
        assert!(world.counts.runs() <= 2, "{}", world.counts.runs());
    });
}

#[test]
fn tries_that_are_used_up_answer_503_and_free_the_key() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => by_closure);
        for (key, call) in [("w", LedgerCall::Write), ("c", LedgerCall::Commit)] {
            world.faults.next_calls(5, call, LedgerFault::Conflict);
            ask(&*app, PATH, key).await.is_problem(503, "store-unavailable");
        }
        world.has(0, 10);
        assert_eq!(world.faults.left(), 0);
        ask(&*app, PATH, "w").await.is(201, "run 11");
        world.ends_transactions().await;
    });
}

#[test]
fn an_error_of_the_database_is_not_tried_again() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => by_closure);
        for (key, call) in [("w", LedgerCall::Write), ("c", LedgerCall::Commit)] {
            world.faults.next(call, LedgerFault::Refused);
            ask(&*app, PATH, key).await.is_problem(500, "transaction-failed");
        }
        world.faults.next(LedgerCall::Begin, LedgerFault::Unavailable);
        ask(&*app, PATH, "b").await.is_problem(503, "store-unavailable");
        world.has(0, 2);
        for (n, key) in (3..).zip(["w", "c", "b"]) {
            ask(&*app, PATH, key).await.is(201, &format!("run {n}"));
        }
    });
}

#[derive(Debug)]
enum Mistake {
    Busy,
    Wrong,
    Of(TransactionError),
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<TransactionError> for Mistake {
    fn from(error: TransactionError) -> Self {
        Self::Of(error)
    }
}

impl ResponseError for Mistake {
    fn error_response(&self) -> HttpResponse {
        match self {
            Self::Of(error) => error.error_response(),
            Self::Busy => HttpResponse::ServiceUnavailable().body("busy"),
            Self::Wrong => HttpResponse::Conflict().body("wrong"),
        }
    }
}

#[test]
fn an_error_of_a_closure_is_tried_again_where_the_handler_says_so() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            let db = db.pause(Duration::ZERO).tries(3).retry_if(|error: &Mistake| matches!(error, Mistake::Busy));
            db.run(async |tx| {
                let response = counts.pay(tx);
                match counts.runs() {
                    1 | 2 | 4.. => Err(Mistake::Busy),
                    _ => Ok(response),
                }
            })
            .await
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        ask(&*app, "/", "a").await.is(201, "run 3");
        world.has(1, 3);
        ask(&*app, "/", "b").await.is(503, "busy");
        world.has(1, 6);
        world.ends_transactions().await;
    });
}

#[test]
fn another_error_of_a_closure_ends_the_run() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            let db = db.retry_if(|error: &Mistake| matches!(error, Mistake::Busy));
            db.run(async |tx| {
                counts.pay(tx);
                Err::<HttpResponse, _>(Mistake::Wrong)
            })
            .await
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        ask(&*app, "/", "a").await.is(409, "wrong");
        ask(&*app, "/", "a").await.is_replay(409, "wrong");
        world.has(0, 1);
        world.ends_transactions().await;
    });
}

/// Several runs in one request: each closure answers with the next of these statuses.
async fn in_a_row(
    db: Transactions<Faulty>,
    counts: web::Data<Counts>,
    statuses: web::Query<Vec<(String, u16)>>,
) -> Result<HttpResponse, TransactionError> {
    let mut last = HttpResponse::NoContent().finish();
    for (_, status) in statuses.into_inner() {
        let status = actix_web::http::StatusCode::from_u16(status).unwrap();
        last = db
            .run(async |tx| {
                counts.add_row(tx);
                Ok::<_, TransactionError>(HttpResponse::build(status).body(format!("run {}", counts.next_run())))
            })
            .await?;
    }
    Ok(last)
}

#[test]
fn a_run_that_was_rolled_back_may_be_followed_by_another() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => in_a_row);
        ask(&*app, "/?a=409&b=500&c=201", "k").await.is(201, "run 3");
        ask(&*app, "/?a=409&b=500&c=201", "k").await.is_replay(201, "run 3");
        world.has(1, 3);
        ask(&*app, "/?a=500&b=409", "l").await.is(409, "run 5");
        ask(&*app, "/?a=500&b=409", "l").await.is_replay(409, "run 5");
        world.has(1, 5);
        world.ends_transactions().await;
    });
}

#[test]
fn a_run_after_a_commit_is_misused_and_the_first_answer_stays() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => in_a_row);
        ask(&*app, "/?a=201&b=201", "k").await.is(201, "run 1");
        ask(&*app, "/?a=201&b=201", "k").await.is_replay(201, "run 1");
        world.has(1, 1);
    });
}

#[test]
fn after_a_commit_the_handler_can_not_change_the_answer() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>, end: web::Path<String>| async move {
            let committed = db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await?;
            assert_eq!(committed.status(), 201);
            assert!(committed.headers().is_empty());
            let second = db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await;
            assert!(matches!(second, Err(TransactionError::Misused(_))), "{second:?}");
            match end.as_str() {
                "refuse" => Ok(HttpResponse::BadRequest().body("no")),
                "fail" => Ok(HttpResponse::InternalServerError().body("no")),
                "error" => Err(TransactionError::Failed("on purpose".into())),
                "panic" => panic!("on purpose"),
                _ => Ok::<_, TransactionError>(HttpResponse::Ok().body("no")),
            }
        };
        let app = serve!(world, world.wrap(), "/{end}" => handler);
        for (n, path) in (1..).zip(["/other", "/refuse", "/fail", "/error", "/panic"]) {
            ask(&*app, path, path).await.is(201, &format!("run {n}"));
            ask(&*app, path, path).await.is_replay(201, &format!("run {n}"));
            world.has(n, n);
        }
        world.ends_transactions().await;
    });
}

#[test]
fn a_look_before_a_further_try_finds_the_run_that_was_first() {
    alone(|| async {
        let world = World::with(|settings| settings.lock.enable = false);
        let (door, slow) = (Door::new(), Rc::new(Cell::new(true)));
        let handler = {
            let (door, slow) = (door.clone(), slow.clone());
            move |db: Transactions<Faulty>, counts: web::Data<Counts>| {
                let (door, is_slow) = (door.clone(), slow.replace(false));
                async move {
                    let db = db.retry_if(|error: &Mistake| matches!(error, Mistake::Busy));
                    db.run(async |tx| {
                        let response = counts.pay(tx);
                        if is_slow {
                            door.pass().await;
                            return Err(Mistake::Busy);
                        }
                        Ok(response)
                    })
                    .await
                }
            }
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        let stalled = begin(&app, post("/", Some("k")));
        door.reached_by(1).await;
        ask(&*app, "/", "k").await.is(201, "run 2");
        door.open();
        within(stalled).await.unwrap().is_replay(201, "run 2");
        world.has(1, 2);
        world.ends_transactions().await;
    });
}

#[test]
fn a_look_that_fails_before_a_further_try_answers_503_and_frees_the_key() {
    alone(|| async {
        let world = World::new();
        let app = serve!(world, world.wrap(), "/" => by_closure);
        let gate = world.faults.gate(LedgerCall::Write);
        world.faults.next(LedgerCall::Write, LedgerFault::Conflict);
        let request = begin(&app, post(PATH, Some("k")));
        within(gate.reached()).await;
        world.faults.next(LedgerCall::Look, LedgerFault::Unavailable);
        gate.open();
        within(request).await.unwrap().is_problem(503, "store-unavailable");
        ask(&*app, PATH, "k").await.is(201, "run 2");
    });
}

#[test]
fn pauses_between_tries_grow() {
    alone(|| async {
        let world = World::new();
        let handler = |db: Transactions<Faulty>, counts: web::Data<Counts>| async move {
            let db = db.pause(Duration::from_millis(20));
            db.run(async |tx| Ok::<_, TransactionError>(counts.pay(tx))).await
        };
        let app = serve!(world, world.wrap(), "/" => handler);
        world.faults.next_calls(4, LedgerCall::Commit, LedgerFault::Conflict);
        let start = Instant::now();
        ask(&*app, "/", "k").await.is(201, "run 5");
        assert!(start.elapsed() >= Duration::from_millis(75), "half of 20, 40, 80 and 160 ms at least");
    });
}

#[test]
fn a_transaction_of_a_tx_is_not_tried_again() {
    alone(|| async {
        let world = World::new();
        let handler = |mut tx: Tx<Faulty>, counts: web::Data<Counts>| async move { counts.pay(&mut tx) };
        let app = serve!(world, world.wrap(), "/" => handler);
        for (key, call) in [("w", LedgerCall::Write), ("c", LedgerCall::Commit)] {
            world.faults.next(call, LedgerFault::Conflict);
            ask(&*app, "/", key).await.is_problem(503, "store-unavailable");
        }
        world.has(0, 2);
        ask_for_another(&*app, "/", "w").await.is(201, "run 3");
        world.ends_transactions().await;
    });
}
