//! Apps in this process, without sockets. Each test runs on a new thread, because an instance looks at which other
//! instances were made on its thread.

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

pub(crate) const MARKER: &str = "idempotent-replayed";

/// Runs a test on a new thread, where no instance was made before.
pub(crate) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || rt::System::new().block_on(test())).join().expect("the test passes");
}

/// Counts how often a handler ran.
#[derive(Clone, Default)]
pub(crate) struct Runs(pub(crate) Rc<Cell<u32>>);

impl Runs {
    pub(crate) fn next(&self) -> u32 {
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
pub(crate) use app;

pub(crate) fn post(path: &str, key: Option<&str>) -> TestRequest {
    let request = TestRequest::post().uri(path);
    match key {
        Some(key) => request.insert_header(("idempotency-key", key)),
        None => request,
    }
}

pub(crate) async fn send<S, B>(app: &S, request: TestRequest) -> (StatusCode, header::HeaderMap, web::Bytes)
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let response = app.call(request.to_request()).await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let Ok(body) = to_bytes(response.into_body()).await else { panic!("the body of the answer broke off") };
    (status, headers, body)
}
