//! Who governs a request: this instance, an inner one, or nobody.

use std::{
    cell::OnceCell,
    future::Future,
    num::NonZeroU64,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

use actix_service::Service;
use actix_web::{
    Error, HttpMessage as _,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse, forward_ready},
    http::header::HeaderValue,
    web,
};
use tracing::Instrument as _;

#[cfg(feature = "encryption")]
use super::differences::Explanation;
use super::{
    accepted::Promise,
    config::WrapConfig,
    decide::Decision,
    nesting::Inner,
    operation::Operation,
    plan::WrapPlan,
    probe::{Confirmed, Probe},
    recorder::OutcomeRecorder,
    request::{Announced, PendingRequest, RequestBody, accept_encoding},
    response::{AnswerBody, end_ordinary},
    run::CallFuture,
    streamed::StreamedHead,
};
use crate::{
    app::Idempotency,
    client::problem::{Problem, ProblemStyle},
    handler::{IdempotencyInfo, Stage},
    key::{InvalidKey, Key, Principal, RecordId, RequestHeaders},
    ledger::LedgerRun,
    observe::Outcome,
    policy::Policy,
    settings::is_safe,
};

/// The service of [`IdempotencyKey`](crate::IdempotencyKey) and [`ExemptIdempotencyKey`](crate::ExemptIdempotencyKey).
pub struct IdempotencyService<S> {
    service: Rc<S>,
    plan: WrapPlan,
    /// Found at the first request, unless the wrap was given its `Idempotency`. `None` within: the wrap is
    /// misconfigured, which was logged.
    config: OnceCell<Option<Rc<WrapConfig>>>,
    /// The instances and policy guards that may be inside. Who governs is asked then before anything is decided.
    inner: Inner,
    probe: Rc<Probe>,
}

impl<S> IdempotencyService<S> {
    pub(super) fn new(service: S, plan: WrapPlan, config: Option<Rc<WrapConfig>>, inner: Inner) -> Self {
        let known = OnceCell::new();
        if let Some(config) = config {
            let _ = known.set(Some(config));
        }
        let probe = Rc::new(Probe::new(plan.show.clone()));
        Self { service: Rc::new(service), plan, config: known, inner, probe }
    }

    fn has_inner(&self, request: &ServiceRequest) -> bool {
        match self.inner {
            Inner::None => false,
            Inner::Any => true,
            Inner::Operators => ["/find", "/forget"].iter().any(|end| request.match_info().as_str().ends_with(end)),
        }
    }

    fn config(&self, request: &ServiceRequest) -> Option<&Rc<WrapConfig>> {
        self.config.get_or_init(|| self.find_config(request)).as_ref()
    }

    fn find_config(&self, request: &ServiceRequest) -> Option<Rc<WrapConfig>> {
        let in_data = request.app_data::<web::Data<Idempotency>>().map(|data| data.get_ref().clone());
        // Without `web::Data` it is found as well.
        let in_app_data = in_data.or_else(|| request.app_data::<Idempotency>().cloned());
        let found = match in_app_data {
            Some(idempotency) => Ok(idempotency),
            None => Idempotency::of_process(),
        };
        let config = found.and_then(|idempotency| Ok(WrapConfig::new(&self.plan, &idempotency)?));
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
        if let Some(outer) = &outer
            && outer.stage() == Stage::Probing
        {
            // A copy of a request, which has no app data and is never polled.
            outer.set_stage(Stage::GovernedByInner);
            return CallFuture::of_copy();
        }
        let Some(config) = self.config(&request) else {
            if is_safe(request.method()) {
                return CallFuture::passing(self.service.call(request));
            }
            let problem = Problem::Misconfigured.response(&ProblemStyle::default());
            return CallFuture::answered(request.into_response(problem.map_body(|_, body| AnswerBody::boxed(body))));
        };
        match &outer {
            // Middleware that awaits stands between the two, so the outer instance has decided already.
            Some(outer) if outer.stage().governs(config.settings.mode) => {
                outer.declare_late(config.policy(&request, false));
                return CallFuture::passing(self.service.call(request));
            }
            Some(outer) if matches!(outer.stage(), Stage::Asking | Stage::Confirming) => {
                outer.set_stage(Stage::GovernedByInner);
                accept_encoding::restore(&mut request, outer);
            }
            _ => {}
        }

        let policy = config.policy(&request, outer.is_none());
        let has_inner = self.has_inner(&request);
        if is_safe(request.method()) || (policy == Policy::Exempt && !has_inner) {
            // The info of an outer instance that has stepped aside says the same.
            if outer.is_none_or(|outer| outer.stage() != Stage::GovernedByInner) {
                request.extensions_mut().insert(IdempotencyInfo::default());
            }
            return CallFuture::passing(self.service.call(request));
        }
        let info = IdempotencyInfo::asking();
        request.extensions_mut().insert(info.clone());

        let settings = &config.settings;
        let ledger = config.ledger.as_ref().map(|ledger| LedgerRun::new(ledger, settings.limits.max_run));
        if let Some(run) = &ledger {
            info.works_with(run);
            request.extensions_mut().insert(run.clone());
        }
        let key = Key::of_request(request.headers(), &settings.header, settings.syntax, settings.max_key_length);
        let (key, may_be_in_body) = match &config.sources {
            None => (key, false),
            Some(sources) => (
                sources.in_query(request.query_string(), key),
                sources.may_be_in_body(RequestHeaders::from(request.headers())),
            ),
        };
        // Where the body may have the key, there is one until the body is read. Only who governs is asked as for a request
        // without a key: its refusal would stay.
        let is_known = !matches!(key, Ok(None));
        let principal = if is_known || may_be_in_body { config.principal(&request) } else { Principal::anonymous() };
        let route = if config.observers.any() { request.match_pattern() } else { None };
        let promise = Promise::of(&request, config);
        let announced = Announced::by(request.head());
        let asked = if has_inner { self.probe.ask(&*self.service, config, &request, policy, is_known) } else { None };
        let (pending, payload) = if let Some(policy) = asked {
            info.declare(policy);
            PendingRequest::asked(request)
        } else if has_inner {
            let refusable = if is_known || policy.allows_keyless() { None } else { self.probe.place_of(&request) };
            let routed = PendingRequest::route(&*self.service, request);
            self.probe.learn(refusable, &info, policy);
            routed
        } else {
            if (is_known || may_be_in_body) && !settings.is_observed() {
                accept_encoding::take(&mut request, &info);
            }
            PendingRequest::keep(request)
        };
        // The router has been asked, and every inner instance and guard has spoken: none of them acts later than in
        // `call`.
        if info.stage() == Stage::GovernedByInner {
            return CallFuture::passing(pending.pass(&self.service, payload));
        }
        let base = policy;
        let policy = info.declared().unwrap_or(policy);
        if policy == Policy::Exempt {
            info.set_stage(Stage::Passed);
            return CallFuture::passing(pending.pass(&self.service, payload));
        }
        let governed = Governed {
            service: self.service.clone(),
            operation: Operation::new(OutcomeRecorder::new(config, pending.head().method, route, policy), ledger),
            config: config.clone(),
            info: info.clone(),
            pending,
            body: RequestBody::unread(payload, announced),
            policy,
            base,
            probe: self.probe.clone(),
            key,
            may_be_in_body,
            is_anonymous: principal.is_anonymous(),
            principal,
            streamed: None,
            counted: None,
            #[cfg(feature = "encryption")]
            explanation: None,
            asked: None,
            promise: promise.as_ref().map(|promise| promise.is_made()),
        };
        CallFuture::governed(governed.answer(), info, config, promise)
    }
}

/// A request that this instance governs.
pub(super) struct Governed<S: Service<ServiceRequest>> {
    pub(super) service: Rc<S>,
    pub(super) config: Rc<WrapConfig>,
    pub(super) info: IdempotencyInfo,
    pub(super) pending: PendingRequest<S>,
    pub(super) body: RequestBody,
    pub(super) policy: Policy,
    /// The policy where no guard declares another one.
    pub(super) base: Policy,
    pub(super) probe: Rc<Probe>,
    pub(super) key: Result<Option<Key>, InvalidKey>,
    /// Whether the body may have the key, and was not read yet.
    pub(super) may_be_in_body: bool,
    pub(super) principal: Principal,
    /// The principal whose first run it may be. `None`: first runs are not counted, or the request is anonymous.
    pub(super) counted: Option<NonZeroU64>,
    /// Whether the request showed no identity.
    pub(super) is_anonymous: bool,
    /// Whether the client was promised an answer. `None`: it does not prefer one at once, or can't have it.
    pub(super) promise: Option<Arc<AtomicBool>>,
    /// With `body = stream`, once the key is known.
    pub(super) streamed: Option<Box<StreamedHead>>,
    /// `None`: mismatches are not explained.
    #[cfg(feature = "encryption")]
    pub(super) explanation: Option<Box<Explanation>>,
    /// The key and the record id of a request about which the store was asked.
    pub(super) asked: Option<(Key, RecordId)>,
    /// Last, so that everything else of the request is gone before its key is free.
    pub(super) operation: Operation,
}

impl<S, B> Governed<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    /// Decides, and does what was decided. Paths that few requests take are boxed, because this future is moved for
    /// each.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would keep its argument twice")]
    fn answer(mut self) -> impl Future<Output = Result<ServiceResponse<AnswerBody<B>>, Error>> {
        async move {
            // The span is opened here and not in `call`: layers outside enter spans of their own where they poll.
            let span = self.operation.recorder.open_span();
            let answer = async {
                let mut decision = self.decide().await;
                if let Some(first_runs) = self.config.first_runs.clone() {
                    decision = Box::pin(self.admit(decision, &first_runs)).await;
                }
                #[cfg(feature = "encryption")]
                if self.explanation.is_some() {
                    Box::pin(self.explain(&mut decision)).await;
                }
                if let Some(ask) = self.config.reconcile.clone() {
                    decision = Box::pin(self.reconcile(decision, ask)).await;
                }
                if self.promise.is_some() {
                    self.accept(&mut decision);
                }
                self.prepare(&mut decision);
                if let Decision::Run { held, .. } = decision {
                    self.operation.held = Some(held);
                    decision = Decision::RunUnprotected;
                }
                match decision {
                    Decision::Run { .. } | Decision::RunUnprotected => match self.confirm() {
                        Confirmed::Ours => self.run().await,
                        Confirmed::Theirs => Box::pin(self.step_aside()).await,
                        Confirmed::Unclear => Box::pin(self.refuse(Problem::Misconfigured)).await,
                    },
                    Decision::Replay(response) | Decision::Answer(response) => {
                        if self.body.is_unread() {
                            Box::pin(self.body.discard(self.config.body_limits())).await;
                        }
                        self.pending.answer(response, &self.config.synthetic)
                    }
                    Decision::Refuse(problem) => Box::pin(self.refuse(problem)).await,
                    Decision::Pass(outcome) => Box::pin(self.pass(outcome)).await,
                }
            };
            answer.instrument(span).await
        }
    }

    /// Answers with a problem.
    pub(super) async fn refuse(&mut self, problem: Problem) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        let is_of_body =
            matches!(problem, Problem::BodyTooLarge { .. } | Problem::BodyTimeout { .. } | Problem::UnreadableBody);
        if !is_of_body {
            self.body.discard(self.config.body_limits()).await;
        }
        #[cfg(feature = "encryption")]
        let differences = self.explanation.as_ref().and_then(|explanation| explanation.differences.as_deref());
        #[cfg(not(feature = "encryption"))]
        let differences = None;
        let response = problem.explained(&self.config.style, differences).map_body(|_, body| AnswerBody::boxed(body));
        self.pending.answer(response, &self.config.synthetic)
    }

    /// Passes the request to the handler without a claim.
    async fn pass(&mut self, outcome: Outcome) -> Result<ServiceResponse<AnswerBody<B>>, Error> {
        self.info.set_stage(if outcome == Outcome::Keyless { Stage::Passed } else { Stage::Observing });
        let payload = self.body.take_payload();
        if outcome == Outcome::Keyless {
            // Both were done for a key that the body turned out not to have.
            self.operation.in_flight = None;
            self.pending.restore_accept_encoding(&self.info);
        }
        if let Some(run) = &self.operation.ledger {
            run.is_ordinary();
        }
        let mut response = self.pending.take().pass(&*self.service, payload).await?;
        if let Some(run) = self.operation.ledger.clone()
            && let Err(problem) = end_ordinary(&run, &response).await
        {
            let problem = problem.response(&self.config.style).map_body(|_, body| AnswerBody::boxed(body));
            return Ok(response.into_response(problem));
        }
        if let Some(name) = &self.config.settings.observe_header
            && outcome != Outcome::Keyless
        {
            response.headers_mut().insert(name.clone(), HeaderValue::from_static(outcome.name()));
        }
        Ok(response.map_body(|_, body| AnswerBody::through(body)))
    }
}

impl<S> std::fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotencyService").field("policy", &self.plan.policy).finish_non_exhaustive()
    }
}
