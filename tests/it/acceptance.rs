//! The suite that every store must pass.

use std::{collections::HashMap, time::Duration};

use actix_idempotency::{
    Storage,
    store::{Clock, ComposedStore, MemoryLimits, MemoryStore, StoreError, ThreadLock},
    testing::{FaultyStore, accept_composed_store, accept_store},
};
use actix_idempotency::{
    settings::OnUnknown,
    store::{Fate, Mode},
};
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::{prelude::*, test_runner::TestRunner};

use crate::model::{Answer, Model, Step, Subject, steps};

#[actix_web::test]
async fn the_memory_store() {
    accept_store(async || {
        let clock = Clock::steered();
        let store = MemoryStore::with_clock(MemoryLimits::default(), clock.clone());
        (store, move |by| clock.advance(by))
    })
    .await;
}

#[actix_web::test]
async fn a_store_that_could_fail_and_does_not() {
    accept_store(async || {
        let clock = Clock::steered();
        let (store, _) = FaultyStore::new(MemoryStore::with_clock(MemoryLimits::default(), clock.clone()));
        (store, move |by| clock.advance(by))
    })
    .await;
}

#[derive(Default)]
struct Shelf {
    values: Mutex<HashMap<String, (Duration, Bytes)>>,
    now: std::sync::Arc<Mutex<Duration>>,
}

impl Storage for Shelf {
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
        let (clock, shelf) = (Clock::steered(), Shelf::default());
        let now = shelf.now.clone();
        let store = ComposedStore::new(shelf, ThreadLock::with_clock(clock.clone()), "lock");
        let advance = move |by| {
            clock.advance(by);
            *now.lock() += by;
        };
        (store, advance)
    })
    .await;
}

/// The random sequences, as far as such a combination can follow: one payload, and leases that hold.
#[test]
fn a_storage_with_a_lock_does_what_the_model_does() {
    let runtime = actix_web::rt::System::new();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2000));
    let played = runner.run(&steps(), |steps| {
        let (clock, shelf) = (Clock::steered(), Shelf::default());
        let now = shelf.now.clone();
        let store = ComposedStore::new(shelf, ThreadLock::with_clock(clock.clone()), "lock");
        let mut advance = |by| {
            clock.advance(by);
            *now.lock() += by;
        };
        let mut subject = Subject::new(&store, 0, &mut advance);
        runtime.block_on(async {
            let mut model = Model::default();
            for (n, step) in steps.iter().enumerate() {
                let step = match *step {
                    Step::Begin { id, token, .. } => {
                        // Its promises end with a lock's lease, so none ends here.
                        let lease = 1000;
                        // A token is of one request, and so of one mode.
                        let mode = if token > 1 { Mode::Again } else { Mode::Once };
                        Step::Begin { id, token, lease, mode, fingerprint: 0, on_unknown: OnUnknown::Rerun }
                    }
                    Step::Renew { claim, .. } => Step::Renew { claim, lease: 1000 },
                    // The same owner always says the same.
                    Step::Complete { claim, ttl, .. } => Step::Complete { claim, ttl, body: model.token(claim) },
                    Step::Release { claim, .. } => Step::Release { claim, fate: Fate::Free },
                    Step::Forget { .. } | Step::Inspect { .. } => continue,
                    step @ Step::Advance { .. } => step,
                };
                let (expected, answered) = (model.step(step), subject.step(step).await);
                let alike = match (&expected, &answered) {
                    // A repeated call does not find what has expired meanwhile.
                    (Answer::Fresh { previous, .. }, Answer::Fresh { previous: got, .. }) => got.is_none() || previous == got,
                    // What is stored answers, also while it is run over.
                    (Answer::InFlight, Answer::Completed(_))
                    | (Answer::Renewed(_), Answer::Renewed(_))
                    // A call that is repeated finds what it stored beneath another's claim.
                    | (Answer::Superseded(None), Answer::Stored)
                    | (Answer::Superseded(_), Answer::Superseded(_)) => true,
                    _ => expected == answered,
                };
                prop_assert!(alike, "at step {n}: {step:?}: the model says {expected:?}, the store {answered:?}");
            }
            Ok(())
        })
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
}

/// The suite must be able to fail: a store that forgets to compare the owner's token does.
#[actix_web::test]
#[should_panic(expected = "replaced")]
async fn a_store_without_compare_and_set_is_caught() {
    use crate::common::as_within;

    /// Lets anybody release.
    struct Careless(MemoryStore, std::sync::Arc<Mutex<Option<actix_idempotency::store::Claim>>>);

    use actix_idempotency::{
        record::Record,
        store::{Begin, BeginRequest, Claim, Completion, Fate, Store, StoreFuture},
    };

    impl Store for Careless {
        fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
            StoreFuture::boxed(async move {
                let answer = self.0.begin(request).await?;
                if let Begin::Fresh { claim, .. } = &answer {
                    *self.1.lock() = Some(claim.clone());
                }
                Ok(answer)
            })
        }
        as_within!();
        fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
            self.0.complete(claim, record, ttl)
        }
        fn release<'a>(&'a self, _: &'a Claim, fate: Fate) -> StoreFuture<'a, bool> {
            StoreFuture::boxed(async move {
                let owner = self.1.lock().clone().expect("somebody claimed");
                self.0.release(&owner, fate).await
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
