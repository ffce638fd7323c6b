//! `encryption.mode = client`: the keys of the server and the store together do not open a record.

use actix_idempotency::{
    Principal,
    settings::{Encryption, SealingMode},
};
use serde_json::{Value, json};

use super::common::{
    BODY, KEY, STEP, SUBJECT, Shared, ask, build, count, keys, operate, process, runs, service, settings,
};

fn client(ring: &[(u16, u8)]) -> Encryption {
    let mut encryption = keys(ring);
    encryption.mode = SealingMode::Client;
    encryption
}

#[actix_web::test]
async fn the_clients_key_opens_its_record_and_operators_see_that_it_is_sealed() {
    let (store, runs) = (Shared::default(), runs());
    let idempotency = process(&store, client(&[(1, 1)]));
    let app = service(&idempotency, &runs).await;
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), true));
    assert_eq!(ask(&app, "/pay", &format!("\"{KEY}\"")).await, (201, BODY.into(), true), "the key as it is parsed");
    assert_eq!(ask(&app, "/steps", "steps").await.0, 503);
    assert_eq!(ask(&app, "/steps", "steps").await, (201, STEP.into(), false));
    assert_eq!(count(&runs), 3);

    let (status, page) = operate(&app, "records", Value::Null).await;
    assert_eq!(status, 200);
    let records = page["records"].as_array().unwrap();
    assert_eq!(records.len(), 2, "{page}");
    for record in records {
        assert_eq!((&record["sealed"], &record["response"]), (&json!(true), &Value::Null), "{record}");
    }
    let id = idempotency.record_id("default", &Principal::new(SUBJECT), KEY).to_string();
    let (status, shown) = operate(&app, &format!("records/default/{id}?body=true"), Value::Null).await;
    assert_eq!((status, &shown["sealed"], &shown["response"]), (200, &json!(true), &Value::Null));
    let wanted = json!({ "key": KEY, "principal": SUBJECT, "body": true });
    let (_, found) = operate(&app, "find", wanted).await;
    assert_eq!(found["record"]["response"]["body"]["data"], BODY, "{found}");
    assert_eq!(found["record"].get("sealed"), None);

    let seen = idempotency.inspect("default", &id.parse().unwrap()).await.unwrap().unwrap();
    assert!(seen.record.unwrap().is_sealed());
    let found = idempotency.find("default", &Principal::new(SUBJECT), KEY).await.unwrap().unwrap();
    assert_eq!(found.record.unwrap().response().unwrap().body().unwrap(), BODY);
}

#[actix_web::test]
async fn a_process_may_change_the_mode() {
    let (store, runs) = (Shared::default(), runs());
    let mut unlocked = settings(client(&[(1, 1)]));
    unlocked.lock.enable = false;
    for (n, settings) in [settings(client(&[(1, 1)])), unlocked].into_iter().enumerate() {
        let app = service(&build(&store, settings).unwrap(), &runs).await;
        let key = format!("k{n}");
        assert_eq!(ask(&app, "/pay", &key).await, (201, BODY.into(), false));
        assert_eq!(ask(&app, "/pay", &key).await, (201, BODY.into(), true));
    }
    let app = service(&process(&store, keys(&[(1, 1)])), &runs).await;
    let (status, problem, _) = ask(&app, "/pay", "k0").await;
    assert_eq!((status, count(&runs)), (201, 2), "{problem}");
}
