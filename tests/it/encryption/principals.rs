//! The records of one principal: exported and erased.

use actix_idempotency::{Idempotency, IdempotencyKey, Principal, settings::Encryption, store::RecordState};
use actix_web::{App, HttpResponse, test::init_service, web};
use serde_json::json;

use super::common::{Shared, keys, operate, process, with_index};
use crate::common::in_process::{post, send};

/// Ten records of two principals each, and some of nobody.
async fn fill(idempotency: &Idempotency) {
    let by_header = |request: &actix_web::dev::ServiceRequest| {
        Some(Principal::new(request.headers().get("x-user")?.to_str().ok()?))
    };
    let app = init_service(
        App::new()
            .wrap(IdempotencyKey::default().using(idempotency).principal(by_header))
            .route("/", web::post().to(async || HttpResponse::Created().body("paid"))),
    )
    .await;
    for n in 0..10 {
        let key = format!("k{n}");
        for user in ["alice", "bob"] {
            assert_eq!(send(&app, post("/", Some(&key)).insert_header(("x-user", user))).await.0, 201);
        }
        assert_eq!(send(&app, post("/", Some(&key))).await.0, 201);
    }
}

#[actix_web::test]
async fn a_principal_is_exported_and_erased() {
    for encryption in [Encryption::default(), keys(&[(1, 1)]), with_index(keys(&[(1, 1)]), 9)] {
        let store = Shared::default();
        let idempotency = process(&store, encryption);
        fill(&idempotency).await;
        let (alice, bob) = (Principal::new("alice"), Principal::new("bob"));
        let of = async |principal: &Principal| {
            idempotency.records_of_principal("default", principal, None, 100).await.unwrap()
        };
        let exported = of(&alice).await;
        assert_eq!(exported.len(), 10);
        assert!(exported.is_sorted_by_key(|record| record.id));
        for record in &exported {
            assert_eq!(record.state, RecordState::Completed);
            assert_eq!(record.record.as_ref().unwrap().response().unwrap().body().unwrap(), "paid");
        }
        let after = exported[3].id;
        let rest = idempotency.records_of_principal("default", &alice, Some(after), 4).await.unwrap();
        assert_eq!(rest.iter().map(|record| record.id).collect::<Vec<_>>(), [4, 5, 6, 7].map(|n| exported[n].id));

        let erased = idempotency.forget_principal("default", &alice).await.unwrap();
        assert_eq!((erased.removed, erased.in_flight.len()), (10, 0));
        assert_eq!((of(&alice).await.len(), of(&bob).await.len()), (0, 10));
        let anonymous = idempotency.forget_principal("default", &Principal::anonymous()).await.unwrap_err();
        assert!(anonymous.to_string().contains("anonymous"), "{anonymous}");
        assert!(idempotency.forget_principal("default", &Principal::new("carol")).await.unwrap().removed == 0);
    }
}

#[actix_web::test]
async fn operators_export_and_erase_with_a_reason() {
    let store = Shared::default();
    let idempotency = process(&store, with_index(keys(&[(1, 1)]), 9));
    fill(&idempotency).await;
    let app = init_service(App::new().service(web::scope("/admin").service(idempotency.admin_scope()))).await;
    let (status, page) = operate(&app, "principals/export", json!({ "principal": "alice" })).await;
    assert_eq!((status, page["records"].as_array().unwrap().len()), (200, 10), "{page}");
    assert_eq!(page["records"][0]["response"]["body"]["data"], "paid");
    let next = json!({ "principal": "alice", "after": page["next"] });
    let (_, last) = operate(&app, "principals/export", next).await;
    assert_eq!(last, json!({ "records": [], "next": null }));

    for wrong in [
        json!({ "principal": "alice", "reason": " " }),
        json!({ "reason": "asked for" }),
        json!({ "principal": "alice", "authorization": "x", "reason": "asked for" }),
    ] {
        assert_eq!(operate(&app, "principals/forget", wrong.clone()).await.0, 400, "{wrong}");
    }
    let wanted = json!({ "principal": "alice", "reason": "asked for" });
    let (status, erased) = operate(&app, "principals/forget", wanted).await;
    assert_eq!((status, erased), (200, json!({ "removed": 10, "in_flight": [] })));
    assert_eq!(idempotency.list("default", None, 100).await.unwrap().len(), 20);
}
