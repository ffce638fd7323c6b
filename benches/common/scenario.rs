//! The scenarios whose time, instructions and allocations are measured in process. A scenario is a kind of request,
//! sent to an App with the middleware and to bare actix: the same App without the middleware.

use std::cell::Cell;

use actix_http::Request;
use actix_idempotency::{ExemptIdempotencyKey, Idempotency, IdempotencyKey};
use actix_web::{
    App,
    test::{self, TestRequest},
    web,
};

use crate::common::{SMALL, Send, answer, idempotency, request, routes, sender, with_key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Safe,
    AppExempt,
    Replay,
    FirstRun,
    NestedExempt,
    NestedReplay,
    NestedFirstRun,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Safe,
        Self::AppExempt,
        Self::Replay,
        Self::FirstRun,
        Self::NestedExempt,
        Self::NestedReplay,
        Self::NestedFirstRun,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe method",
            Self::AppExempt => "App exempt",
            Self::Replay => "replay",
            Self::FirstRun => "first run",
            Self::NestedExempt => "inner instances: exempt",
            Self::NestedReplay => "inner instances: replay",
            Self::NestedFirstRun => "inner instances: first run",
        }
    }
}

/// An App without the middleware, one with it, and the requests that both get.
pub(crate) struct Scenario {
    pub(crate) bare: Send,
    pub(crate) with: Send,
    kind: Kind,
    made: Cell<u64>,
}

impl Scenario {
    /// Make each scenario on a new thread, because an instance looks at which other instances were made on its thread.
    pub(crate) async fn new(kind: Kind, records: usize) -> Self {
        Self::of_worker(kind, idempotency(records), 0).await
    }

    /// A scenario for one of several workers that share their records. Each worker has different keys.
    pub(crate) async fn of_worker(kind: Kind, idempotency: Idempotency, worker: u64) -> Self {
        let app = App::new().app_data(web::Data::new(idempotency));
        let with = match kind {
            Kind::Safe | Kind::Replay | Kind::FirstRun => {
                sender(test::init_service(app.wrap(IdempotencyKey::default()).configure(routes)).await)
            }
            Kind::AppExempt => {
                sender(test::init_service(app.wrap(ExemptIdempotencyKey::default()).configure(routes)).await)
            }
            Kind::NestedExempt | Kind::NestedReplay | Kind::NestedFirstRun => {
                let exempt =
                    web::resource("/exempt").wrap(ExemptIdempotencyKey::default()).route(web::post().to(answer));
                let app = app.wrap(IdempotencyKey::default()).configure(routes).service(exempt);
                sender(test::init_service(app).await)
            }
        };
        let exempt = web::resource("/exempt").route(web::post().to(answer));
        let bare = sender(test::init_service(App::new().configure(routes).service(exempt)).await);
        let scenario = Self { bare, with, kind, made: Cell::new(worker * 100_000_000_000) };
        // The first request of a key is not a replay, so it is sent before the measurement.
        (scenario.with)(scenario.request()).await;
        scenario
    }

    /// The next request.
    pub(crate) fn request(&self) -> Request {
        match self.kind {
            Kind::Safe => TestRequest::get().uri("/").to_request(),
            Kind::AppExempt => request("/", SMALL),
            Kind::NestedExempt => request("/exempt", SMALL),
            Kind::Replay | Kind::NestedReplay => with_key("/", SMALL, "8e03978e-40d5-43dd-bc93-replay000000"),
            Kind::FirstRun | Kind::NestedFirstRun => {
                self.made.set(self.made.get() + 1);
                with_key("/", SMALL, &format!("8e03978e-40d5-43dd-bc93-{:012}", self.made.get()))
            }
        }
    }

    /// The status with which the middleware has to answer each request.
    pub(crate) fn expected(&self) -> u16 {
        match self.kind {
            Kind::Replay | Kind::NestedReplay => 409,
            _ => 201,
        }
    }

    /// Requests that are made before the measurement.
    pub(crate) fn batch(&self) -> Vec<Request> {
        (0..BATCH).map(|_| self.request()).collect()
    }
}

/// Less than the number of requests that actix-web keeps for reuse.
pub(crate) const BATCH: usize = 100;
