//! Look-ups of operations whose records are sealed.

use std::time::Duration;

use actix_idempotency::{
    Idempotency, IdempotencyKey,
    settings::{Encryption, SealingMode},
};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    rt,
    test::{TestRequest, init_service},
    web,
};

use super::common::{BODY, KEY, PAYLOAD, Shared, keys, settings};
use crate::common::in_process::{post, send};

fn process(store: &Shared, mode: SealingMode, ring: &[(u16, u8)]) -> Idempotency {
    let mut encryption: Encryption = keys(ring);
    encryption.mode = mode;
    let mut settings = settings(encryption);
    settings.operations.path = Some("/operations".into());
    super::common::build(store, settings).unwrap()
}

async fn service(
    idempotency: &Idempotency,
) -> impl Service<actix_http::Request, Response = ServiceResponse<impl MessageBody + use<>>, Error = Error> + use<> {
    let wrap = IdempotencyKey::default().using(idempotency).respond_async();
    let report = async || {
        rt::time::sleep(Duration::from_millis(100)).await;
        HttpResponse::Created().body(BODY)
    };
    let app = App::new().service(web::scope("/operations").service(idempotency.operations_scope()));
    init_service(app.service(web::resource("/report").wrap(wrap).route(web::post().to(report)))).await
}

fn by(user: &str, request: TestRequest) -> TestRequest {
    request.insert_header(("x-api-key", user.to_owned()))
}

/// The answer to a look-up, and what it says.
async fn look<S, B>(app: &S, user: &str, path: &str, key: Option<&str>) -> (u16, String)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let mut request = TestRequest::get().uri(path).insert_header(("prefer", "wait=9"));
    if let Some(key) = key {
        request = request.insert_header(("idempotency-key", key));
    }
    let (status, _, body) = send(app, by(user, request)).await;
    (status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

#[actix_web::test]
async fn with_client_mode_a_look_up_needs_the_key_of_the_operation() {
    for mode in [SealingMode::Client, SealingMode::Server] {
        let (store, is_client) = (Shared::default(), mode == SealingMode::Client);
        let app = service(&process(&store, mode, &[(1, 1)])).await;
        let request = post("/report", Some(KEY)).insert_header(("prefer", "respond-async")).set_payload(PAYLOAD);
        let (status, headers, _) = send(&app, by("alice", request)).await;
        assert_eq!(status, 202);
        let location = headers.get("location").unwrap().to_str().unwrap().to_owned();

        let answered = (201, BODY.to_owned());
        assert_eq!(look(&app, "alice", &location, Some(KEY)).await, answered);
        assert_eq!(look(&app, "alice", "/operations", Some(KEY)).await, answered);
        // Another process, which has the keys of the server only.
        let app = service(&process(&store, mode, &[(2, 2), (1, 1)])).await;
        for key in [None, Some("another-key")] {
            let (status, body) = look(&app, "alice", &location, key).await;
            if is_client {
                assert_eq!((status, body.contains("/missing-key")), (400, true), "{key:?} {body}");
            } else {
                assert_eq!((status, body), answered, "the id is enough");
            }
        }
        assert_eq!(look(&app, "bob", &location, Some(KEY)).await.0, 404);
        assert_eq!(look(&app, "alice", "/operations", None).await.0, 400);
        assert_eq!(look(&app, "alice", "/operations", Some("another-key")).await.0, 404);
        assert_eq!(look(&app, "alice", &location, Some(KEY)).await, answered);
        // Where the key of the server is missing, no key of a client helps.
        let app = service(&process(&store, mode, &[(2, 2)])).await;
        let (status, body) = look(&app, "alice", &location, Some(KEY)).await;
        assert_eq!((status, body.contains("/store-unavailable")), (503, true), "{body}");
        let (status, body) = look(&app, "alice", &location, None).await;
        assert_eq!(status, if is_client { 400 } else { 503 }, "{body}");
    }
}
