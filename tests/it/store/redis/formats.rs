//! Two formats of records on one Redis, as in a rolling deployment: one release writes the old format, the next one the
//! new format, and both read both.

use std::{collections::BTreeMap, time::Duration};

use actix_idempotency::{
    Principal,
    key::{Fingerprint, RecordId},
    record::Record,
    settings::OnError,
    store::{
        Acquired, Begin, BeginRequest, Completion, IfCompleted, OnUnknown, OwnerToken, RedisStore, ReleaseAs, Renewal,
        Saved, Step, Store as _,
    },
};
use actix_web::http::StatusCode;
use futures_util::future::join_all;

use super::{fixture::Redis, store::store};
use crate::store::custom_parts::{Harness, answer, eventually};

const LEASE: Duration = Duration::from_millis(400);
const TTL: Duration = Duration::from_secs(60);

type Release = fn(&Redis) -> RedisStore;

/// The two releases, each in either part.
const BOTH_WAYS: [[Release; 2]; 2] = [[old, new], [new, old]];

/// The release that brings the new format, and still writes the old one.
fn old(redis: &Redis) -> RedisStore {
    store(redis).with_layouts("1", "2")
}

/// The release after it.
fn new(redis: &Redis) -> RedisStore {
    store(redis).with_layouts("2", "1")
}

/// A process of a release.
fn process(store: RedisStore) -> Harness {
    Harness::with_store(store, |settings| {
        settings.lock.timeout = Duration::from_secs(10);
        // The machine may be busy.
        settings.storage.timeout = Duration::from_secs(10);
    })
}

fn ask() -> BeginRequest {
    let fingerprint = Fingerprint::new([1; 2], [1; 8], [1; 32]);
    BeginRequest::new(RecordId::from_bytes([1; 32]), fingerprint, OwnerToken::random())
        .lease(LEASE)
        .grace(Duration::from_secs(60))
}

fn record(n: u8) -> Record {
    Record::new(StatusCode::CREATED, [], Some(&[n]))
}

async fn acquired(store: &RedisStore, request: &BeginRequest) -> Acquired {
    match store.begin(request).await.unwrap() {
        Begin::Acquired(acquired) => acquired,
        other => panic!("{other:?}"),
    }
}

async fn replays(store: &RedisStore, n: u8) {
    match store.begin(&ask()).await.unwrap() {
        Begin::Completed(found) => assert_eq!(found.record, record(n)),
        other => panic!("{other:?}"),
    }
}

/// Everything that Redis holds.
fn contents(redis: &Redis) -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let all = |name: &String| redis::cmd("HGETALL").arg(name).query(&mut redis.connect()).unwrap();
    redis.names().into_iter().map(|name| (name.clone(), all(&name))).collect()
}

#[actix_web::test]
async fn in_a_rolling_deployment_each_key_runs_once_and_no_answer_is_lost() {
    let redis = Redis::start();
    // The deployment goes on process by process, and is rolled back at the end.
    let phases: [[Release; 2]; 4] = [[old, old], [old, new], [new, new], [new, old]];
    let mut first_answers = BTreeMap::<String, String>::new();
    let mut runs = 0;
    for (phase, fleet) in phases.into_iter().enumerate() {
        let fleet = fleet.map(|release| process(release(&redis)));
        for (key, body) in &first_answers {
            for process in &fleet {
                assert_eq!(process.post(key).await, answer(409, true, body), "{key} in phase {phase}");
            }
        }
        for n in 0..8 {
            let key = format!("k{phase}-{n}");
            let answers =
                join_all([&fleet[0], &fleet[1], &fleet[0], &fleet[1]].map(|process| process.post(&key))).await;
            let ran: Vec<_> = answers.iter().filter(|(status, _, _)| *status == 201).collect();
            assert_eq!(ran.len(), 1, "{answers:?}");
            assert!(answers.iter().all(|(_, _, body)| *body == ran[0].2), "{answers:?}");
            first_answers.insert(key, ran[0].2.clone());
        }
        runs += fleet.iter().map(Harness::runs).sum::<u32>();
    }
    assert_eq!(runs, 32, "as many runs as keys");
}

#[actix_web::test]
async fn a_claim_of_the_other_format_is_left_alone_until_its_lease_ends_and_is_then_taken_over() {
    for [owner, other] in BOTH_WAYS {
        let redis = Redis::start();
        let (owner, other) = (owner(&redis), other(&redis));
        let first = acquired(&owner, &ask()).await.claim;
        let before = contents(&redis);
        // The name of the owner does not help: its format is not the other process's.
        assert_eq!(other.renew(&first, TTL).await.unwrap(), Renewal::Lost);
        assert_eq!(other.complete(&first, &record(9), TTL).await.unwrap(), Completion::Superseded(None));
        assert_eq!(other.save_step(&first, &Step::started("a")).await.unwrap(), Saved::Lost);
        assert!(!other.release(&first, ReleaseAs::Free).await.unwrap());
        assert_eq!(contents(&redis), before, "no process writes into a claim of the other format");
        assert_eq!(owner.renew(&first, LEASE).await.unwrap(), Renewal::Extended, "its own process does");
        let renewed = std::time::Instant::now();
        let mut taker = None;
        eventually(async || {
            match other.begin(&ask()).await.unwrap() {
                Begin::Acquired(acquired) => taker = Some(acquired.claim),
                Begin::InFlight(wait) => assert!(!wait.lapsed, "no grace is written into it"),
                other => panic!("{other:?}"),
            }
            taker.is_some()
        })
        .await;
        assert!(renewed.elapsed() >= LEASE / 2, "{:?}", renewed.elapsed());
        let taker = taker.unwrap();
        assert_eq!((taker.attempt, taker.taken_over), (2, true));
        assert!(taker.fence > first.fence);
        assert_eq!(owner.renew(&first, LEASE).await.unwrap(), Renewal::Lost);
        assert_eq!(owner.complete(&first, &record(1), TTL).await.unwrap(), Completion::Superseded(None));
        assert_eq!(other.complete(&taker, &record(2), TTL).await.unwrap(), Completion::Stored);
        replays(&owner, 2).await;
        let late = owner.complete(&first, &record(1), TTL).await.unwrap();
        assert_eq!(late, Completion::Superseded(Some(record(2))), "the late owner's client gets what stands");
    }
}

#[actix_web::test]
async fn what_a_record_of_the_other_format_remembers_is_kept() {
    for [one, other] in BOTH_WAYS {
        let redis = Redis::start();
        let (one, other) = (one(&redis), other(&redis));
        // A lost owner, and its steps.
        let first = acquired(&one, &ask()).await.claim;
        one.save_step(&first, &Step::done("charge", "17")).await.unwrap();
        assert!(one.release(&first, ReleaseAs::Unknown).await.unwrap());
        let refused = other.begin(&ask().on_unknown(OnUnknown::Reject)).await.unwrap();
        assert!(matches!(refused, Begin::OwnerLost), "{refused:?}");
        let second = acquired(&other, &ask().lease(TTL)).await;
        assert!(second.claim.taken_over);
        assert_eq!(second.steps, [Step::done("charge", "17")]);
        assert_eq!(other.complete(&second.claim, &record(1), TTL).await.unwrap(), Completion::Stored);
        // A completed record beneath a manual claim.
        let manual = acquired(&one, &ask().lease(TTL).if_completed(IfCompleted::Rerun)).await;
        assert_eq!(manual.previous, Some(record(1)));
        assert!(matches!(other.begin(&ask()).await.unwrap(), Begin::InFlight(_)));
        assert!(one.release(&manual.claim, ReleaseAs::Free).await.unwrap());
        replays(&other, 1).await;
    }
}

#[actix_web::test]
async fn a_record_of_an_unknown_newer_format_is_a_503_and_is_neither_run_nor_changed() {
    let redis = Redis::start();
    let newest = || store(&redis).with_layouts("3", "2");
    let newest_process = process(newest());
    assert_eq!(newest_process.post("done").await, answer(201, false, "1"));
    let running = newest_process.idempotency.record_id("default", &Principal::anonymous(), "running");
    let mut request = ask().lease(TTL);
    request.id = running;
    let claim = acquired(&newest(), &request).await.claim;
    let before = contents(&redis);
    for (on_error, exclusive) in [(OnError::Reject, true), (OnError::Run, true), (OnError::Reject, false)] {
        // This release.
        let process = Harness::with_store(store(&redis), |settings| {
            settings.storage.on_error = on_error;
            settings.lock.enable = exclusive;
        });
        for key in ["done", "running"] {
            let (status, _, body) = process.post(key).await;
            assert_eq!((status, body.contains("store-unavailable")), (503, true), "{key}: {body}");
        }
        assert_eq!(process.runs(), 0, "{on_error:?}");
        assert_eq!(process.post(&format!("{on_error:?}{exclusive}")).await.0, 201, "other keys are not affected");
    }
    let this = store(&redis);
    assert!(this.renew(&claim, TTL).await.is_err());
    assert!(this.complete(&claim, &record(1), TTL).await.is_err());
    assert!(this.release(&claim, ReleaseAs::Free).await.is_err());
    let after = contents(&redis);
    assert!(before.iter().all(|(name, record)| after[name] == *record), "left: {before:?}, right: {after:?}");
    assert_eq!(newest_process.post("done").await, answer(409, true, "1"), "the newer release still replays it");
}
