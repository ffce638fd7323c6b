//! Steps: results that outlive a run that fails, and the errors of handlers that use them wrongly.

mod at_most_once;
mod claims;
mod journal;
mod resume;
mod unprotected;

use std::{cell::RefCell, rc::Rc};

use actix_http::Request;
use actix_idempotency::{Idempotency, IdempotencyInfo, IdempotencyKey};
use actix_web::{
    App, Error, HttpResponse,
    body::MessageBody,
    dev::{Service, ServiceResponse},
    error::ErrorServiceUnavailable,
    test::init_service,
    web,
};

use crate::common::in_process::{post, send};

/// What closures did, in their order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.borrow_mut().push(line.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// An App with one handler under a wrap.
async fn app_of<F>(
    idempotency: Idempotency,
    wrap: IdempotencyKey,
    work: F,
) -> impl Service<Request, Response = ServiceResponse<impl MessageBody>, Error = Error>
where
    F: AsyncFn(IdempotencyInfo) -> Result<HttpResponse, Error> + 'static,
{
    let work = Rc::new(work);
    let handler = move |info: IdempotencyInfo| {
        let work = work.clone();
        async move { work(info).await }
    };
    let app = App::new().app_data(web::Data::new(idempotency)).wrap(wrap);
    init_service(app.route("/", web::post().to(handler))).await
}

/// The status and the body of the answer to a request with this key.
async fn ask<B: MessageBody>(
    app: &impl Service<Request, Response = ServiceResponse<B>, Error = Error>,
    key: &str,
) -> (u16, String) {
    let (status, _, body) = send(app, post("/", Some(key))).await;
    (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

/// The status of an answer, and the last part of its problem type.
async fn refusal<B: MessageBody>(
    app: &impl Service<Request, Response = ServiceResponse<B>, Error = Error>,
    key: &str,
) -> (u16, String) {
    let (status, body) = ask(app, key).await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("no problem: {status} {body}"));
    (status, json["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned())
}

fn later() -> Error {
    ErrorServiceUnavailable("later")
}
