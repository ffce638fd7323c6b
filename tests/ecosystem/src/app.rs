//! The servers: one with the wrap, and a bare one with which it is compared.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use actix_idempotency::{Idempotency, IdempotencyKey, Settings};
use actix_service::{
    IntoServiceFactory as _, ServiceFactory,
    boxed::{self, BoxServiceFactory},
};
use actix_web::{
    App, Error, HttpRequest, HttpResponse, HttpServer,
    body::BoxBody,
    dev::{AppConfig, ServerHandle, ServiceRequest, ServiceResponse},
    middleware::{Next, from_fn},
    rt::{self, task::JoinHandle},
    web::{self, ServiceConfig},
};
use tokio::sync::Semaphore;

use crate::{
    answer::Answer,
    case::{Act, Mounting, Place},
    erased::Erased,
    layers::{self, Layer},
};

/// The deed of a handler for one request.
pub(crate) enum Deed {
    Act(Act),
    /// Answers in the place of the wrap.
    Answer(Answer),
    /// Answers in the place of the wrap, which answers for a handler that panicked.
    RunAndAnswer(Answer),
}

impl Deed {
    /// The act of a handler; `Act::None` in the place of the wrap.
    pub(crate) const fn act(&self) -> Act {
        match self {
            Self::Act(act) => *act,
            Self::Answer(_) | Self::RunAndAnswer(_) => Act::None,
        }
    }
}

/// Everything that the handlers and the Apps of a server share.
pub(crate) struct Shared {
    pub(crate) deeds: Vec<Deed>,
    pub(crate) layer: Arc<dyn Layer>,
    pub(crate) runs: AtomicUsize,
    /// Has a permit once a handler waits.
    pub(crate) waits: Semaphore,
    /// Has a permit once it may go on.
    pub(crate) goes_on: Semaphore,
    /// Has a permit for each request that was dropped without an answer.
    pub(crate) dropped: Semaphore,
}

impl Shared {
    pub(crate) fn new(deeds: Vec<Deed>, layer: Arc<dyn Layer>) -> Arc<Self> {
        let [waits, goes_on, dropped] = [(); 3].map(|()| Semaphore::new(0));
        Arc::new(Self { deeds, layer, runs: AtomicUsize::new(0), waits, goes_on, dropped })
    }
}

/// The handler of all routes.
pub(crate) async fn handle(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Error> {
    let shared = request.app_data::<web::Data<Shared>>().expect("mounted").clone();
    let step = request.headers().get("x-step").and_then(|step| step.to_str().ok()?.parse::<usize>().ok());
    let act = match &shared.deeds[step.expect("the client numbers its requests")] {
        Deed::Answer(answer) => return Ok(answer.to_response()),
        Deed::RunAndAnswer(answer) => {
            shared.runs.fetch_add(1, SeqCst);
            return Ok(answer.to_response());
        }
        Deed::Act(act) => *act,
    };
    if act == Act::Look {
        return Ok(HttpResponse::Ok().body(shared.layer.look(&request)?));
    }
    let n = shared.runs.fetch_add(1, SeqCst) + 1;
    if matches!(act, Act::Wait | Act::Leave) {
        shared.waits.add_permits(1);
        shared.goes_on.acquire().await.expect("not closed").forget();
    }
    match act {
        Act::Fail => shared.layer.fail(request, payload.into_inner()).await,
        Act::Panic => panic!("{PANIC}"),
        _ => shared.layer.run(request, payload.into_inner(), n).await,
    }
}

/// Counts when it is dropped unanswered.
struct Unanswered(Arc<Shared>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.dropped.add_permits(1);
    }
}

/// A middleware around everything else, which notices requests that are dropped.
async fn watch(
    shared: Arc<Shared>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let unanswered = Unanswered(shared);
    let answer = next.call(request).await;
    std::mem::forget(unanswered);
    answer
}

/// The text of the panics that cases ask for.
pub const PANIC: &str = "the handler panics as the case says";

/// How the Apps of a server are made.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) mounting: Mounting,
    pub(crate) place: Place,
    pub(crate) shared: Arc<Shared>,
    /// `None`: a bare server.
    pub(crate) idempotency: Option<Idempotency>,
}

pub(crate) fn idempotency() -> Idempotency {
    let mut settings = Settings::ietf();
    settings.lock.timeout = Duration::from_millis(20);
    Idempotency::builder().settings(settings).build().expect("valid settings")
}

type AnyApp = BoxServiceFactory<AppConfig, actix_http::Request, ServiceResponse, Error, ()>;

impl Plan {
    /// The layers inside and outside of the wrap.
    fn layers(&self) -> (Erased, Erased) {
        let wrap = || self.shared.layer.wrap();
        match self.place {
            Place::Outside => (Erased::nothing(), wrap()),
            Place::Inside => (wrap(), Erased::nothing()),
            Place::Within => (Erased::nothing(), Erased::nothing()),
        }
    }

    /// The operation of the case, and what is mounted beside it.
    fn routes(&self, config: &mut ServiceConfig) {
        if self.mounting == Mounting::SiblingScopes {
            self.other_scope(config);
            let (inside, outside) = self.layers();
            let scope = web::scope("/api").configure(|config| self.operation(config)).wrap(inside);
            match &self.idempotency {
                Some(idempotency) => {
                    config.service(scope.wrap(IdempotencyKey::default().using(idempotency)).wrap(outside));
                }
                None => {
                    config.service(scope.wrap(outside));
                }
            }
            return;
        }
        config.service(web::scope("/api").configure(|config| self.operation(config)));
        match (&self.idempotency, self.mounting) {
            (Some(idempotency), Mounting::Operators | Mounting::LikeOperators) => {
                config.service(web::scope("/ops").service(idempotency.admin_scope()));
            }
            (_, Mounting::NestedScope) => self.other_scope(config),
            _ => {}
        }
    }

    fn operation(&self, config: &mut ServiceConfig) {
        self.shared.layer.mount(config);
        config.route("/look", web::get().to(handle));
    }

    fn other_scope(&self, config: &mut ServiceConfig) {
        let scope = web::scope("/other").route("", web::post().to(HttpResponse::Created));
        match &self.idempotency {
            Some(idempotency) => {
                config.service(scope.wrap(IdempotencyKey::default().optional().using(idempotency)));
            }
            None => {
                config.service(scope);
            }
        }
    }

    /// Makes an App, on the thread of a worker.
    fn app(&self) -> AnyApp {
        layers::enter(self.shared.layer.log());
        let app = App::new().app_data(web::Data::from(self.shared.clone()));
        let app = app.configure(|config| self.routes(config));
        let shared = self.shared.clone();
        let watched = Erased::new(from_fn(move |request, next| watch(shared.clone(), request, next)));
        if self.mounting == Mounting::SiblingScopes {
            return any(app.wrap(watched));
        }
        let (inside, outside) = self.layers();
        let app = app.wrap(inside);
        match &self.idempotency {
            Some(idempotency) => any(app.wrap(IdempotencyKey::default().using(idempotency)).wrap(outside.and(watched))),
            None => any(app.wrap(outside.and(watched))),
        }
    }
}

/// An App without its type.
fn any<T>(app: App<T>) -> AnyApp
where
    T: ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse, Error = Error, InitError = ()> + 'static,
{
    boxed::factory(app.into_factory())
}

/// Servers that serve the Apps of a plan.
pub(crate) struct Servers {
    /// Requests go to them by turns.
    pub(crate) addresses: Vec<SocketAddr>,
    running: Vec<(ServerHandle, JoinHandle<std::io::Result<()>>)>,
}

impl Servers {
    pub(crate) fn start(plan: &Plan) -> Self {
        let (servers, binds) = match plan.mounting {
            Mounting::TwoServers => (2, 1),
            Mounting::TwoBinds => (1, 2),
            _ => (1, 1),
        };
        let mut started = Self { addresses: Vec::new(), running: Vec::new() };
        for _ in 0..servers {
            let plan = plan.clone();
            let mut server = HttpServer::new(move || plan.app()).workers(1).disable_signals().shutdown_timeout(10);
            // A client that closes its connection has left.
            server = server.h1_allow_half_closed(false);
            for _ in 0..binds {
                server = server.bind("127.0.0.1:0").expect("a free port");
            }
            started.addresses.extend(server.addrs());
            let server = server.run();
            started.running.push((server.handle(), rt::spawn(server)));
        }
        started
    }

    /// Returns when nothing runs any more.
    pub(crate) async fn stop(self) {
        for (handle, server) in self.running {
            handle.stop(true).await;
            server.await.expect("no panic").expect("a server that served");
        }
    }
}
