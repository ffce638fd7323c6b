//! The decision: what to do with a request. [`IdempotencyService::call`] says who governs it,
//! [`Governed::decide`] is the rest of the table, top to bottom.

use std::{cell::OnceCell, future::Future, mem, rc::Rc, sync::Once};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _, HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse, forward_ready},
    http::header::{self, HeaderValue},
    web,
};
use tracing::Instrument as _;

use super::{
    config::Config,
    request::{
        body::RequestBody,
        pending::{self, Entry},
    },
    response::{body::AnswerBody, replay::replay},
    run::{self, CallFuture, Run},
    witness::Witness,
    wrap::Plan,
};
use crate::{
    app::Idempotency,
    claim::Claimed,
    client::problem::{Problem, ProblemStyle},
    handler::{IdempotencyInfo, info::Stage},
    key::{InvalidKey, Key, Principal, RecordId, encoder::RequestHeaders},
    observe::Outcome,
    policy::Policy,
    settings::{OnError, is_safe},
    store::{Mode, StoreError},
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
                pending::give_accept_encoding_back(&mut request, outer);
            }
            _ => {}
        }

        let policy = config.policy(&request, outer.is_none());
        let unprotected = !config.settings.methods.protect(request.method());
        if unprotected || (policy == Policy::Exempt && !self.has_inside) {
            // One of an instance outside that has stepped aside says the same.
            if outer.is_none_or(|outer| outer.stage() != Stage::TakenInside) {
                request.extensions_mut().insert(IdempotencyInfo::default());
            }
            return CallFuture::passing(self.service.call(request));
        }
        let info = IdempotencyInfo::asking();
        request.extensions_mut().insert(info.clone());

        let settings = &config.settings;
        let key = Key::of_request(request.headers(), &settings.header, settings.syntax, settings.max_key_length);
        let has_key = !matches!(key, Ok(None));
        if policy != Policy::Exempt && has_key && !settings.is_observed() {
            pending::take_accept_encoding(&mut request, &info);
        }
        let principal = if has_key { config.principal(&request) } else { Principal::anonymous() };
        let route = if config.watch.is_watched() { request.match_pattern() } else { None };
        let (entry, payload) =
            if self.has_inside { Entry::route(&*self.service, request) } else { Entry::kept(request) };
        // The router has been asked, and whoever is inside has spoken: nothing of them acts later than in `call`.
        if info.stage() == Stage::TakenInside {
            return CallFuture::passing(entry.pass(&self.service, payload));
        }
        let policy = info.declared().unwrap_or(policy);
        if policy == Policy::Exempt {
            info.set_stage(Stage::Passed);
            return CallFuture::passing(entry.pass(&self.service, payload));
        }
        let witness = Witness::new(config, entry.head().method, route, policy);
        let body = RequestBody::unread(payload);
        let run = Run::new(config.clone(), info.clone(), witness);
        let governed = Governed { service: self.service.clone(), entry, body, policy, key, principal, run };
        CallFuture::governed(governed.answer(), info)
    }
}

/// A request that this instance governs.
struct Governed<S: Service<ServiceRequest>> {
    service: Rc<S>,
    entry: Entry<S>,
    body: RequestBody,
    policy: Policy,
    key: Result<Option<Key>, InvalidKey>,
    principal: Principal,
    run: Run,
}

/// What is to become of a request.
enum Decision<B: MessageBody + 'static> {
    /// It runs, as [`Run`] now says.
    Run,
    /// It goes inside without a claim.
    Pass(Outcome),
    Refuse(Problem),
    Answer(HttpResponse<AnswerBody<B>>),
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// What few requests wait for is boxed: this future is moved for each.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would keep what it is given twice")]
    fn answer(mut self) -> impl Future<Output = Result<ServiceResponse<AnswerBody<B>>, Error>> {
        async move {
            // Now, not in `call`: layers outside enter a span of theirs where they poll.
            let span = self.run.witness.begins();
            let answer = async {
                let decision = self.decide().await;
                match decision {
                    Decision::Run => {
                        let payload = self.body.take_payload();
                        run::run(&*self.service, &mut self.entry, payload, &mut self.run).await
                    }
                    Decision::Answer(response) => self.entry.answer(response, &self.run.config.stand_ins).await,
                    Decision::Refuse(why) if self.run.config.settings.is_observed() => {
                        Box::pin(self.pass(why.outcome())).await
                    }
                    Decision::Refuse(why) => Box::pin(self.refuse(why)).await,
                    Decision::Pass(outcome) => Box::pin(self.pass(outcome)).await,
                }
            };
            answer.instrument(span).await
        }
    }

    /// The table, top to bottom.
    async fn decide(&mut self) -> Decision<B> {
        let config = self.run.config.clone();
        let settings = &config.settings;
        let key = match mem::replace(&mut self.key, Ok(None)) {
            Ok(Some(key)) => key,
            Ok(None) if matches!(self.policy, Policy::Optional | Policy::OptionalManual) => {
                return Decision::Pass(Outcome::Keyless);
            }
            Ok(None) => return Decision::Refuse(Problem::MissingKey),
            Err(invalid) => return Decision::Refuse(Problem::InvalidKey(invalid)),
        };
        self.run.info.set_stage(Stage::Governing);
        if config.operations.is_closing() {
            return Decision::Refuse(Problem::ShuttingDown);
        }
        self.run.anonymous = self.principal.is_anonymous();
        if self.run.anonymous {
            warn_of_anonymous_cookie(self.entry.head().headers);
        }

        // What is it about? The body is read before anything is claimed: a slow upload must not hold a claim.
        if let Err(problem) = self.body.read(settings.max_request_body).await {
            return Decision::Refuse(problem);
        }
        let manual = matches!(self.policy, Policy::Manual | Policy::OptionalManual);
        let mode = if manual { Mode::Again } else { Mode::Once };
        let (id, question) = config.question(&self.entry.head(), &key, &self.principal, self.body.pieces(), mode);
        self.run.witness.asks_for(question.id);

        // May it run?
        match config.operations.start() {
            Ok(running) => self.run.running = Some(running),
            Err(problem) => {
                self.tell_observed(&key, id);
                return Decision::Refuse(problem);
            }
        }
        let (claimed, waited) = config.claims.claim(question).await;
        self.run.witness.waited(waited);
        if !matches!(claimed, Ok(Claimed::Run { .. } | Claimed::Mismatch)) {
            self.tell_observed(&key, id);
        }
        let error = match claimed {
            Ok(Claimed::Run { held, previous }) => match previous.map(|record| record.response()).transpose() {
                Ok(previous) => {
                    self.run.witness.claims(held.claim());
                    // What is observed has no answers to give.
                    let previous = previous.filter(|_| !settings.is_observed());
                    self.run.info.grant(key, id, settings.mode, held.claim(), previous);
                    self.run.held = Some(held);
                    return Decision::Run;
                }
                Err(unreadable) => {
                    Box::pin(held.release()).await;
                    StoreError::from(unreadable)
                }
            },
            Ok(Claimed::Completed { .. }) if settings.is_observed() => return Decision::Pass(Outcome::Replayed),
            Ok(Claimed::Completed { record, remaining }) => match replay(&record, Some(remaining), &config) {
                Ok(response) => {
                    self.run.witness.sees(Outcome::Replayed);
                    return Decision::Answer(response);
                }
                Err(unreadable) => StoreError::from(unreadable),
            },
            Ok(Claimed::InFlight) => return Decision::Refuse(Problem::InFlight),
            Ok(Claimed::Mismatch) => return Decision::Refuse(Problem::KeyReused),
            Ok(Claimed::OwnerLost) => return Decision::Refuse(Problem::OutcomeUnknown),
            Err(error) => error,
        };

        // Nobody can say.
        let down = matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut(_));
        let unprotected = down && settings.storage.on_error == OnError::Run;
        tracing::error!(
            error = &error as &dyn std::error::Error,
            cache = config.claims.cache.name,
            record = ?id.in_mode(settings.mode),
            unprotected,
            "the store can't answer"
        );
        if !unprotected || settings.is_observed() {
            return Decision::Refuse(Problem::StoreUnavailable);
        }
        self.run.witness.sees(Outcome::Unprotected);
        self.run.info.grant(key, id, settings.mode, None, None);
        Decision::Run
    }

    /// A request that is only observed runs in any case, and is to call others under the keys of the first run.
    fn tell_observed(&self, key: &Key, id: RecordId) {
        let mode = self.run.config.settings.mode;
        if self.run.config.settings.is_observed() {
            self.run.info.grant(key.clone(), id, mode, None, None);
        }
    }

    /// Answers with a problem.
    async fn refuse(&mut self, why: Problem) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        self.run.witness.sees(why.outcome());
        let config = &self.run.config;
        if !matches!(why, Problem::BodyTooLarge { .. } | Problem::UnreadableBody) {
            self.body.discard(config.settings.max_request_body).await;
        }
        let response = why.response(&config.style);
        self.entry.answer(response.map_body(|_, body| AnswerBody::whole_of(body)), &config.stand_ins).await
    }

    /// Goes inside without a claim.
    async fn pass(&mut self, outcome: Outcome) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let Run { config, info, witness, .. } = &mut self.run;
        witness.sees(outcome);
        info.set_stage(if outcome == Outcome::Keyless { Stage::Passed } else { Stage::Observing });
        let mut response = self.entry.take().pass(&*self.service, self.body.take_payload()).await?;
        if let Some(name) = &config.settings.observe_header
            && outcome != Outcome::Keyless
        {
            response.headers_mut().insert(name.clone(), HeaderValue::from_static(outcome.name()));
        }
        Ok(response.map_body(|_, body| AnswerBody::through(body)))
    }
}

/// Once: clients that share a key would share answers.
fn warn_of_anonymous_cookie(headers: RequestHeaders<'_>) {
    static WARNED: Once = Once::new();
    if !WARNED.is_completed() && headers.get(header::COOKIE).is_some() {
        WARNED.call_once(|| {
            tracing::warn!(
                "a protected request carries a Cookie but no principal: put a `Principal` into the request's extensions, \
                 or give `.principal(…)`"
            );
        });
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("policy", &self.plan.policy).finish_non_exhaustive()
    }
}
