//! A changed index key, and a changed key of the ring, are seen before anything runs.

use std::time::Duration;

use actix_idempotency::{
    ConfigError, Idempotency,
    record::Record,
    settings::Encryption,
    store::{Begin, BeginRequest, Claim, Completion, ReleaseAs, Store, StoreFuture},
};

use super::common::{BODY, KEY, Shared, ask, count, keys, process, runs, service, settings, with_index};
#[cfg(any(feature = "redis", feature = "sqlite"))]
use crate::common::Server;

/// What a start with these keys says.
async fn start(store: &Shared, encryption: Encryption) -> Result<Idempotency, ConfigError> {
    let idempotency = process(store, encryption);
    idempotency.check().await.map(|()| idempotency)
}

#[track_caller]
fn refuses(start: Result<Idempotency, ConfigError>, what: &str) {
    let error = start.unwrap_err().to_string();
    assert!(error.starts_with("cache `default`: ") && error.contains(what), "{error}");
}

#[actix_web::test]
async fn another_index_key_does_not_start_unless_it_is_meant() {
    let (store, runs) = (Shared::default(), runs());
    let first = start(&store, with_index(keys(&[(1, 1)]), 8)).await.unwrap();
    let app = service(&first, &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    start(&store, with_index(keys(&[(2, 2), (1, 1)]), 8)).await.unwrap();
    for other in [with_index(keys(&[(1, 1)]), 9), keys(&[(1, 1)]), Encryption::default()] {
        refuses(start(&store, other).await, "`encryption.index_key` is not the one");
    }
    // A process that does not check does not run either.
    let app = service(&process(&store, with_index(keys(&[(1, 1)]), 9)), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 503);
    assert_eq!(count(&runs), 1);

    let mut meant = with_index(keys(&[(1, 1)]), 9);
    meant.index_key_is_new = true;
    let app = service(&start(&store, meant).await.unwrap(), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false), "earlier records are not found");
    start(&store, with_index(keys(&[(1, 1)]), 9)).await.unwrap();
    refuses(start(&store, with_index(keys(&[(1, 1)]), 8)).await, "`encryption.index_key` is not the one");
}

#[actix_web::test]
async fn an_index_key_for_a_store_that_has_records_is_a_change_too() {
    let (store, runs) = (Shared::default(), runs());
    let app = service(&start(&store, keys(&[(1, 1)])).await.unwrap(), &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    refuses(start(&store, with_index(keys(&[(1, 1)]), 9)).await, "`encryption.index_key` is not the one");
    start(&store, keys(&[(1, 1)])).await.unwrap();
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true), "nothing was changed");
}

#[actix_web::test]
async fn another_key_under_the_same_number_does_not_start() {
    let store = Shared::default();
    start(&store, keys(&[(1, 1), (2, 2)])).await.unwrap();
    start(&store, keys(&[(2, 2)])).await.unwrap();
    refuses(start(&store, keys(&[(2, 2), (1, 3)])).await, "key 1 of `encryption.keys` is not the key of that number");
    refuses(start(&store, keys(&[(1, 2), (2, 1)])).await, "key 1 of `encryption.keys`");
    start(&store, keys(&[(3, 3), (2, 2)])).await.unwrap();
}

/// A store that takes its time to give up a claim.
#[derive(Clone)]
struct SlowRelease(Shared);

impl Store for SlowRelease {
    fn begin<'a>(&'a self, request: &'a BeginRequest) -> StoreFuture<'a, Begin> {
        self.0.begin(request)
    }

    fn complete<'a>(&'a self, claim: &'a Claim, record: &'a Record, ttl: Duration) -> StoreFuture<'a, Completion> {
        self.0.complete(claim, record, ttl)
    }

    fn release<'a>(&'a self, claim: &'a Claim, release_as: ReleaseAs) -> StoreFuture<'a, bool> {
        StoreFuture::boxed(async move {
            actix_web::rt::time::sleep(Duration::from_millis(100)).await;
            self.0.release(claim, release_as).await
        })
    }

    fn answers_at_once(&self) -> bool {
        false
    }

    fn needs_renewal(&self) -> bool {
        false
    }

    crate::common::delegate_to_inner_store!();
}

/// The first of them holds the claim of the check when the second one asks.
#[actix_web::test]
async fn two_starts_at_once_are_refused_as_one_is() {
    let store = Shared::default();
    let app = service(&start(&store, keys(&[(1, 1)])).await.unwrap(), &runs()).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    let process = || {
        let mut settings = settings(with_index(keys(&[(1, 1)]), 9));
        settings.storage.class = "slow".into();
        Idempotency::builder().settings(settings).store("slow", SlowRelease(store.clone())).build().unwrap()
    };
    let (first, second) = (process(), process());
    let (first, second) = futures_util::future::join(first.check(), second.check()).await;
    for checked in [first, second] {
        let error = checked.unwrap_err().to_string();
        assert!(error.contains("`encryption.index_key` is not the one"), "{error}");
    }
}

/// Starts two servers at the same moment, on an empty store each time.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn one_of_two_keys_starts(rounds: usize, location: impl Fn() -> String) {
    let class = |location: &str| if location.contains("://") { "redis" } else { "sqlite" };
    for round in 0..rounds {
        for (keys, started) in [([8, 9], 1), ([7, 7], 2)] {
            let (location, namespace) = (location(), format!("round-{round}-{started}"));
            let servers = crate::common::at_once(2, |n| {
                let key = format!("{:02x}", keys[n]).repeat(32);
                Server::start_unless_refused(&[
                    ("IDEMPOTENCY_KEY__STORAGE__CLASS", class(&location)),
                    ("IDEMPOTENCY_KEY__STORAGE__LOCATION", &location),
                    ("IDEMPOTENCY_KEY__STORAGE__NAMESPACE", &namespace),
                    ("IDEMPOTENCY_KEY__ENCRYPTION__INDEX_KEY", "env:INDEX"),
                    ("INDEX", &key),
                ])
            });
            assert_eq!(servers.iter().flatten().count(), started, "round {round} with {keys:?}");
        }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn of_two_processes_with_different_index_keys_one_starts_on_sqlite() {
    let folder = crate::store::sqlite::fixture::Folder::new();
    one_of_two_keys_starts(8, || folder.new_file().to_str().unwrap().to_owned());
}

#[cfg(feature = "redis")]
#[test]
fn of_two_processes_with_different_index_keys_one_starts_on_redis() {
    let redis = crate::store::redis::fixture::Redis::start();
    one_of_two_keys_starts(6, || redis.url());
}

#[actix_web::test]
async fn the_values_of_the_checks_are_no_records() {
    let store = Shared::default();
    let idempotency = start(&store, with_index(keys(&[(1, 1), (2, 2)]), 9)).await.unwrap();
    assert!(!store.0.is_empty());
    assert!(idempotency.list("default", None, 1).await.unwrap().is_empty());
    let app = service(&idempotency, &runs()).await;
    for n in 0..9 {
        assert_eq!(ask(&app, "/pay", &format!("k{n}")).await.0, 201);
    }
    let (mut seen, mut after) = (0, None);
    loop {
        let page = idempotency.list("default", after, 1).await.unwrap();
        let Some(last) = page.last() else { break };
        seen += page.len();
        after = Some(last.id);
    }
    assert_eq!(seen, 9);
}
