//! The decision: what to do with a request. [`IdempotencyService::call`] says who governs it,
//! [`Governed::decide`] is the rest of the table, top to bottom.

use std::{cell::OnceCell, rc::Rc, sync::Once, time::Duration};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse, forward_ready},
    http::header::{self, HeaderMap, HeaderValue},
    web,
};
use futures_util::future::LocalBoxFuture;
use tracing::Instrument as _;

use super::{
    AnswerBody, CallFuture, Plan,
    config::Config,
    entry::{self, Entry},
    replay::replay,
    request_body::RequestBody,
    run::{self, Run},
    witness::Witness,
};
use crate::{
    Idempotency, IdempotencyInfo, Key, Mode, OnError, Outcome, Policy, Principal, RecordId, StoreError, StoredResponse,
    claim::{Claimed, Held},
    info::Stage,
    operations::Running,
    problem::{Problem, ProblemStyle},
    settings::is_safe,
};

/// The service of [`IdempotencyKey`](super::IdempotencyKey) and [`ExemptIdempotencyKey`](super::ExemptIdempotencyKey).
#[derive(Debug)]
pub struct IdempotencyService<S> {
    service: Rc<S>,
    instance: Instance,
    /// Whether other instances or policy guards may be inside: then the router is asked before anything is decided.
    has_inside: bool,
}

/// What an instance was told, and what it works with once it has found its `Idempotency`.
pub(super) struct Instance {
    plan: Plan,
    config: OnceCell<Option<Rc<Config>>>,
}

/// A request of which all is known that can be known before it goes inside or is answered.
struct Asked<S: Service<ServiceRequest>> {
    entry: Entry<S>,
    info: IdempotencyInfo,
    policy: Policy,
    principal: Principal,
    /// The pattern of its route, when somebody watches.
    route: Option<String>,
}

impl<S> IdempotencyService<S> {
    pub(super) fn new(service: S, instance: Instance, has_inside: bool) -> Self {
        Self { service: Rc::new(service), instance, has_inside }
    }
}

impl Instance {
    pub(super) fn new(plan: Plan, config: Option<Rc<Config>>) -> Self {
        let known = OnceCell::new();
        if let Some(config) = config {
            let _ = known.set(Some(config));
        }
        Self { plan, config: known }
    }

    /// `None`: misconfigured, which was logged.
    fn config(&self, request: &ServiceRequest) -> Option<&Rc<Config>> {
        self.config.get_or_init(|| self.find(request)).as_ref()
    }

    fn find(&self, request: &ServiceRequest) -> Option<Rc<Config>> {
        let in_app_data = request.app_data::<web::Data<Idempotency>>().map(|data| data.get_ref().clone());
        let found = match in_app_data {
            Some(idempotency) => Ok(idempotency),
            None => Idempotency::of_process(),
        };
        let config = found.and_then(|idempotency| Ok(Config::new(&self.plan, &idempotency)?));
        config.map_err(|error| tracing::error!(%error, "requests here are answered with 500")).map(Rc::new).ok()
    }
}

impl<S, B> Service<ServiceRequest> for IdempotencyService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<AnswerBody<B>>;
    type Error = Error;
    type Future = CallFuture<S::Future, B>;

    forward_ready!(service);

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let outer = request.extensions().get::<IdempotencyInfo>().cloned();
        let Some(config) = self.instance.config(&request) else {
            if is_safe(request.method()) {
                return CallFuture::passing(self.service.call(request));
            }
            let problem = Problem::Misconfigured.response(&ProblemStyle::default());
            return CallFuture::answered(request.into_response(problem.map_body(|_, body| AnswerBody::whole_of(body))));
        };
        match &outer {
            // Middleware that awaits hid this instance from the one outside, which has decided by now.
            Some(outer) if outer.stage().governs(config.settings.mode) => {
                outer.declare_late(config.policy(&request, false));
                return CallFuture::passing(self.service.call(request));
            }
            Some(outer) if outer.stage() == Stage::Asking => {
                outer.set_stage(Stage::TakenInside);
                entry::give_accept_encoding_back(&mut request, outer);
            }
            _ => {}
        }

        let policy = config.policy(&request, outer.is_none());
        let unprotected = !config.settings.methods.protect(request.method());
        if unprotected || (policy == Policy::Exempt && !self.has_inside) {
            request.extensions_mut().insert(IdempotencyInfo::default());
            return CallFuture::passing(self.service.call(request));
        }
        let info = IdempotencyInfo::asking();
        request.extensions_mut().insert(info.clone());

        let settings = &config.settings;
        let has_key = request.headers().contains_key(&settings.header);
        if policy != Policy::Exempt && has_key && !settings.is_observed() {
            entry::take_accept_encoding(&mut request, &info);
        }
        let principal = if has_key { config.principal(&request) } else { Principal::anonymous() };
        let route = if config.watch.is_watched() { request.match_pattern() } else { None };
        let entry = if self.has_inside { Entry::route(&*self.service, request) } else { Entry::Kept(request) };
        // The router has been asked, and whoever is inside has spoken: nothing of them acts later than in `call`.
        if info.stage() == Stage::TakenInside {
            return CallFuture::passing(entry.pass(&self.service));
        }
        let policy = info.declared().unwrap_or(policy);
        if policy == Policy::Exempt {
            info.set_stage(Stage::Passed);
            return CallFuture::passing(entry.pass(&self.service));
        }
        let asked = Asked { entry, info: info.clone(), policy, principal, route };
        CallFuture::governed(govern(self.service.clone(), config.clone(), asked), info)
    }
}

/// What becomes of a request that this instance governs.
async fn govern<S, B>(
    service: Rc<S>,
    config: Rc<Config>,
    asked: Asked<S>,
) -> Result<ServiceResponse<AnswerBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let Asked { entry, info, policy, principal, route } = asked;
    let witness = Witness::new(&config, &entry.head().method, route, policy);
    let span = witness.span();
    let governed = Governed { service, config, entry, info, witness };
    governed.decide(policy, principal).instrument(span).await
}

/// A request that this instance governs.
struct Governed<S: Service<ServiceRequest>> {
    service: Rc<S>,
    config: Rc<Config>,
    entry: Entry<S>,
    info: IdempotencyInfo,
    witness: Witness,
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    async fn decide(mut self, policy: Policy, principal: Principal) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let config = self.config.clone();
        let body = RequestBody::unread(self.entry.take_payload());
        let settings = &config.settings;
        let headers = &self.entry.head().headers;
        let key = match Key::of_request(headers, &settings.header, settings.syntax, settings.max_key_length) {
            Ok(Some(key)) => key,
            Ok(None) if matches!(policy, Policy::Optional | Policy::OptionalManual) => {
                return self.pass(body, Outcome::Keyless).await;
            }
            Ok(None) => return self.refuse(body, Problem::MissingKey).await,
            Err(invalid) => return self.refuse(body, Problem::InvalidKey(invalid)).await,
        };
        self.info.set_stage(Stage::Governing);
        if config.operations.is_closing() {
            return self.refuse(body, Problem::ShuttingDown).await;
        }
        let anonymous = principal.is_anonymous();
        if anonymous {
            warn_of_anonymous_cookie(&self.entry.head().headers);
        }

        // What is it about? The body is read before anything is claimed: a slow upload must not hold a claim.
        let body = match body.read(config.settings.max_request_body).await {
            Ok(body) => body,
            Err((body, problem)) => return self.refuse(body, problem).await,
        };
        let manual = matches!(policy, Policy::Manual | Policy::OptionalManual);
        let mode = if manual { Mode::Again } else { Mode::Once };
        let (id, question) = config.question(self.entry.head(), &key, &principal, body.pieces(), mode);
        self.witness.asks_for(question.id);

        // May it run?
        let running = match config.operations.start() {
            Ok(running) => running,
            Err(problem) => {
                self.tell_observed(&key, id);
                return self.refuse(body, problem).await;
            }
        };
        let mut waited = Duration::ZERO;
        let claimed = config.cache.claim(question, &config.terms, &mut waited).await;
        self.witness.waited(waited);
        if !matches!(claimed, Ok(Claimed::Run { .. } | Claimed::Mismatch)) {
            self.tell_observed(&key, id);
        }
        let error = match claimed {
            Ok(Claimed::Run { held, previous }) => match previous.map(|record| record.response()).transpose() {
                Ok(previous) => return self.run(body, (key, id), held, previous, running, anonymous).await,
                Err(unreadable) => {
                    held.release().await;
                    StoreError::from(unreadable)
                }
            },
            Ok(Claimed::Completed { .. }) if config.settings.is_observed() => {
                return self.pass(body, Outcome::Replayed).await;
            }
            Ok(Claimed::Completed { record, remaining }) => match replay(&record, Some(remaining), &config) {
                Ok(response) => {
                    self.witness.sees(Outcome::Replayed);
                    return Ok(self.entry.answer(response));
                }
                Err(unreadable) => StoreError::from(unreadable),
            },
            Ok(Claimed::InFlight) => return self.refuse(body, Problem::InFlight).await,
            Ok(Claimed::Mismatch) => return self.refuse(body, Problem::KeyReused).await,
            Ok(Claimed::OwnerLost) => return self.refuse(body, Problem::OutcomeUnknown).await,
            Err(error) => error,
        };

        // Nobody can say.
        let down = matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut(_));
        let unprotected = down && config.settings.storage.on_error == OnError::Run;
        tracing::error!(
            error = &error as &dyn std::error::Error,
            cache = config.cache.name,
            record = ?question.id,
            unprotected,
            "the store can't answer"
        );
        if !unprotected || config.settings.is_observed() {
            return self.refuse(body, Problem::StoreUnavailable).await;
        }
        let Self { service, config, entry, info, mut witness } = self;
        witness.sees(Outcome::Unprotected);
        info.grant(key, id, config.settings.mode, None, None);
        run::run(&service, entry, body, Run { config, info, held: None, running, anonymous, witness }).await
    }

    /// Runs under a claim.
    async fn run(
        self,
        body: RequestBody,
        (key, id): (Key, RecordId),
        held: Box<Held>,
        previous: Option<StoredResponse>,
        running: Running,
        anonymous: bool,
    ) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let Self { service, config, entry, info, mut witness } = self;
        witness.claims(held.claim());
        // What is observed has no answers to give.
        let previous = previous.filter(|_| !config.settings.is_observed());
        info.grant(key, id, config.settings.mode, held.claim(), previous);
        run::run(&service, entry, body, Run { config, info, held: Some(held), running, anonymous, witness }).await
    }

    /// A request that is only observed runs in any case, and is to call others under the keys of the first run.
    fn tell_observed(&self, key: &Key, id: RecordId) {
        if self.config.settings.is_observed() {
            self.info.grant(key.clone(), id, self.config.settings.mode, None, None);
        }
    }

    /// Answers with a problem. Where requests are only observed, this one runs all the same.
    ///
    /// Boxed, as `pass`: the way of few would make the future of each request larger, which is moved often.
    fn refuse(mut self, body: RequestBody, why: Problem) -> Answering<B> {
        if self.config.settings.is_observed() {
            return self.pass(body, why.outcome());
        }
        Box::pin(async move {
            self.witness.sees(why.outcome());
            if !matches!(why, Problem::BodyTooLarge { .. } | Problem::UnreadableBody) {
                body.discard(self.config.settings.max_request_body).await;
            }
            Ok(self.entry.answer(problem(why, &self.config)))
        })
    }

    /// Goes inside without a claim.
    fn pass(mut self, body: RequestBody, outcome: Outcome) -> Answering<B> {
        Box::pin(async move {
            self.witness.sees(outcome);
            self.info.set_stage(if outcome == Outcome::Keyless { Stage::Passed } else { Stage::Observing });
            let mut response = self.entry.enter(&self.service, body.into_payload()).await?;
            if let Some(name) = &self.config.settings.observe_header
                && outcome != Outcome::Keyless
            {
                response.headers_mut().insert(name.clone(), HeaderValue::from_static(outcome.name()));
            }
            Ok(response.map_body(|_, body| AnswerBody::through(body)))
        })
    }
}

type Answering<B> = LocalBoxFuture<'static, Result<ServiceResponse<AnswerBody<B>>, Error>>;

/// Once: clients that share a key would share answers.
fn warn_of_anonymous_cookie(headers: &HeaderMap) {
    static WARNED: Once = Once::new();
    if !WARNED.is_completed() && headers.contains_key(header::COOKIE) {
        WARNED.call_once(|| {
            tracing::warn!(
                "a protected request carries a Cookie but no principal: put a `Principal` into the request's extensions, \
                 or give `.principal(…)`"
            );
        });
    }
}

fn problem<B: MessageBody + 'static>(problem: Problem, config: &Config) -> HttpResponse<AnswerBody<B>> {
    problem.response(&config.style).map_body(|_, body| AnswerBody::whole_of(body))
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("policy", &self.plan.policy).finish_non_exhaustive()
    }
}
