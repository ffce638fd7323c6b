//! The acceptance suite and the random sequences of the model, for the memory store and for composed stores.

use std::{collections::HashMap, time::Duration};

use actix_idempotency::store::{IfCompleted, ReleaseAs};
use actix_idempotency::{
    Storage,
    store::{Clock, ComposedStore, MemoryLimits, MemoryStore, StoreError, ThreadLock},
    testing::{
        FaultyStore, accept_composed_store, accept_store,
        model::{Answer, Ask, Event, Model, Subject, compare_with_model, events},
    },
};
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::{prelude::*, test_runner::TestRunner};

#[actix_web::test]
async fn the_memory_store() {
    accept_store(async || {
        let clock = Clock::steered();
        let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        (store, move |by| clock.advance(by))
    })
    .await;
}

#[test]
fn the_memory_store_does_what_the_model_does() {
    compare_with_model(3000, async || {
        let clock = Clock::steered();
        let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        (store, move |by| clock.advance(by))
    });
}

#[actix_web::test]
async fn a_faulty_store_without_faults() {
    accept_store(async || {
        let clock = Clock::steered();
        let (store, _) = FaultyStore::new(MemoryStore::with_clock(MemoryLimits::default(), clock.clone()));
        (store, move |by| clock.advance(by))
    })
    .await;
}

/// A storage in a map, whose time is steered.
#[derive(Default)]
struct MapStorage {
    values: Mutex<HashMap<String, (Duration, Bytes)>>,
    now: std::sync::Arc<Mutex<Duration>>,
}

impl Storage for MapStorage {
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let now = *self.now.lock();
        Ok(self.values.lock().get(name).filter(|(ends, _)| now < *ends).map(|(_, value)| value.clone()))
    }

    async fn put(&self, name: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        let ends = *self.now.lock() + ttl;
        self.values.lock().insert(name.to_owned(), (ends, value));
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.values.lock().remove(name).is_some())
    }
}

#[actix_web::test]
async fn a_storage_with_a_lock() {
    accept_composed_store(async || {
        let (clock, storage) = (Clock::steered(), MapStorage::default());
        let now = storage.now.clone();
        let store = ComposedStore::new(storage, ThreadLock::with_clock(clock.clone()), "lock");
        let advance = move |by| {
            clock.advance(by);
            *now.lock() += by;
        };
        (store, advance)
    })
    .await;
}

/// The random sequences, restricted to what a storage with a lock can promise: one payload, and leases that do not end.
#[test]
fn a_storage_with_a_lock_does_what_the_model_does() {
    let runtime = actix_web::rt::System::new();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2000));
    let played = runner.run(&events(), |events| {
        let (clock, storage) = (Clock::steered(), MapStorage::default());
        let now = storage.now.clone();
        let store = ComposedStore::new(storage, ThreadLock::with_clock(clock.clone()), "lock");
        let mut advance = |by| {
            clock.advance(by);
            *now.lock() += by;
        };
        let mut subject = Subject::new(&store, 0, &mut advance);
        runtime.block_on(async {
            let mut model = Model::default();
            for (n, event) in events.iter().enumerate() {
                let event = match *event {
                    Event::Begin(Ask { id, token, .. }) => {
                        // The promises of a composed store end with the lease of the lock, so no lease ends here.
                        let lease = 1000;
                        // A token belongs to one request, which always asks with the same `if_completed`.
                        let if_completed = if token > 1 { IfCompleted::Rerun } else { IfCompleted::Replay };
                        Event::Begin(Ask { id, lease, if_completed, ..Ask::of(token) })
                    }
                    Event::Renew { claim, .. } => Event::Renew { claim, lease: 1000 },
                    // An owner always completes with the same response.
                    Event::Complete { claim, ttl, .. } => Event::Complete { claim, ttl, body: model.token(claim) },
                    Event::Release { claim, .. } => Event::Release { claim, release_as: ReleaseAs::Free },
                    Event::Forget { .. } | Event::Inspect { .. } | Event::Restore { .. } | Event::SaveStep { .. } => continue,
                    event @ Event::Advance { .. } => event,
                };
                let (expected, answered) = (model.apply(event), subject.apply(event).await);
                let alike = match (&expected, &answered) {
                    // A repeated call does not find a record that has expired since the first call.
                    (Answer::Acquired(expected), Answer::Acquired(got)) => got.previous.is_none() || expected.previous == got.previous,
                    // A stored record is answered even while a manual request holds the claim above it.
                    (Answer::InFlight { .. }, Answer::Completed { .. })
                    // A composed store can't tell why a lock can't be renewed, nor whether it was released.
                    | (Answer::Renewed | Answer::Lost | Answer::Gone, Answer::Renewed | Answer::Lost)
                    | (Answer::Released(_), Answer::Released(_))
                    // A repeated `complete` finds the response that it stored beneath the claim of another owner.
                    | (Answer::Superseded(None), Answer::Stored)
                    | (Answer::Superseded(_), Answer::Superseded(_)) => true,
                    _ => expected == answered,
                };
                prop_assert!(alike, "at event {n}: {event:?}: the model says {expected:?}, the store {answered:?}");
            }
            Ok(())
        })
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

/// Shows that the suite can fail: this store does not compare the owner token.
#[actix_web::test]
#[should_panic(expected = "replaced")]
async fn a_store_without_compare_and_set_is_caught() {
    use crate::common::delegate_to_inner_store;

    /// Releases the claim of whoever holds it, whatever token the caller has. The second field is the claim granted
    /// last.
    struct Careless(MemoryStore, std::sync::Arc<Mutex<Option<actix_idempotency::store::Claim>>>);

    use actix_idempotency::{
        record::Record,
        store::{Begin, BeginRequest, Claim, Completion, ReleaseAs, Store, StoreFuture},
    };

    impl Store for Careless {
        fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
            StoreFuture::boxed(async move {
                let answer = self.0.begin(request).await?;
                if let Begin::Acquired(acquired) = &answer {
                    *self.1.lock() = Some(acquired.claim.clone());
                }
                Ok(answer)
            })
        }
        delegate_to_inner_store!();
        fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
            self.0.complete(claim, record, ttl)
        }
        fn release<'a>(&'a self, _: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
            StoreFuture::boxed(async move {
                let owner = self.1.lock().clone().expect("a claim was granted");
                self.0.release(&owner, release_as).await
            })
        }
    }
    accept_store(async || {
        let clock = Clock::steered();
        let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        (Careless(store, std::sync::Arc::default()), move |by| clock.advance(by))
    })
    .await;
}
