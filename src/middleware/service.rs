//! The decision: what to do with a request. [`IdempotencyService::call`] says who governs it, [`govern`] is the rest of
//! the table, top to bottom.

use std::{cell::OnceCell, rc::Rc, sync::Once};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse, forward_ready},
    http::header::{self, HeaderMap},
    web,
};

use super::{
    AnswerBody, CallFuture, Plan,
    config::Config,
    entry::{self, Entry},
    replay::replay,
    request_body::RequestBody,
    run::{self, Run},
};
use crate::{
    Idempotency, IdempotencyInfo, InvalidKey, Key, Mode, OnError, Policy, Principal, StoreError,
    claim::Claimed,
    info::Stage,
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
    key: Result<Option<Key>, InvalidKey>,
    principal: Principal,
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
            Some(outer) if matches!(outer.stage(), Stage::Governing | Stage::Running) => {
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
        let key = Key::of_request(request.headers(), &settings.header, settings.syntax, settings.max_key_length);
        if policy != Policy::Exempt && !matches!(key, Ok(None)) {
            entry::take_accept_encoding(&mut request, &info);
        }
        let principal = if matches!(key, Ok(Some(_))) { config.principal(&request) } else { Principal::anonymous() };
        let entry = if self.has_inside { Entry::route(&*self.service, request) } else { Entry::Kept(request) };
        let asked = Asked { entry, info: info.clone(), policy, key, principal };
        CallFuture::governed(govern(self.service.clone(), config.clone(), asked), info)
    }
}

/// What becomes of a request that no instance further inside has taken.
async fn govern<S, B>(
    service: Rc<S>,
    config: Rc<Config>,
    asked: Asked<S>,
) -> Result<ServiceResponse<AnswerBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let Asked { mut entry, info, policy, key, principal } = asked;

    // Who governs?
    if info.stage() == Stage::TakenInside {
        return Ok(entry.pass(&service).await?.map_body(|_, body| AnswerBody::through(body)));
    }
    let policy = info.declared().unwrap_or(policy);
    let key = match (policy, key) {
        (Policy::Exempt, _) | (Policy::Optional | Policy::OptionalManual, Ok(None)) => {
            info.set_stage(Stage::Passed);
            return Ok(entry.pass(&service).await?.map_body(|_, body| AnswerBody::through(body)));
        }
        (_, Ok(Some(key))) => key,
        (_, Ok(None)) => return Ok(reject_unread(entry, Problem::MissingKey, &config).await),
        (_, Err(invalid)) => return Ok(reject_unread(entry, Problem::InvalidKey(invalid), &config).await),
    };
    info.set_stage(Stage::Governing);
    if config.operations.is_closing() {
        return Ok(reject_unread(entry, Problem::ShuttingDown, &config).await);
    }
    if principal.is_anonymous() {
        warn_of_anonymous_cookie(&entry.head().headers);
    }

    // What is it about? The body is read before anything is claimed: a slow upload must not hold a claim.
    let mut payload = entry.take_payload();
    let body = match RequestBody::read(&mut payload, config.settings.max_request_body).await {
        Ok(body) => body,
        Err(problem) => return Ok(reject(entry, problem, &config)),
    };
    drop(payload);
    let manual = matches!(policy, Policy::Manual | Policy::OptionalManual);
    let mode = if manual { Mode::Again } else { Mode::Once };
    let question = config.question(entry.head(), &key, &principal, body.pieces(), mode);

    // May it run?
    let running = match config.operations.start() {
        Ok(running) => running,
        Err(problem) => return Ok(reject(entry, problem, &config)),
    };
    let answer = match config.cache.claim(question, &config.terms).await {
        Ok(Claimed::Run { held, previous }) => match previous.map(|record| record.response()).transpose() {
            Ok(previous) => {
                info.grant(key, held.claim().cloned(), previous);
                let run = Run { config, info, held: Some(held), running };
                return run::run(&service, entry, body, run).await;
            }
            Err(unreadable) => {
                held.release().await;
                Err(StoreError::from(unreadable))
            }
        },
        Ok(Claimed::Completed(record)) => replay(&record, &config).map_err(StoreError::from),
        Ok(Claimed::InFlight) => Ok(problem(Problem::InFlight, &config)),
        Ok(Claimed::Mismatch) => Ok(problem(Problem::KeyReused, &config)),
        Ok(Claimed::OwnerLost) => Ok(problem(Problem::OutcomeUnknown, &config)),
        Err(error) => Err(error),
    };

    // It may not, or nobody can say.
    match answer {
        Ok(response) => Ok(entry.answer(response)),
        Err(error) => {
            let down = matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut(_));
            let unprotected = down && config.settings.storage.on_error == OnError::Run;
            tracing::error!(
                error = &error as &dyn std::error::Error,
                cache = config.cache.name,
                record = ?question.id,
                unprotected,
                "the store can't answer"
            );
            if !unprotected {
                return Ok(reject(entry, Problem::StoreUnavailable, &config));
            }
            info.grant(key, None, None);
            run::run(&service, entry, body, Run { config, info, held: None, running }).await
        }
    }
}

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
    tracing::debug!(problem = problem.name(), "rejected");
    problem.response(&config.style).map_body(|_, body| AnswerBody::whole_of(body))
}

fn reject<S, B>(entry: Entry<S>, why: Problem, config: &Config) -> ServiceResponse<AnswerBody<B>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
    B: MessageBody + 'static,
{
    entry.answer(problem(why, config))
}

/// Rejects a request whose body nobody has read.
async fn reject_unread<S, B>(mut entry: Entry<S>, why: Problem, config: &Config) -> ServiceResponse<AnswerBody<B>>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
    B: MessageBody + 'static,
{
    RequestBody::discard(&mut entry.take_payload(), config.settings.max_request_body).await;
    reject(entry, why, config)
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("policy", &self.plan.policy).finish_non_exhaustive()
    }
}
