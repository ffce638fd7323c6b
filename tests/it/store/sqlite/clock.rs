//! Steps of the clock. Each process reads its own, and the file remembers the greatest time.

use std::time::Duration;

use actix_idempotency::store::{Begin, Clock, RecordState, SqliteStore, Store as _};

use super::fixture::{Folder, ask, claim, done, options, record};

const TTL: Duration = Duration::from_secs(60);

/// A store as a new process opens it, whose clock is this far after the start of all clocks.
fn at(folder_options: &actix_idempotency::store::SqliteOptions, after: u64) -> (SqliteStore, Clock) {
    let clock = Clock::steered();
    clock.advance(Duration::from_secs(after));
    (SqliteStore::with_clock(folder_options, clock.clone()).unwrap(), clock)
}

#[actix_web::test]
async fn a_clock_that_was_set_back_makes_no_record_last_longer() {
    let folder = Folder::new();
    let options = options(folder.new_file());
    let (store, clock) = at(&options, 1000);
    done(&store, 1, b"one", TTL).await;
    clock.advance(Duration::from_secs(50));
    done(&store, 2, b"two", TTL).await;
    drop(store);
    // A thousand seconds back, after a restart. The first call of the process is a look.
    let (store, clock) = at(&options, 50);
    let Begin::Completed(found) = store.begin(&ask(1)).await.unwrap() else { panic!("it is stored") };
    assert!(found.remaining <= Duration::from_secs(10), "{:?}", found.remaining);
    // Time stands still until the clock has caught up.
    clock.advance(Duration::from_secs(990));
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::Completed(_)));
    clock.advance(Duration::from_secs(20));
    assert_eq!(claim(&store, &ask(1)).await.attempt, 1, "the record has expired");
    assert!(matches!(store.begin(&ask(2)).await.unwrap(), Begin::Completed(_)));
}

#[actix_web::test]
async fn fencing_tokens_grow_over_restarts_and_steps_of_the_clock() {
    let folder = Folder::new();
    let options = options(folder.new_file());
    let mut last = 0;
    for (n, after) in (1..).zip([500, 1_000_000, 3, 3, 999_999]) {
        let (store, _) = at(&options, after);
        let fence = claim(&store, &ask(n)).await.fence;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}

#[actix_web::test]
async fn a_claim_ends_neither_sooner_nor_later_when_the_clock_is_set_back() {
    let folder = Folder::new();
    let options = options(folder.new_file());
    let (store, clock) = at(&options, 1000);
    let held = claim(&store, &ask(1).lease(TTL)).await;
    drop(store);
    let (store, back) = at(&options, 0);
    store.check().await.unwrap();
    // The store was dropped, so the owner is lost at once.
    let taken = claim(&store, &ask(1).lease(TTL)).await;
    assert_eq!((taken.attempt, taken.taken_over), (2, true));
    back.advance(Duration::from_secs(1059));
    assert!(matches!(store.begin(&ask(1)).await.unwrap(), Begin::InFlight(_)));
    back.advance(Duration::from_secs(1));
    assert_eq!(claim(&store, &ask(1)).await.attempt, 3);
    assert_eq!(clock.now(), Clock::steered().now() + 1_000_000_000, "the other clock stands still");
    assert!(held.fence < taken.fence);
}

#[actix_web::test]
async fn a_clock_that_was_ahead_ends_no_answer_that_was_stored_after_it_was_put_right() {
    let folder = Folder::new();
    let options = options(folder.new_file());
    let (store, _) = at(&options, 1_000_000);
    done(&store, 1, b"ahead", TTL).await;
    drop(store);
    let (store, clock) = at(&options, 10);
    let held = done(&store, 2, b"right", TTL).await;
    clock.advance(Duration::from_secs(59));
    for n in [1, 2] {
        assert!(matches!(store.begin(&ask(n)).await.unwrap(), Begin::Completed(_)));
    }
    assert_eq!(store.inspect(&held.id).await.unwrap().unwrap().record, Some(record(b"right")));
    assert_eq!(store.inspect(&held.id).await.unwrap().unwrap().state, RecordState::Completed);
}
