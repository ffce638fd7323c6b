//! A changed index key, and a changed key of the ring, are seen before anything runs.

use actix_idempotency::{ConfigError, Idempotency, settings::Encryption};

use super::common::{BODY, KEY, Shared, ask, count, keys, process, runs, service, with_index};

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
