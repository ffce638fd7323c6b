//! Clients, their answers, and waiting for things without waiting for ever.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::{
    Error,
    body::{MessageBody, to_bytes},
    dev::{Service, ServiceResponse},
    http::{StatusCode, header, header::HeaderMap},
    rt::{self, task::JoinHandle},
    test::TestRequest,
};
use tokio::sync::watch;

use crate::common::{
    PATIENCE,
    in_process::{MARKER, post},
};

/// The answer that a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) text: String,
    pub(super) is_replay: bool,
    kind: Option<String>,
    retry_after: Option<String>,
}

impl Reply {
    fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        Self {
            status: status.as_u16(),
            text: String::from_utf8(body.to_vec()).unwrap(),
            is_replay: headers.contains_key(MARKER),
            kind: text(header::CONTENT_TYPE),
            retry_after: text(header::RETRY_AFTER),
        }
    }

    /// The handler's answer.
    #[track_caller]
    pub(super) fn is(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.text.as_str(), self.is_replay), (status, text, false), "{self:?}");
    }

    #[track_caller]
    pub(super) fn is_replay(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.text.as_str(), self.is_replay), (status, text, true), "{self:?}");
    }

    /// A problem of this name, with the `Retry-After` that belongs to its status.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, name: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.kind.as_deref(), Some("application/problem+json"), "{self:?}");
        let json: serde_json::Value = serde_json::from_str(&self.text).unwrap();
        let base = actix_idempotency::problem::TYPE_BASE;
        assert_eq!(json["type"], format!("{base}{name}"), "{self:?}");
        assert_eq!(json["status"], status, "{self:?}");
        let retry_after = match status {
            423 | 503 => Some("1"),
            409 => Some("60"),
            _ => None,
        };
        assert_eq!(self.retry_after.as_deref(), retry_after, "{self:?}");
        assert!(!self.is_replay, "{self:?}");
    }
}

/// Sends a request, which may also end in an error that becomes a response.
pub(super) async fn send<S, B>(app: &S, request: TestRequest) -> Reply
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    match app.call(request.to_request()).await {
        Ok(response) => {
            let (status, headers) = (response.status(), response.headers().clone());
            let Ok(body) = to_bytes(response.into_body()).await else { panic!("the body of the answer broke off") };
            Reply::new(status, &headers, &body)
        }
        Err(error) => {
            let response = error.error_response();
            let (status, headers) = (response.status(), response.headers().clone());
            Reply::new(status, &headers, &to_bytes(response.into_body()).await.unwrap())
        }
    }
}

/// A text as a key.
pub(super) fn key_of(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

pub(super) async fn ask<S, B>(app: &S, path: &str, key: &str) -> Reply
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    within(send(app, post(path, Some(&key_of(key))))).await
}

/// The same key with another payload.
pub(super) async fn ask_for_another<S, B>(app: &S, path: &str, key: &str) -> Reply
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    within(send(app, post(path, Some(&key_of(key))).set_payload("another payload"))).await
}

/// Sends a request in a task. Its client leaves when the task is aborted.
pub(super) fn begin<S, B>(app: &Rc<S>, request: TestRequest) -> JoinHandle<Reply>
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let app = app.clone();
    rt::spawn(async move { send(&*app, request).await })
}

/// The answer to a request that was sent in a task.
pub(super) async fn answer_to(request: JoinHandle<Reply>) -> Reply {
    within(request).await.unwrap()
}

/// The client leaves.
pub(super) async fn leave(request: JoinHandle<Reply>) {
    request.abort();
    assert!(within(request).await.is_err(), "the request had ended");
}

/// Fails instead of waiting for ever.
pub(super) async fn within<F: Future>(future: F) -> F::Output {
    rt::time::timeout(PATIENCE, future).await.expect("it ends in time")
}

pub(super) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            rt::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(rt::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}

/// A door in a handler: the handler waits there until the test opens it.
#[derive(Clone)]
pub(super) struct Door(Arc<watch::Sender<(u32, bool)>>);

impl Door {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new((0, false))))
    }

    pub(super) async fn pass(&self) {
        self.0.send_modify(|(waiting, _)| *waiting += 1);
        let _ = self.0.subscribe().wait_for(|(_, is_open)| *is_open).await;
    }

    /// Waits until so many have arrived.
    pub(super) async fn reached_by(&self, n: u32) {
        within(self.0.subscribe().wait_for(|(waiting, _)| *waiting >= n)).await.unwrap();
    }

    pub(super) fn open(&self) {
        self.0.send_modify(|(_, is_open)| *is_open = true);
    }
}
