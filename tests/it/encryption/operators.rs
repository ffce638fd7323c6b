//! What operators see of sealed records.

use actix_idempotency::Principal;
use serde_json::{Value, json};

use super::common::{BODY, KEY, SUBJECT, Shared, ask, keys, operate, process, runs, service, with_index};

#[actix_web::test]
async fn the_keys_of_the_server_open_records_for_operators() {
    let store = Shared::default();
    let idempotency = process(&store, with_index(keys(&[(1, 1)]), 9));
    let app = service(&idempotency, &runs()).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    let (_, page) = operate(&app, "records?status=2xx", Value::Null).await;
    let id = page["records"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, idempotency.record_id("default", &Principal::new(SUBJECT), KEY).to_string());
    assert_eq!(page["records"][0]["response"]["status"], 201, "{page}");
    let (_, shown) = operate(&app, &format!("records/default/{id}?body=true"), Value::Null).await;
    assert_eq!(shown["response"]["body"]["data"], BODY);
    let (_, found) = operate(&app, "find", json!({ "key": KEY, "principal": SUBJECT })).await;
    assert_eq!((&found["id"], &found["observed"]), (&json!(id), &json!(false)));
    let forgotten = operate(&app, &format!("records/default/{id}/forget"), json!({ "reason": "test" })).await;
    assert_eq!(forgotten.1, json!({ "forgotten": "removed" }));
    assert_eq!(ask(&app, "/pay", KEY).await, (201, BODY.into(), false));
}

#[actix_web::test]
async fn a_record_whose_key_is_missing_is_shown_as_sealed() {
    let store = Shared::default();
    let app = service(&process(&store, keys(&[(1, 1)])), &runs()).await;
    assert_eq!(ask(&app, "/pay", KEY).await.0, 201);
    let app = service(&process(&store, keys(&[(2, 2)])), &runs()).await;
    let (status, page) = operate(&app, "records", Value::Null).await;
    assert_eq!((status, &page["records"][0]["sealed"]), (200, &json!(true)), "{page}");
    let id = page["records"][0]["id"].as_str().unwrap();
    let forgotten = operate(&app, &format!("records/default/{id}/forget"), json!({ "reason": "test" })).await;
    assert_eq!(forgotten.0, 200, "what nobody can open can still be forgotten");
}
