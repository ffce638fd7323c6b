//! Apps in process, each on a thread of its own, since instances count what was made on their thread.

mod answers;
mod nesting;
mod ordering;
mod reports;
mod traces;

use std::{cell::Cell, future::Future, rc::Rc};

use actix_web::{
    Error,
    body::{MessageBody, to_bytes},
    dev::{Service, ServiceResponse},
    http::{StatusCode, header},
    rt,
    test::TestRequest,
    web,
};

pub(super) const MARKER: &str = "idempotent-replayed";

/// Runs a test on a thread where nothing was announced before.
pub(super) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || rt::System::new().block_on(test())).join().expect("the test passes");
}

/// A handler's counter: how often it ran.
#[derive(Clone, Default)]
pub(super) struct Runs(pub(super) Rc<Cell<u32>>);

impl Runs {
    pub(super) fn next(&self) -> u32 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

macro_rules! app {
    ($($chain:tt)*) => {
        init_service(
            App::new().app_data(web::Data::new(Idempotency::in_memory())) $($chain)*
        )
        .await
    };
}
pub(super) use app;

pub(super) fn post(path: &str, key: Option<&str>) -> TestRequest {
    let request = TestRequest::post().uri(path);
    match key {
        Some(key) => request.insert_header(("idempotency-key", key)),
        None => request,
    }
}

pub(super) async fn send<S, B>(app: &S, request: TestRequest) -> (StatusCode, header::HeaderMap, web::Bytes)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let response = app.call(request.to_request()).await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let Ok(body) = to_bytes(response.into_body()).await else { panic!("a whole body") };
    (status, headers, body)
}
