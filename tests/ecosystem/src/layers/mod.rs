//! The table of layers. Each layer says how a server mounts it, what a handler does with it, and what it has seen.

mod browsers;
mod handlers;
mod opentelemetry;
mod plain;
mod prometheus;
mod quotas;
mod sentry;
mod sessions;
mod sockets;
mod tracing;

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use actix_web::{
    Error, HttpRequest, HttpResponse,
    dev::Payload,
    error::ErrorInternalServerError,
    http::Method,
    web::{self, ServiceConfig},
};
use awc::ClientRequest;
use futures_util::future::LocalBoxFuture;

use crate::{
    app,
    case::Place::{self, Inside, Outside, Within},
    erased::Erased,
};

/// A row of the table of layers.
pub struct Entry {
    pub name: &'static str,
    pub places: &'static [Place],
    /// Makes the layer of one server.
    pub make: fn() -> Arc<dyn Layer>,
}

const fn middleware(name: &'static str, make: fn() -> Arc<dyn Layer>) -> Entry {
    Entry { name, places: &[Outside, Inside], make }
}

const fn handler(name: &'static str, make: fn() -> Arc<dyn Layer>) -> Entry {
    Entry { name, places: &[Within], make }
}

/// The name of a layer that answers differently at each server.
pub const BROKEN: &str = "broken";

/// All layers.
pub const LAYERS: &[Entry] = &[
    Entry { name: "none", places: &[Outside], make: || Arc::new(plain::None) },
    // No cases are made of it. A test plays it to see that differences are found.
    Entry { name: BROKEN, places: &[], make: || Arc::new(plain::Broken::default()) },
    middleware("actix-session", || Arc::new(sessions::Sessions::default())),
    middleware("actix-web-prom", || Arc::new(prometheus::Prometheus::default())),
    middleware("tracing-actix-web", || Arc::new(tracing::Spans::default())),
    middleware("actix-governor", || Arc::new(quotas::Quotas::default())),
    middleware("actix-cors", || Arc::new(browsers::Cors)),
    middleware("actix-csrf", || Arc::new(browsers::Csrf)),
    middleware("actix-identity", || Arc::new(sessions::Identities::default())),
    middleware("actix-web-flash-messages", || Arc::new(browsers::FlashMessages)),
    middleware("sentry-actix", || Arc::new(sentry::Sentry::default())),
    middleware("opentelemetry-instrumentation-actix-web", || Arc::new(opentelemetry::Telemetry::default())),
    handler("actix-files", || Arc::new(handlers::Files)),
    handler("actix-multipart", || Arc::new(handlers::Multipart::default())),
    handler("async-graphql-actix-web", || Arc::new(handlers::GraphQl)),
    handler("utoipa-actix-web", || Arc::new(handlers::Utoipa)),
    handler("actix-ws", || Arc::new(sockets::Sockets)),
];

pub fn layer(name: &str) -> Arc<dyn Layer> {
    let entry = LAYERS.iter().find(|entry| entry.name == name).expect("a layer of the table");
    (entry.make)()
}

pub type Handling<'a> = LocalBoxFuture<'a, Result<HttpResponse, Error>>;

/// A layer of one server: of one with the wrap, or of the bare one with which it is compared.
pub trait Layer: Send + Sync {
    /// The middleware, if the layer is one. Called by each worker.
    fn wrap(&self) -> Erased {
        Erased::nothing()
    }

    /// Mounts the operation of the case below `/api`.
    fn mount(&self, config: &mut ServiceConfig) {
        config.service(web::resource("/pay/{id}").route(web::method(self.method()).to(app::handle)));
    }

    /// The method of the operation. A safe one passes the wrap.
    fn method(&self) -> Method {
        Method::POST
    }

    /// Whether the operation is a web socket.
    fn is_socket(&self) -> bool {
        false
    }

    /// Adds headers to a request.
    fn dress(&self, request: ClientRequest) -> ClientRequest {
        request
    }

    /// The body of a request. `is_other`: the body of another operation.
    fn body(&self, is_other: bool) -> String {
        if is_other { "amount=2".into() } else { "amount=1".into() }
    }

    /// The handler of the operation, which runs for the `n`th time.
    fn run(&self, request: HttpRequest, _payload: Payload, n: usize) -> Handling<'_> {
        Box::pin(async move {
            self.touch(&request)?;
            Ok(HttpResponse::Created().insert_header(("x-run", n)).body(format!("run {n}")))
        })
    }

    /// The handler of an operation that fails.
    fn fail(&self, request: HttpRequest, _payload: Payload) -> Handling<'_> {
        Box::pin(async move {
            self.touch(&request)?;
            Err(ErrorInternalServerError("out of paper"))
        })
    }

    /// A handler uses the layer.
    fn touch(&self, _request: &HttpRequest) -> Result<(), Error> {
        Ok(())
    }

    /// The things that the layer has kept for later requests, as a handler finds them.
    fn look(&self, _request: &HttpRequest) -> Result<String, Error> {
        Ok(String::new())
    }

    /// The observations of the layer, asked for when the server has stopped.
    fn seen(&self) -> Vec<String> {
        Vec::new()
    }

    /// The value of a response header without what is random in it.
    fn constant(&self, _name: &str, value: &str) -> String {
        value.to_owned()
    }

    /// The log that global collectors write into, from the threads of the server's workers.
    fn log(&self) -> Option<Log> {
        None
    }
}

/// Lines about what a layer has seen. Clones share them.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

thread_local! {
    static OF_WORKER: std::cell::RefCell<Option<Log>> = const { std::cell::RefCell::new(None) };
}

/// Global collectors write what happens on this thread into `log` from now on.
pub fn enter(log: Option<Log>) {
    OF_WORKER.set(log);
}

/// The log of the layer that this worker serves.
fn log_of_worker() -> Option<Log> {
    OF_WORKER.with_borrow(Clone::clone)
}
