//! How much a store holds, and what goes when it is full. Time is steered.

use std::{path::Path, time::Duration};

use actix_idempotency::{
    record::Record,
    settings::OnFull,
    store::{
        Begin, Clock, Completion, OnUnknown, ReleaseAs, Saved, SqliteOptions, SqliteStore, Step, Store as _, StoreError,
    },
};

use super::fixture::{Folder, ask, claim, done, open, options, record};

const TTL: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn store(folder: &Folder, change: impl FnOnce(&mut SqliteOptions)) -> (SqliteStore, Clock) {
    let (mut options, clock) = (options(folder.new_file()), Clock::steered());
    change(&mut options);
    (SqliteStore::with_clock(&options, clock.clone()).unwrap(), clock)
}

async fn is_full(store: &SqliteStore, n: u8) -> bool {
    match store.begin(&ask(n)).await {
        Err(StoreError::Full) => true,
        Ok(Begin::Acquired(_)) => false,
        other => panic!("{other:?}"),
    }
}

async fn has(store: &SqliteStore, n: u8) -> bool {
    store.inspect(&ask(n).id).await.unwrap().is_some()
}

fn has_body(record: &Record) -> bool {
    record.response().unwrap().body().is_some()
}

/// How many records have their body.
async fn bodies(store: &SqliteStore) -> usize {
    let records = store.list(None, 1000).await.unwrap().into_iter().filter_map(|seen| seen.record);
    records.filter(has_body).count()
}

#[actix_web::test]
async fn the_oldest_records_go_and_only_past_their_retention() {
    let folder = Folder::new();
    let (store, clock) = store(&folder, |options| options.max_entries = 10);
    for n in 0..10 {
        done(&store, n, b"x", TTL).await;
        clock.advance(Duration::from_secs(1));
    }
    assert!(is_full(&store, 10).await, "all records are younger than a minute");
    assert!(matches!(store.begin(&ask(0)).await.unwrap(), Begin::Completed(_)), "a full store replays its records");
    clock.advance(Duration::from_secs(50));
    done(&store, 10, b"x", TTL).await;
    assert!(!has(&store, 0).await);
    for n in 1..10 {
        assert!(has(&store, n).await, "what need not go stays: {n}");
    }
}

#[actix_web::test]
async fn with_on_full_reject_nothing_goes_before_it_expires() {
    let folder = Folder::new();
    let (store, clock) = store(&folder, |options| {
        options.max_entries = 5;
        options.min_retention = Duration::ZERO;
        options.on_full = OnFull::Reject;
    });
    for n in 0..5 {
        done(&store, n, b"x", TTL).await;
    }
    clock.advance(TTL - Duration::from_micros(1));
    assert!(is_full(&store, 5).await);
    for n in 0..5 {
        assert!(matches!(store.begin(&ask(n)).await.unwrap(), Begin::Completed(_)));
    }
    // Nobody has swept since.
    clock.advance(Duration::from_micros(1));
    assert!(!is_full(&store, 5).await, "what has expired takes no room");
}

#[actix_web::test]
async fn claims_are_never_evicted_and_a_store_full_of_them_is_full() {
    let folder = Folder::new();
    let (store, clock) = store(&folder, |options| {
        options.max_entries = 6;
        options.min_retention = Duration::ZERO;
    });
    let mut claims = Vec::new();
    for n in 0..3 {
        claims.push(claim(&store, &ask(n)).await);
    }
    for n in 10..60 {
        done(&store, n, b"x", TTL).await;
        clock.advance(Duration::from_secs(1));
    }
    for held in &claims {
        assert_eq!(store.complete(held, &record(b"late"), TTL).await.unwrap(), Completion::Stored);
    }
    for n in 100..106 {
        clock.advance(Duration::from_secs(1));
        claim(&store, &ask(n)).await;
    }
    assert!(is_full(&store, 200).await);
}

#[actix_web::test]
async fn unfinished_records_that_nobody_holds_go_last_and_only_past_their_retention() {
    let folder = Folder::new();
    let (store, clock) = store(&folder, |options| options.max_entries = 4);
    // A run with a step whose response is not stored, and a lost owner.
    let held = claim(&store, &ask(0)).await;
    assert_eq!(store.save_step(&held, &Step::done("a", "1")).await.unwrap(), Saved::Saved);
    assert!(store.release(&held, ReleaseAs::Free).await.unwrap());
    let held = claim(&store, &ask(1)).await;
    assert!(store.release(&held, ReleaseAs::Unknown).await.unwrap());
    clock.advance(MINUTE / 2);
    for n in 2..4 {
        done(&store, n, b"x", TTL).await;
    }
    // A refused request does not make the record younger.
    let refused = store.begin(&ask(1).on_unknown(OnUnknown::Reject)).await.unwrap();
    assert!(matches!(refused, Begin::OwnerLost));
    clock.advance(MINUTE / 2 - Duration::from_micros(1));
    assert!(is_full(&store, 4).await, "all records are younger than a minute");
    clock.advance(Duration::from_micros(1));
    claim(&store, &ask(4)).await;
    assert_eq!([has(&store, 0).await, has(&store, 1).await], [false, true], "completed records are younger");
    clock.advance(MINUTE);
    for n in 5..7 {
        claim(&store, &ask(n)).await;
    }
    let left = [has(&store, 1).await, has(&store, 2).await, has(&store, 3).await];
    assert_eq!(left, [true, false, false], "completed records go first");
}

#[actix_web::test]
async fn an_answer_that_has_no_room_is_stored_without_its_body() {
    let folder = Folder::new();
    for on_full in [OnFull::Shrink, OnFull::Reject] {
        let (store, clock) = store(&folder, |options| {
            options.max_bytes = 40_000;
            options.on_full = on_full;
        });
        let held = claim(&store, &ask(1)).await;
        for n in 2..5 {
            done(&store, n, &[b'x'; 10_000], TTL).await;
        }
        assert_eq!(store.complete(&held, &record(&vec![b'y'; 20_000]), TTL).await.unwrap(), Completion::Stored);
        let Begin::Completed(found) = store.begin(&ask(1)).await.unwrap() else { panic!("it is stored") };
        assert_eq!(found.record.response().unwrap().status(), 201);
        assert!(!has_body(&found.record), "{on_full:?}");
        assert_eq!(bodies(&store).await, 3);
        clock.advance(MINUTE);
        let held = claim(&store, &ask(9)).await;
        store.complete(&held, &record(&vec![b'z'; 20_000]), TTL).await.unwrap();
        let evicts = on_full == OnFull::Shrink;
        assert_eq!(has_body(&store.inspect(&held.id).await.unwrap().unwrap().record.unwrap()), evicts);
    }
}

/// The room that a completion makes may be that of its own record, which is stored again then.
#[actix_web::test]
async fn a_completion_that_is_repeated_in_a_full_store_does_not_move_its_bounds() {
    let folder = Folder::new();
    let (store, clock) = store(&folder, |options| {
        options.max_bytes = 25_000;
        options.min_retention = Duration::ZERO;
    });
    let body = [b'x'; 5_000];
    for round in 0..20 {
        let mut claims = Vec::new();
        for n in 0..4 {
            claims.push(done(&store, 4 * round + n, &body, TTL).await);
            clock.advance(Duration::from_secs(1));
        }
        store.complete(&claims[0], &record(&body), TTL).await.unwrap();
    }
    for n in 100..140 {
        done(&store, n, &body, TTL).await;
        clock.advance(Duration::from_secs(1));
        assert!(bodies(&store).await <= 5, "{} records of 5 kB in 25 kB", bodies(&store).await);
    }
}

#[actix_web::test]
async fn caches_of_one_file_have_bounds_of_their_own() {
    let folder = Folder::new();
    let file = folder.new_file();
    let stores = [("shop", "a"), ("shop", "b"), ("blog", "a")].map(|(namespace, cache)| {
        let mut options = options(file.clone());
        options.max_entries = 3;
        (options.namespace, options.cache) = (namespace.into(), cache.into());
        SqliteStore::new(&options).unwrap()
    });
    for store in &stores {
        for n in 0..3 {
            done(store, n, b"x", TTL).await;
        }
        assert!(is_full(store, 3).await);
        assert_eq!(store.list(None, 100).await.unwrap().len(), 3);
    }
}

#[actix_web::test]
async fn bounds_hold_over_restarts() {
    let folder = Folder::new();
    let mut options = options(folder.new_file());
    options.max_entries = 8;
    for n in 0..8 {
        let store = SqliteStore::new(&options).unwrap();
        done(&store, n, b"x", TTL).await;
    }
    assert!(is_full(&SqliteStore::new(&options).unwrap(), 8).await);
}

/// The pages of the file, as other programs see it.
fn pages(file: &Path) -> i64 {
    open(file).pragma_query_value(None, "page_count", |row| row.get(0)).unwrap()
}

#[actix_web::test]
async fn expired_records_are_deleted_and_the_file_shrinks() {
    let folder = Folder::new();
    let (mut options, clock) = (options(folder.new_file()), Clock::steered());
    options.max_entries = 1000;
    let store = SqliteStore::with_clock(&options, clock.clone()).unwrap();
    for n in 0..60 {
        done(&store, n, &vec![b'x'; 50_000], TTL).await;
    }
    done(&store, 255, b"stays", 2 * TTL).await;
    let before = pages(&options.file);
    assert!(before > 700, "{before}");
    clock.advance(TTL);
    let start = std::time::Instant::now();
    // The pages of 1 MB are left for the next records.
    while pages(&options.file) > 300 {
        assert!(start.elapsed() < crate::common::PATIENCE, "{} pages of {before}", pages(&options.file));
        actix_web::rt::time::sleep(Duration::from_millis(20)).await;
    }
    let left = store.list(None, 100).await.unwrap();
    assert_eq!(left.iter().map(|seen| seen.id).collect::<Vec<_>>(), [ask(255).id]);
    assert!(matches!(store.begin(&ask(255)).await.unwrap(), Begin::Completed(_)));
}
