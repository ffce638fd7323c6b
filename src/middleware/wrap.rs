//! The pair of wraps, and what code says at each of them.

use std::{fmt, rc::Rc, sync::Arc, time::Duration};

use actix_service::{Service, Transform};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use futures_util::future::LocalBoxFuture;

use super::{
    config::WrapConfig,
    nesting::{Born, MakingService},
    plan::WrapPlan,
    response::AnswerBody,
    service::IdempotencyService,
};
use crate::{
    app::Idempotency,
    handler::lost::{Lost, Verdict},
    key::{KeyEncoder, Principal},
    ledger::{AnyLedger, Ledger},
    policy::Policy,
    settings::Settings,
    store::Store,
};

/// Every unsafe method needs a key, unless a route opts out. Wraps an App, a scope, a resource or a route; the
/// innermost wrap that a request reaches governs it, with its own settings.
///
/// Register it *before* the authentication wrap (the last `.wrap` runs first): a replay never reaches what is inside.
///
/// ```
/// use actix_idempotency::IdempotencyKey;
/// use actix_web::{App, HttpResponse, web};
///
/// let app = App::new()
///     .wrap(IdempotencyKey::default().exempt("/webhooks/{tail}*"))
///     .service(
///         web::scope("/reports")
///             .wrap(IdempotencyKey::default().optional())
///             .route("", web::post().to(HttpResponse::Created)),
///     );
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use = "a wrap does nothing before it is given to `.wrap()`"]
pub struct IdempotencyKey {
    plan: WrapPlan,
    born: Born,
}

/// Nothing needs a key, unless a route opts in.
///
/// ```
/// use actix_idempotency::{ExemptIdempotencyKey, IdempotencyKey};
/// use actix_web::{App, HttpResponse, web};
///
/// let app = App::new()
///     .wrap(ExemptIdempotencyKey::default())
///     .service(web::resource("/pay").wrap(IdempotencyKey::default()).route(web::post().to(HttpResponse::Created)));
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use = "a wrap does nothing before it is given to `.wrap()`"]
pub struct ExemptIdempotencyKey {
    plan: WrapPlan,
    born: Born,
}

impl Default for IdempotencyKey {
    /// [`Policy::Required`].
    fn default() -> Self {
        Self { plan: WrapPlan::new(Policy::Required), born: Born::now() }
    }
}

impl Default for ExemptIdempotencyKey {
    /// [`Policy::Exempt`].
    fn default() -> Self {
        Self { plan: WrapPlan::new(Policy::Exempt), born: Born::now() }
    }
}

impl ExemptIdempotencyKey {
    /// The wrap of an operators' scope, whose paths are known.
    pub(crate) fn of_operators() -> Self {
        let mut wrap = Self::default();
        wrap.plan.is_operators = true;
        wrap
    }
}

impl IdempotencyKey {
    /// Requests without a key run unprotected: [`Policy::Optional`]. Can be combined with [`manual`](Self::manual).
    pub fn optional(mut self) -> Self {
        self.plan.policy = match self.plan.policy {
            Policy::Manual | Policy::OptionalManual => Policy::OptionalManual,
            _ => Policy::Optional,
        };
        self
    }

    /// The handler always runs, one at a time per key, and decides itself: [`Policy::Manual`]. Can be combined with
    /// [`optional`](Self::optional).
    pub fn manual(mut self) -> Self {
        self.plan.policy = match self.plan.policy {
            Policy::Optional | Policy::OptionalManual => Policy::OptionalManual,
            _ => Policy::Manual,
        };
        self
    }

    /// Paths under this wrap whose keys are ignored, unless something inside declares another policy. The pattern has
    /// the router's syntax and is matched against the part of the path that is left at this wrap.
    pub fn exempt(self, pattern: impl Into<String>) -> Self {
        self.rule(pattern, Policy::Exempt)
    }
}

/// The methods and traits that both wraps have. A macro, so that rustdoc shows them at each.
macro_rules! wrap {
    ($name:ident) => {
        impl $name {
            /// Sets the policy of paths under this wrap, unless something inside declares another one. The first
            /// pattern that matches counts. One pattern with two policies is refused at startup.
            pub fn rule(mut self, pattern: impl Into<String>, policy: Policy) -> Self {
                self.plan.rules.push((pattern.into(), policy));
                self
            }

            /// Uses `idempotency` instead of looking into app data. A mistake at this wrap then keeps the server from
            /// starting, instead of failing its requests.
            pub fn using(mut self, idempotency: &Idempotency) -> Self {
                self.plan.idempotency = Some(idempotency.clone());
                self
            }

            /// Keeps records in the cache of this name, declared by `caches.NAME` or
            /// [`Builder::cache`](crate::Builder::cache). Default: `storage.cache_name`.
            pub fn cache_name(mut self, name: impl Into<String>) -> Self {
                self.plan.cache_name = Some(name.into());
                self
            }

            /// Keeps the records of this wrap in a store of its own.
            pub fn store(mut self, store: Arc<dyn Store>) -> Self {
                self.plan.store = Some(store);
                self
            }

            /// Encodes the keys of this wrap by an encoder of its own.
            pub fn encoder(mut self, encoder: impl KeyEncoder) -> Self {
                self.plan.encoder = Some(Arc::new(encoder));
                self
            }

            /// Finds the principal where no [`Principal`] is in the request's extensions. When it returns `None`, a
            /// hash of the credentials stands in.
            pub fn principal(
                mut self,
                principal: impl Fn(&ServiceRequest) -> Option<Principal> + Send + Sync + 'static,
            ) -> Self {
                self.plan.principal = Some(Arc::new(principal));
                self
            }

            /// Shows to copies of a request what guards and layers inside look at, besides its head and its path.
            ///
            /// A wrap that has others inside asks by a copy of the request who governs it. A copy has no extensions, no
            /// app data and no connection data. Where a guard inside goes by them, put them into the copy here; else the
            /// first requests of its routes may be refused.
            ///
            /// ```
            #[doc = concat!("use actix_idempotency::", stringify!($name), ";")]
            /// use actix_web::HttpMessage;
            ///
            /// #[derive(Clone)]
            /// struct Tenant(u32);
            ///
            #[doc = concat!("let wrap = ", stringify!($name), "::default().showing(|request, copy| {")]
            ///     if let Some(tenant) = request.extensions().get::<Tenant>() {
            ///         copy.extensions_mut().insert(tenant.clone());
            ///     }
            /// });
            /// # let _ = wrap;
            /// ```
            pub fn showing(
                mut self,
                show: impl Fn(&ServiceRequest, &mut ServiceRequest) + Send + Sync + 'static,
            ) -> Self {
                self.plan.show = Some(Arc::new(show));
                self
            }

            /// Restores what layers outside keep in task-locals, where an operation goes on without its client.
            ///
            /// Such an operation becomes a task of its own, outside of the scopes of all layers. `hook` is called within
            /// these scopes, when the operation first waits; what it returns wraps the rest of the operation.
            ///
            /// ```
            #[doc = concat!("use actix_idempotency::", stringify!($name), ";")]
            ///
            /// tokio::task_local!(static TENANT: u32);
            ///
            #[doc = concat!("let wrap = ", stringify!($name), "::default().on_detach(|| {")]
            ///     let tenant = TENANT.try_with(|tenant| *tenant).unwrap_or(0);
            ///     move |rest| Box::pin(TENANT.scope(tenant, rest))
            /// });
            /// # let _ = wrap;
            /// ```
            pub fn on_detach<C>(mut self, hook: impl Fn() -> C + Send + Sync + 'static) -> Self
            where
                C: FnOnce(LocalBoxFuture<'static, ()>) -> LocalBoxFuture<'static, ()> + 'static,
            {
                self.plan.carry = Some(Arc::new(move || Box::new(hook())));
                self
            }

            /// Commits the rows of handlers and their answers together, in the database of this ledger: handlers take a
            /// [`Tx`](crate::ledger::Tx) or [`Transactions`](crate::ledger::Transactions). Claims only save runs then.
            ///
            /// Every answer that is recorded gets a row of the ledger, and replays are made from rows. Give wraps with a ledger
            /// a [`cache_name`](Self::cache_name) of their own: a key that is committed there is free for other wraps of
            /// its cache. Not for `.manual()` wraps.
            pub fn ledger(mut self, ledger: &impl Ledger) -> Self {
                self.plan.ledger = Some(AnyLedger::new(ledger));
                self
            }

            /// Stores answers in the store as well as in the [`ledger`](Self::ledger): for one TTL while a wrap that was
            /// used without a ledger gets one by a rolling deployment, since old processes don't look there.
            pub fn ledger_transition(mut self) -> Self {
                self.plan.is_in_transition = true;
                self
            }

            /// Asks about a run that was lost, before the next run with its key begins; sets `on_unknown = ask` for this wrap.
            ///
            /// A run is lost when its process died, when it lost its claim, when it panicked, or when it was cancelled. The
            /// hook runs under the claim of the next request and gets [what is known](crate::lost::Lost). Its
            /// [verdict](crate::lost::Verdict) is stored, or lets the handler run, or leaves the outcome unknown
            /// (409 `outcome-unknown`), as a panic of the hook does, and a hook that takes longer than ten times
            /// `storage.timeout`. An operator can [forget](crate::Idempotency::forget) the record all the same.
            ///
            /// With a [`ledger`](Self::ledger), a committed row is the answer, and nobody is asked.
            ///
            /// ```
            #[doc = concat!("use actix_idempotency::{", stringify!($name), ", lost::{Lost, Verdict}};")]
            /// use actix_web::HttpResponse;
            /// # use actix_idempotency::key::Key;
            /// # async fn find(_: Key) -> Result<Option<String>, ()> { Ok(None) }
            ///
            #[doc = concat!("let wrap = ", stringify!($name), "::default().on_unknown(async |lost: &Lost| {")]
            ///     match find(lost.step_key("charge")).await {
            ///         Ok(Some(charge)) => Verdict::Done(HttpResponse::Created().json(charge)),
            ///         Ok(None) => Verdict::NotDone,
            ///         Err(_) => Verdict::Unknown,
            ///     }
            /// });
            /// # let _ = wrap;
            /// ```
            pub fn on_unknown(mut self, hook: impl AsyncFn(&Lost) -> Verdict + Send + Sync + 'static) -> Self {
                let hook = Arc::new(hook);
                self.plan.reconcile = Some(Arc::new(move |lost: Rc<Lost>| {
                    let hook = hook.clone();
                    Box::pin(async move { hook(&lost).await })
                }));
                self
            }

            /// Lets clients have an answer at once: a request with `Prefer: respond-async` (RFC 7240) gets a 202 when its
            /// operation outlasts the time of `wait=N`, and the operation goes on. `Location` leads to the answer: to the
            /// setting `operations.path`, where [`operations_scope`](Idempotency::operations_scope) is mounted.
            ///
            /// A duplicate that says the same gets a 202, too, while the operation runs. Shutdown waits for such operations
            /// up to `limits.drain_timeout` only.
            pub fn respond_async(mut self) -> Self {
                self.plan.responds_async = true;
                self
            }

            /// Says that handlers inside save [steps](crate::IdempotencyInfo::step). A store that can't save them is then
            /// found at start, instead of at the first step.
            pub fn steps(mut self) -> Self {
                self.plan.needs_steps = true;
                self
            }

            /// How long records are kept, from completion. Default: `storage.ttl`.
            pub fn ttl(self, ttl: Duration) -> Self {
                self.configure(move |settings| settings.storage.ttl = ttl)
            }

            /// Changes settings for this wrap. `settings.storage` holds the settings of the wrap's cache. What shapes
            /// parts that all wraps share (the stores, locks and encoders of the process, and the limits of all requests
            /// together) is refused.
            ///
            /// ```
            #[doc = concat!("use actix_idempotency::{", stringify!($name), ", settings::OnDisconnect};")]
            ///
            #[doc = concat!("let wrap = ", stringify!($name), "::default().configure(|settings| {")]
            ///     settings.conflict_status_code = None;
            ///     settings.max_request_body = 64 << 10;
            ///     settings.on_disconnect = OnDisconnect::Cancel;
            /// });
            /// # let _ = wrap;
            /// ```
            pub fn configure(mut self, change: impl Fn(&mut Settings) + Send + Sync + 'static) -> Self {
                self.plan.changes.push(Arc::new(change));
                self
            }
        }

        impl<S, B> Transform<S, ServiceRequest> for $name
        where
            S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
            S::Future: 'static,
            B: MessageBody + 'static,
        {
            type Response = ServiceResponse<AnswerBody<B>>;
            type Error = Error;
            type Transform = IdempotencyService<S>;
            type InitError = ();
            type Future = MakingService<Self::Transform>;

            fn new_transform(&self, service: S) -> Self::Future {
                service_of(&self.plan, &self.born, service)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("policy", &self.plan.policy)
                    .field("rules", &self.plan.rules)
                    .field("cache_name", &self.plan.cache_name)
                    .finish_non_exhaustive()
            }
        }
    };
}

wrap!(IdempotencyKey);
wrap!(ExemptIdempotencyKey);

fn service_of<S>(plan: &WrapPlan, born: &Born, service: S) -> MakingService<IdempotencyService<S>> {
    let inner = born.inner();
    let config = match &plan.idempotency {
        Some(idempotency) => WrapConfig::new(plan, idempotency).map(|config| Some(Rc::new(config))),
        // The rest is found, and checked, at the first request. The rules can be checked now.
        None => plan.rules().map(|_| None).map_err(Into::into),
    };
    let service = match config {
        Ok(config) => Ok(IdempotencyService::new(service, plan.clone(), config, inner)),
        Err(error) => {
            tracing::error!(%error, "the server does not start");
            Err(())
        }
    };
    MakingService::new(service, plan.is_operators)
}
