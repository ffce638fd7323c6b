//! Look-ups: a client that got a 202, or lost its connection, asks what became of its operation.

use std::time::Duration;

use actix_service::{Service, Transform};
use actix_web::{
    HttpRequest, HttpResponse,
    dev::{AppService, HttpServiceFactory, ServiceRequest},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use futures_util::future::{Ready, ready};
use tokio::time::Instant;

use crate::{
    app::Idempotency,
    client::{prefer::Prefer, problem::Problem},
    key::{Key, Principal, RecordId},
    middleware::StoredAnswers,
    record::Record,
    settings::{ConfigError, Scope},
    store::{Inspection, RecordState, StoreError},
};

/// A scope in which clients look up operations. Made by [`Idempotency::operations_scope`].
#[derive(Debug)]
#[must_use = "a scope does nothing before it is given to `.service()`"]
pub struct OperationsScope {
    idempotency: Idempotency,
    cache: Option<String>,
    allows_anonymous: bool,
}

impl Idempotency {
    /// A scope in which clients look up what became of their operations: the place that the `Location` of a 202 of
    /// [`respond_async`](crate::IdempotencyKey::respond_async) leads to. Mount it inside of the authentication, at the path
    /// of the setting `operations.path`.
    ///
    /// ```
    /// use actix_idempotency::{Idempotency, IdempotencyKey, Settings};
    /// use actix_web::{App, HttpResponse, web};
    ///
    /// let mut settings = Settings::ietf();
    /// settings.operations.path = Some("/operations".into());
    /// let idempotency = Idempotency::builder().settings(settings).build().unwrap();
    /// let app = App::new()
    ///     .app_data(web::Data::new(idempotency.clone()))
    ///     .service(web::scope("/operations").service(idempotency.operations_scope()))
    ///     .service(
    ///         web::resource("/reports")
    ///             .wrap(IdempotencyKey::default().respond_async())
    ///             .route(web::post().to(HttpResponse::Created)),
    ///     );
    /// # let _ = app;
    /// ```
    ///
    /// | request | |
    /// |---|---|
    /// | `GET /{record}` | by the id in `Location`, in all caches |
    /// | `GET` the scope itself, with the key's header | by the key, in one cache |
    ///
    /// | answer | when |
    /// |---|---|
    /// | the stored response, with its first status and the marker of a replay | the operation has run |
    /// | 202 with `Retry-After` | it runs. With `Prefer: wait=N` after N seconds, at most `lock.max_wait` |
    /// | 409 `not-completed` | it ended without a stored response, and the record remembers that: send it again |
    /// | 409 `outcome-unknown` | its run was lost |
    /// | 404 | nothing is known, or the record is another principal's |
    ///
    /// An anonymous caller gets 404, unless [`allow_anonymous`](OperationsScope::allow_anonymous) says otherwise.
    pub fn operations_scope(&self) -> OperationsScope {
        OperationsScope { idempotency: self.clone(), cache: None, allows_anonymous: false }
    }
}

impl OperationsScope {
    /// Looks up keys in the cache of this name. Default: `storage.cache_name`.
    pub fn cache(mut self, name: impl Into<String>) -> Self {
        self.cache = Some(name.into());
        self
    }

    /// Answers anonymous callers about operations of anonymous callers. Whoever guesses a key, or learns the id of a record,
    /// reads the response then, without the payload that a replay asks for.
    pub const fn allow_anonymous(mut self) -> Self {
        self.allows_anonymous = true;
        self
    }

    /// Ready for use.
    fn lookup(self) -> Result<Lookup, ConfigError> {
        let answers = StoredAnswers::new(&self.idempotency, self.cache)?;
        let Self { idempotency, allows_anonymous, .. } = self;
        let shared = idempotency.shared();
        if !shared.encoder.uses_key_only() {
            return Err(ConfigError::Combination(format!(
                "`operations_scope` looks up keys, and the encoder `{}` makes more of a request than its key",
                answers.settings().encoder
            )));
        }
        if answers.settings().scope == Scope::Endpoint {
            return Err(ConfigError::Combination(
                "`operations_scope` looks up keys, and with `scope = endpoint` a key names one operation per method and path"
                    .into(),
            ));
        }
        Ok(Lookup { idempotency, answers, allows_anonymous })
    }
}

impl HttpServiceFactory for OperationsScope {
    fn register(self, config: &mut AppService) {
        let lookup = self.lookup().map_err(|error| tracing::error!(%error, "the server does not start"));
        let checked = Checked(lookup.is_ok());
        let mut scope = web::scope("").route("", web::get().to(by_key)).route("/{record}", web::get().to(by_record));
        if let Ok(lookup) = lookup {
            scope = scope.app_data(web::Data::new(lookup));
        }
        scope.wrap(checked).register(config);
    }
}

/// Lets a server with a mistake not start.
struct Checked(bool);

impl<S: Service<ServiceRequest>> Transform<S, ServiceRequest> for Checked {
    type Response = S::Response;
    type Error = S::Error;
    type Transform = S;
    type InitError = ();
    type Future = Ready<Result<S, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(if self.0 { Ok(service) } else { Err(()) })
    }
}

struct Lookup {
    idempotency: Idempotency,
    answers: StoredAnswers,
    allows_anonymous: bool,
}

async fn by_record(request: HttpRequest, lookup: web::Data<Lookup>, record: web::Path<String>) -> HttpResponse {
    let Ok(id) = record.parse() else { return absent() };
    let caches: Vec<&str> = lookup.idempotency.shared().stores.keys().map(String::as_str).collect();
    let principal = lookup.principal(&request);
    // The id is enough, unless only the key opens the record.
    let key = lookup.answers.key_of(request.headers()).unwrap_or_default();
    lookup.answer(&request, &caches, id, &principal, key.as_ref()).await
}

async fn by_key(request: HttpRequest, lookup: web::Data<Lookup>) -> HttpResponse {
    let principal = lookup.principal(&request);
    match lookup.answers.key_of(request.headers()) {
        Ok(Some(key)) => {
            let id = lookup.answers.id_of(&principal, &key);
            lookup.answer(&request, &[lookup.answers.cache()], id, &principal, Some(&key)).await
        }
        Ok(None) => Problem::MissingKey.response(lookup.answers.style()),
        Err(invalid) => Problem::InvalidKey(invalid).response(lookup.answers.style()),
    }
}

impl Lookup {
    fn principal(&self, request: &HttpRequest) -> Principal {
        self.answers.principal(&ServiceRequest::from_request(request.clone()))
    }

    async fn answer(
        &self,
        request: &HttpRequest,
        caches: &[&str],
        id: RecordId,
        principal: &Principal,
        key: Option<&Key>,
    ) -> HttpResponse {
        if principal.is_anonymous() && !self.allows_anonymous {
            return absent();
        }
        let prefer = Prefer::of(request.headers().get_all(HeaderName::from_static("prefer")));
        let mut response = match self.look(caches, id, principal, key, prefer.wait.unwrap_or_default()).await {
            Err(NotSeen::NeedsKey) => Problem::MissingKey.response(self.answers.style()),
            Ok(Some(seen)) => match (seen.state, &seen.record) {
                (RecordState::Completed, Some(record)) => {
                    match self.answers.response(record, seen.remaining, request.headers()) {
                        Ok(response) => response,
                        Err(error) => self.unavailable(&error.into()),
                    }
                }
                _ if is_running(&seen) => HttpResponse::Accepted().insert_header((header::RETRY_AFTER, "1")).finish(),
                (RecordState::Free, _) if seen.not_stored.is_some() || seen.lost_owner != Some(true) => {
                    Problem::NotCompleted.response(self.answers.style())
                }
                _ => Problem::OutcomeUnknown.response(self.answers.style()),
            },
            Ok(None) => absent(),
            Err(NotSeen::Unavailable(error)) => self.unavailable(&error),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Looks until the operation has ended, for at most `wait`.
    async fn look(
        &self,
        caches: &[&str],
        id: RecordId,
        principal: &Principal,
        key: Option<&Key>,
        wait: Duration,
    ) -> Result<Option<Inspection>, NotSeen> {
        let settings = self.answers.settings();
        let until = Instant::now() + wait.min(settings.lock.max_wait);
        let mut seat = None;
        for round in 0.. {
            let seen = tokio::time::timeout(settings.storage.timeout, self.find(caches, &id)).await;
            let seen = seen.unwrap_or(Err(StoreError::TimedOut(settings.storage.timeout)))?;
            let Some((cache, mut seen)) = seen else { return Ok(None) };
            // A record that is another principal's is not there.
            if seen.principal != Some(self.answers.stored_principal(principal).tag(&id)) {
                return Ok(None);
            }
            let left = until.saturating_duration_since(Instant::now());
            let handle = self.idempotency.cache(cache).map_err(StoreError::unavailable)?;
            if seen.record.as_ref().is_some_and(Record::needs_clients_key) {
                let of_record = |key: &&Key| self.idempotency.record_id(cache, principal, key.as_str()) == id;
                let key = key.filter(of_record).ok_or(NotSeen::NeedsKey)?;
                handle.open(key.as_str(), principal, &mut seen);
            }
            if left.is_zero() || !is_running(&seen) {
                return Ok(Some(seen));
            }
            if seat.is_none() {
                seat = handle.seat(id, settings.lock.max_waiters);
                if seat.is_none() {
                    return Ok(Some(seen));
                }
            }
            handle.wait_for_change(&id, round, left.min(seen.remaining)).await;
        }
        Ok(None)
    }

    async fn find<'a>(&self, caches: &[&'a str], id: &RecordId) -> Result<Option<(&'a str, Inspection)>, StoreError> {
        for cache in caches {
            if let Some(seen) = self.idempotency.inspect(cache, id).await? {
                return Ok(Some((cache, seen)));
            }
        }
        Ok(None)
    }

    fn unavailable(&self, error: &StoreError) -> HttpResponse {
        tracing::error!(error = error as &dyn std::error::Error, "an operation can't be looked up");
        Problem::StoreUnavailable.response(self.answers.style())
    }
}

/// Why a record was not looked at.
enum NotSeen {
    /// The record opens with the key of its client only, which the look-up does not have.
    NeedsKey,
    Unavailable(StoreError),
}

impl From<StoreError> for NotSeen {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error)
    }
}

/// Whether an owner runs, or is waited for.
fn is_running(seen: &Inspection) -> bool {
    match seen.state {
        RecordState::InFlight => true,
        RecordState::Lapsed => !seen.remaining.is_zero(),
        _ => false,
    }
}

fn absent() -> HttpResponse {
    HttpResponse::build(StatusCode::NOT_FOUND)
        .insert_header((header::CONTENT_TYPE, "application/problem+json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(r#"{"type":"about:blank","title":"Not Found","status":404}"#)
}
