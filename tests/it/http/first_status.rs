//! What a replay says of the first answer: its status, and when to look again.

use actix_idempotency::{Idempotency, IdempotencyKey, Settings};
use actix_web::{
    App, HttpResponse,
    http::{StatusCode, header},
    test::init_service,
    web,
};

use crate::common::{
    Reply, Request, Server, fresh_key,
    in_process::{MARKER, alone, post, send},
};

/// The profile that stores failures too.
const STRIPE: (&str, &str) = ("IDEMPOTENCY_KEY__PROFILE", "stripe");

fn replay_of(server: &Server, status: u16) -> Reply {
    let request = Request::post(&format!("/status/{status}")).key(&fresh_key());
    assert_eq!(server.send(request.clone()).value("idempotent-status"), None, "not a replay");
    let again = server.send(request);
    assert!(again.is_replay(), "{again:?}");
    again
}

/// A client that goes by the marker alone takes a replayed failure for a success.
#[test]
fn a_replay_whose_status_was_replaced_names_the_first_status() {
    let server = Server::start(&[STRIPE, ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "409")]);
    for status in [201, 402, 404, 422, 500] {
        let again = replay_of(&server, status);
        assert_eq!((again.status, again.values("idempotent-status")), (409, vec![&*status.to_string()]));
    }
    let again = replay_of(&server, 409);
    assert_eq!((again.status, again.value("idempotent-status")), (409, None), "the status is the first one");
}

#[test]
fn a_replay_with_its_own_status_names_no_other_one() {
    let server = Server::start(&[STRIPE, ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "none")]);
    for status in [201, 402, 404, 422, 500] {
        let again = replay_of(&server, status);
        assert_eq!((again.status, again.value("idempotent-status")), (status, None));
    }
}

#[test]
fn the_header_with_the_first_status_is_a_setting() {
    let conflict = ("IDEMPOTENCY_KEY__CONFLICT_STATUS_CODE", "409");
    let server = Server::start(&[STRIPE, conflict, ("IDEMPOTENCY_KEY__ORIGINAL_STATUS_HEADER", "none")]);
    let again = replay_of(&server, 402);
    assert_eq!((again.status, again.value("idempotent-status")), (409, None));
    let server = Server::start(&[STRIPE, conflict, ("IDEMPOTENCY_KEY__ORIGINAL_STATUS_HEADER", "X-First-Status")]);
    let again = replay_of(&server, 402);
    assert_eq!((again.value("idempotent-status"), again.value("x-first-status")), (None, Some("402")));
}

/// Beside these statuses it tells when to look at another resource, and not when to send the request again.
#[test]
fn a_stored_202_or_303_keeps_its_retry_after() {
    alone(|| async {
        let answer = |status: web::Path<u16>| async move {
            let status = StatusCode::from_u16(*status).unwrap();
            HttpResponse::build(status).insert_header((header::RETRY_AFTER, "7")).finish()
        };
        let idempotency = Idempotency::builder().settings(Settings::ietf()).build().unwrap();
        let app = App::new().app_data(web::Data::new(idempotency)).wrap(IdempotencyKey::default());
        let app = init_service(app.route("/{status}", web::post().to(answer))).await;
        for (status, kept) in [(202, Some("7")), (303, Some("7")), (201, None), (422, None)] {
            let key = format!("k{status}");
            let (_, headers, _) = send(&app, post(&format!("/{status}"), Some(&key))).await;
            assert_eq!(headers.get("retry-after").unwrap(), "7");
            let (again, headers, _) = send(&app, post(&format!("/{status}"), Some(&key))).await;
            assert_eq!((again.as_u16(), headers.contains_key(MARKER)), (status, true));
            let retry_after = headers.get("retry-after").map(|value| value.to_str().unwrap());
            assert_eq!(retry_after, kept, "{status}");
        }
    });
}

#[test]
fn the_conformance_server_says_when_to_look_again() {
    let server = Server::start(&[STRIPE]);
    for status in [202, 303] {
        let again = replay_of(&server, status);
        assert_eq!((again.status, again.value("retry-after")), (status, Some("7")));
    }
}
