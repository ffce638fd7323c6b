//! The pair of `Transform`s: what code says at an instance.

use std::{
    fmt,
    future::{Ready, ready},
    marker::PhantomData,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_service::{Service, Transform};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
};
use futures_util::future::{self, Either, LocalBoxFuture};

use super::{config::Config, service::Instance};
use super::{nesting, response::body::AnswerBody, service::IdempotencyService};
use crate::{
    app::{Idempotency, idempotency::PrincipalFn},
    key::{KeyEncoder, Principal},
    policy::{Over, Policy, Rules},
    settings::{ConfigError, Settings},
    store::Store,
};

/// The answer that a client gets, mostly at once. Only what must be waited for is a future, in a box of its own: the one
/// of each request is moved, and is to be small.
pub(super) type Answering<'a, B> = Either<
    future::Ready<Result<ServiceResponse<AnswerBody<B>>, Error>>,
    LocalBoxFuture<'a, Result<ServiceResponse<AnswerBody<B>>, Error>>,
>;

/// Every unsafe method needs a key, unless a route opts out. Wraps an App, a scope, a resource or a route; the innermost
/// one that a request reaches governs it, with its own settings.
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
pub type IdempotencyKey = Wrap<Keyed>;

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
pub type ExemptIdempotencyKey = Wrap<Exempted>;

/// The kind of [`IdempotencyKey`].
#[derive(Clone, Copy, Debug)]
pub enum Keyed {}

/// The kind of [`ExemptIdempotencyKey`].
#[derive(Clone, Copy, Debug)]
pub enum Exempted {}

/// [`IdempotencyKey`] or [`ExemptIdempotencyKey`].
#[must_use = "a wrap does nothing before it is given to `.wrap()`"]
pub struct Wrap<Kind> {
    plan: Plan,
    kind: PhantomData<fn() -> Kind>,
}

/// What code says at an instance. Becomes a [`Config`] once its `Idempotency` is known.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) policy: Policy,
    pub(super) rules: Vec<(String, Policy)>,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) cache_name: Option<String>,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) encoder: Option<Arc<dyn KeyEncoder>>,
    pub(super) principal: Option<PrincipalFn>,
    pub(super) changes: Vec<Change>,
}

/// Changes settings for one instance.
pub(super) type Change = Arc<dyn Fn(&mut Settings) + Send + Sync>;

impl Plan {
    pub(super) fn rules(&self) -> Result<Rules, ConfigError> {
        let mut rules = Rules::default();
        rules.add(self.rules.iter().map(|(pattern, policy)| (pattern.as_str(), *policy)), Over::Rest)?;
        Ok(rules)
    }
}

impl Default for IdempotencyKey {
    fn default() -> Self {
        Self::with_policy(Policy::Required)
    }
}

impl Default for ExemptIdempotencyKey {
    fn default() -> Self {
        Self::with_policy(Policy::Exempt)
    }
}

impl IdempotencyKey {
    /// Requests without a key run unprotected: [`Policy::Optional`]. Goes together with [`manual`](Self::manual).
    pub fn optional(mut self) -> Self {
        self.plan.policy = match self.plan.policy {
            Policy::Manual | Policy::OptionalManual => Policy::OptionalManual,
            _ => Policy::Optional,
        };
        self
    }

    /// The handler always runs, one at a time per key, and decides itself: [`Policy::Manual`].
    pub fn manual(mut self) -> Self {
        self.plan.policy = match self.plan.policy {
            Policy::Optional | Policy::OptionalManual => Policy::OptionalManual,
            _ => Policy::Manual,
        };
        self
    }

    /// Paths under this wrap that ignore keys, unless something further inside says otherwise. A pattern as the router
    /// takes it, matched against what is left of the path here.
    pub fn exempt(self, pattern: impl Into<String>) -> Self {
        self.rule(pattern, Policy::Exempt)
    }
}

impl<Kind> Wrap<Kind> {
    fn with_policy(policy: Policy) -> Self {
        let plan = Plan {
            policy,
            rules: Vec::new(),
            idempotency: None,
            cache_name: None,
            store: None,
            encoder: None,
            principal: None,
            changes: Vec::new(),
        };
        Self { plan, kind: PhantomData }
    }

    /// The policy of paths under this wrap, unless something further inside says otherwise. The first pattern that
    /// matches counts; one pattern with two policies is refused at start.
    pub fn rule(mut self, pattern: impl Into<String>, policy: Policy) -> Self {
        self.plan.rules.push((pattern.into(), policy));
        self
    }

    /// Uses `idempotency` instead of looking into app data. Then a mistake at this wrap stops the server's start instead
    /// of failing its requests.
    pub fn using(mut self, idempotency: &Idempotency) -> Self {
        self.plan.idempotency = Some(idempotency.clone());
        self
    }

    /// Keeps records in the cache of this name, declared by `caches.NAME` or
    /// [`Builder::cache`](crate::app::Builder::cache). Default: `storage.cache_name`.
    pub fn cache_name(mut self, name: impl Into<String>) -> Self {
        self.plan.cache_name = Some(name.into());
        self
    }

    /// Keeps records in a store of this wrap's own.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.plan.store = Some(store);
        self
    }

    /// Encodes keys in this wrap's own way.
    pub fn encoder(mut self, encoder: impl KeyEncoder) -> Self {
        self.plan.encoder = Some(Arc::new(encoder));
        self
    }

    /// Finds the principal where no [`Principal`] is in the request's extensions. `None`: the `Authorization` header
    /// stands in.
    pub fn principal(
        mut self,
        principal: impl Fn(&ServiceRequest) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        self.plan.principal = Some(Arc::new(principal));
        self
    }

    /// How long records are kept, from completion. Default: `storage.ttl`.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.configure(move |settings| settings.storage.ttl = ttl)
    }

    /// Changes any setting for this wrap. `settings.storage` is that of the wrap's cache; what shapes a store itself
    /// (`class`, `location`, `namespace` and the memory store's bounds) and `limits.max_in_flight` are fixed by then.
    ///
    /// ```
    /// use actix_idempotency::{IdempotencyKey, settings::OnDisconnect};
    ///
    /// let wrap = IdempotencyKey::default().configure(|settings| {
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

impl<S, B, Kind> Transform<S, ServiceRequest> for Wrap<Kind>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<AnswerBody<B>>;
    type Error = Error;
    type Transform = IdempotencyService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let has_inside = nesting::is_outside();
        nesting::announce();
        let known = self.plan.idempotency.as_ref();
        let config = match &known {
            Some(idempotency) => Config::new(&self.plan, idempotency).map(|config| Some(Rc::new(config))),
            // What can be seen without it.
            None => self.plan.rules().map(|_| None),
        };
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "the server does not start");
                return ready(Err(()));
            }
        };
        ready(Ok(IdempotencyService::new(service, Instance::new(self.plan.clone(), config), has_inside)))
    }
}

impl<Kind> Clone for Wrap<Kind> {
    fn clone(&self) -> Self {
        Self { plan: self.plan.clone(), kind: PhantomData }
    }
}

impl<Kind> fmt::Debug for Wrap<Kind> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrap")
            .field("policy", &self.plan.policy)
            .field("rules", &self.plan.rules)
            .field("cache_name", &self.plan.cache_name)
            .finish_non_exhaustive()
    }
}
