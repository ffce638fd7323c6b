//! Apps whose outermost layer looks, at each answer, for what it knows of the request.

use std::{
    cell::{Cell, RefCell},
    future::{Ready, ready},
};

use actix_idempotency::IdempotencyInfo;
use actix_service::{Service, Transform, forward_ready};
use actix_web::{
    Error, HttpMessage as _, HttpRequest, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
    test::TestRequest,
    web,
};

use crate::common::in_process;

/// The layer outside puts this into the request.
pub(super) struct Mark;

/// App data.
#[derive(Clone)]
pub(super) struct AppThing;

thread_local! {
    static SEEN: RefCell<String> = const { RefCell::new(String::new()) };
    static RUNS: Cell<u32> = const { Cell::new(0) };
    /// How often the layer [`ActsInCall`] was called.
    pub(super) static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Everything is found: the extension, the app data, the pattern of the route, the cookie and the header.
pub(super) const ALL: &str = "extension data pattern cookie header";

/// As a session does: leaves something in the request, and looks for it at the answer.
pub(super) async fn outside(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    request.extensions_mut().insert(Mark);
    let response = next.call(request).await?;
    let request = response.request();
    let has_mark = request.extensions().contains::<Mark>();
    let found = [
        ("extension", has_mark),
        ("data", request.app_data::<web::Data<AppThing>>().is_some()),
        ("pattern", request.match_pattern().is_some()),
        ("cookie", request.cookie("c").is_some()),
        ("header", request.headers().contains_key("x-any")),
    ];
    let names: Vec<&str> = found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect();
    SEEN.set(names.join(" "));
    Ok(response)
}

/// A layer between two instances that acts in its `call`, and so at copies of requests too.
#[derive(Clone, Copy)]
pub(super) struct ActsInCall;

pub(super) struct ActsInCallService<S> {
    inner: S,
}

impl<S, B> Transform<S, ServiceRequest> for ActsInCall
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type InitError = ();
    type Transform = ActsInCallService<S>;
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(ActsInCallService { inner: service }))
    }
}

impl<S, B> Service<ServiceRequest> for ActsInCallService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = S::Future;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        CALLS.set(CALLS.get() + 1);
        self.inner.call(request)
    }
}

/// Answers 201 with the number of the run.
pub(super) async fn handler(request: HttpRequest) -> HttpResponse {
    RUNS.set(RUNS.get() + 1);
    assert!(!request.headers().contains_key("x-panic"), "the handler panics, as it was told to");
    HttpResponse::Created().body(RUNS.get().to_string())
}

/// Answers 201, and says whether there was an answer before.
pub(super) async fn manual(info: web::ReqData<IdempotencyInfo>) -> HttpResponse {
    HttpResponse::Created().body(info.exists().to_string())
}

macro_rules! witnessed {
    ($($chain:tt)*) => {
        actix_web::test::init_service(
            actix_web::App::new()
                .app_data(actix_web::web::Data::new(actix_idempotency::Idempotency::in_memory()))
                .app_data(actix_web::web::Data::new($crate::policy::witness::AppThing))
                $($chain)*
        )
        .await
    };
}
pub(super) use witnessed;

/// A request with everything that [`outside`] looks for. An empty key is none.
pub(super) fn post(path: &str, key: &str) -> TestRequest {
    let request = in_process::post(path, Some(key).filter(|key| !key.is_empty()));
    request.insert_header(("cookie", "c=1")).insert_header(("x-any", "1"))
}

/// An answer, and what the layer outside found when it came.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) is_replay: bool,
    pub(super) body: String,
    pub(super) found: String,
}

impl Seen {
    pub(super) fn outcome(&self) -> (u16, bool, &str) {
        (self.status, self.is_replay, &self.found)
    }
}

pub(super) async fn send<S, B>(app: &S, request: TestRequest) -> Seen
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    SEEN.take();
    let (status, headers, body) = in_process::send(app, request).await;
    let (status, is_replay) = (status.as_u16(), headers.contains_key(in_process::MARKER));
    Seen { status, is_replay, body: String::from_utf8_lossy(&body).into_owned(), found: SEEN.take() }
}
