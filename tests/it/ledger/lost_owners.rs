//! Operations whose owner was lost: the ledger tells what it did.

use std::{sync::Arc, time::Duration};

use actix_idempotency::{
    Idempotency, IdempotencyInfo,
    ledger::Tx,
    record::Record,
    settings::OnUnknown,
    store::{
        Begin, BeginRequest, Claim, Clock, Completion, Forgotten, MemoryLimits, MemoryStore, ReleaseAs, Store,
        StoreFuture,
    },
    testing::{LedgerCall, LedgerFault},
};
use actix_web::{HttpResponse, rt::task::JoinHandle, web};

use super::common::{Counts, Door, Faulty, Reply, World, answer_to, ask, begin, eventually, serve, settings};
use crate::common::{
    delegate_to_inner_store,
    in_process::{alone, post},
};

/// Claims that several processes share: their leases are renewed.
struct Shared(Arc<MemoryStore>);

impl Store for Shared {
    delegate_to_inner_store!();

    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.0.begin(request)
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.0.complete(claim, record, ttl)
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        self.0.release(claim, release_as)
    }

    fn needs_renewal(&self) -> bool {
        true
    }
}

/// The first run waits at a door, and later ones don't.
macro_rules! app {
    ($world:expr, $door:expr) => {{
        let door = $door.clone();
        serve!(
            $world,
            $world.wrap(),
            "/" => move |mut tx: Tx<Faulty>, counts: web::Data<Counts>, info: IdempotencyInfo| {
                let door = door.clone();
                async move {
                    counts.add_row(&mut tx);
                    let run = counts.next_run();
                    if run == 1 {
                        door.pass().await;
                    }
                    HttpResponse::Created().body(format!("run {run}, taken over: {}", info.taken_over()))
                }
            },
        )
    }};
}

/// Two processes that share claims and a ledger. The first one stalls.
struct Processes {
    stalls: World,
    other: World,
    door: Door,
}

impl Processes {
    fn new(on_unknown: OnUnknown) -> Self {
        let clock = Clock::steered();
        let store = Arc::new(MemoryStore::with_clock(MemoryLimits::default(), clock.clone()));
        let make = || {
            let mut settings = settings();
            settings.on_unknown = on_unknown;
            settings.lock.timeout = Duration::ZERO;
            settings.storage.class = "shared".into();
            settings.storage.timeout = Duration::from_secs(10);
            Idempotency::builder().settings(settings).store("shared", Shared(store.clone())).build().unwrap()
        };
        let stalls = World::of(make(), clock);
        let other = stalls.beside(make());
        Self { stalls, other, door: Door::new() }
    }

    /// A request of the first process, whose lease and grace end while its handler runs.
    async fn lose_the_owner(&self) -> JoinHandle<Reply> {
        let app = app!(self.stalls, self.door);
        let stalled = begin(&app, post("/", Some("k")));
        self.door.reached_by(1).await;
        self.stalls.clock.advance(Duration::from_secs(31));
        let other = app!(self.other, self.door);
        assert_eq!(ask(&*other, "/", "k").await.status, 423, "the grace has begun");
        self.stalls.clock.advance(Duration::from_secs(60));
        stalled
    }
}

#[test]
fn the_ledger_settles_what_a_lost_owner_did_before_the_next_run() {
    alone(|| async {
        let processes = Processes::new(OnUnknown::Rerun);
        let (world, door) = (&processes.other, &processes.door);
        let app = app!(world, door);
        let stalled = processes.lose_the_owner().await;
        let settles = world.faults.calls(LedgerCall::Settle);
        ask(&*app, "/", "k").await.is(201, "run 2, taken over: true");
        assert_eq!(world.faults.calls(LedgerCall::Settle), settles + 1);
        door.open();
        answer_to(stalled).await.is_replay(201, "run 2, taken over: true");
        world.has(1, 2);
        world.ends_transactions().await;
    });
}

#[test]
fn a_lost_owner_that_has_committed_is_replayed() {
    for on_unknown in [OnUnknown::Rerun, OnUnknown::Reject] {
        alone(move || async move {
            let processes = Processes::new(on_unknown);
            let (world, door) = (&processes.other, &processes.door);
            let app = app!(world, door);
            // The owner is lost after its COMMIT, whose answer it never gets.
            let gate = world.faults.gate(LedgerCall::Commit);
            let stalled = processes.lose_the_owner().await;
            door.open();
            super::common::within(gate.reached()).await;
            let settle = world.faults.gate(LedgerCall::Settle);
            let retry = begin(&app, post("/", Some("k")));
            super::common::within(settle.reached()).await;
            gate.open();
            answer_to(stalled).await.is(201, "run 1, taken over: false");
            settle.open();
            answer_to(retry).await.is_replay(201, "run 1, taken over: false");
            world.has(1, 1);
            world.ends_transactions().await;
        });
    }
}

#[test]
fn a_lost_owner_without_a_row_bars_the_key_where_reruns_are_rejected() {
    alone(|| async {
        let processes = Processes::new(OnUnknown::Reject);
        let (world, door) = (&processes.other, &processes.door);
        let app = app!(world, door);
        let stalled = processes.lose_the_owner().await;
        ask(&*app, "/", "k").await.is_problem(409, "outcome-unknown");
        for _ in 0..3 {
            let settles = world.faults.calls(LedgerCall::Settle);
            // The claim of the request before ends in the background.
            eventually("the key is barred", async || ask(&*app, "/", "k").await.status == 409).await;
            assert_eq!(world.faults.calls(LedgerCall::Settle), settles + 1, "the ledger is settled each time");
        }
        world.has(0, 1);
        // The owner was only late.
        door.open();
        answer_to(stalled).await.is(201, "run 1, taken over: false");
        ask(&*app, "/", "k").await.is_replay(201, "run 1, taken over: false");
        world.has(1, 1);
    });
}

#[test]
fn a_key_that_is_barred_is_free_when_an_operator_forgets_it() {
    alone(|| async {
        let processes = Processes::new(OnUnknown::Reject);
        let (world, door) = (&processes.other, &processes.door);
        let app = app!(world, door);
        let stalled = processes.lose_the_owner().await;
        ask(&*app, "/", "k").await.is_problem(409, "outcome-unknown");
        // The claim of the refused request ends in the background.
        let is_forgotten = async || world.idempotency.forget("default", &world.id("k")).await.unwrap();
        eventually("the key is forgotten", async || is_forgotten().await == Forgotten::Removed).await;
        ask(&*app, "/", "k").await.is(201, "run 2, taken over: false");
        door.open();
        answer_to(stalled).await.is_replay(201, "run 2, taken over: false");
        world.has(1, 2);
    });
}

#[test]
fn a_ledger_that_can_not_settle_refuses_the_run_and_the_lost_owner_is_remembered() {
    for on_unknown in [OnUnknown::Rerun, OnUnknown::Reject] {
        alone(move || async move {
            let processes = Processes::new(on_unknown);
            let (world, door) = (&processes.other, &processes.door);
            let app = app!(world, door);
            let stalled = processes.lose_the_owner().await;
            for fault in [LedgerFault::Unavailable, LedgerFault::Unreadable, LedgerFault::Conflict] {
                world.faults.next(LedgerCall::Settle, fault);
                ask(&*app, "/", "k").await.is_problem(503, "store-unavailable");
            }
            world.has(0, 1);
            let answer = ask(&*app, "/", "k").await;
            if on_unknown == OnUnknown::Rerun {
                answer.is(201, "run 2, taken over: true");
            } else {
                answer.is_problem(409, "outcome-unknown");
            }
            stalled.abort();
        });
    }
}
