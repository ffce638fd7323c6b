//! What operators see and do: records as JSON, and a page over it.

mod view;

use std::str::FromStr as _;

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse, ResponseError,
    dev::HttpServiceFactory,
    error::{JsonPayloadError, QueryPayloadError},
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::DefaultHeaders,
    web,
};
use serde::Deserialize;

use self::view::{Body, Detail, Found, Page, Row, Status};
use crate::{
    app::Idempotency,
    key::{Key, Principal, RecordId, fingerprint::RecordIds},
    middleware::ExemptIdempotencyKey,
    settings::{Enforcement, Scope, Statuses},
    store::{Forgotten, Inspection, RecordState, StoreError},
};

/// The page: one file, nothing from elsewhere.
const PAGE: &str = include_str!("page.html");

/// What a page of records holds at most.
const MOST: usize = 500;

/// How many records one request looks at for those that pass its filters, and how many it holds at a time: they come with
/// their responses.
const MOST_LOOKED_AT: usize = 5_000;
const AT_ONCE: usize = 50;

impl Idempotency {
    /// A page for operators and the JSON behind it, to be mounted **behind an authorization of your own**: whoever reaches
    /// it sees stored responses and can free keys.
    ///
    /// ```
    /// use actix_idempotency::{Idempotency, IdempotencyKey};
    /// use actix_web::{App, web};
    /// # use actix_web::{Error, body::MessageBody, dev::{ServiceRequest, ServiceResponse}, middleware::{Next, from_fn}};
    /// # async fn operators_only(request: ServiceRequest, next: Next<impl MessageBody>)
    /// #     -> Result<ServiceResponse<impl MessageBody>, Error> { next.call(request).await }
    ///
    /// let idempotency = Idempotency::in_memory();
    /// let app = App::new()
    ///     .app_data(web::Data::new(idempotency.clone()))
    ///     .service(web::scope("/ops/idempotency").service(idempotency.admin_scope()).wrap(from_fn(operators_only)));
    /// # let _ = app;
    /// ```
    ///
    /// | request | answer |
    /// |---|---|
    /// | `GET` the scope itself | the page |
    /// | `GET status` | what runs, the mode, the caches |
    /// | `GET records?cache=&limit=&after=&id=&state=&status=&replayed=` | a page of records; `id`: how it begins, as the log shows it; `state`: `in-flight`, `owner-lost`, `completed`; `status`: a list such as `2xx,!204`; `next` goes on |
    /// | `GET records/{cache}/{id}?body=true` | one record; its body only when asked for |
    /// | `POST find` with `cache`, `key`, and `principal` or `authorization`, `method` and `path` with `scope = endpoint` | the record of a key |
    /// | `POST records/{cache}/{id}/forget` with a `reason` | frees the key; the log says why |
    ///
    /// Errors are problem+json. Requests need no key themselves; where an [`IdempotencyKey`](crate::middleware::IdempotencyKey) stands
    /// outside of an authorization that awaits, it can't see that, and needs an
    /// [`exempt`](crate::middleware::IdempotencyKey::exempt) pattern for this scope. A record on Redis is found by a look at all names there:
    /// these pages are for people, not for loops. They show the caches of this `Idempotency`: not a store that a wrap
    /// brought with it. A key is found as the settings of the process read and scope it, not as a wrap was configured.
    pub fn admin_scope(&self) -> impl HttpServiceFactory + 'static {
        let no_store = DefaultHeaders::new().add((header::CACHE_CONTROL, "no-store"));
        web::scope("")
            .app_data(web::Data::new(self.clone()))
            .app_data(
                web::JsonConfig::default().limit(64 << 10).error_handler(|error, _| Refusal::of_json(&error).into()),
            )
            .app_data(web::QueryConfig::default().error_handler(|error, _| Refusal::of_query(&error).into()))
            .route("", web::get().to(page))
            .route("/", web::get().to(page))
            .route("/status", web::get().to(status))
            .route("/records", web::get().to(list))
            .route("/records/{cache}/{id}", web::get().to(show))
            .route("/records/{cache}/{id}/forget", web::post().to(forget))
            .route("/find", web::post().to(find))
            // A page is no operation that anybody repeats, and needs no key where the App asks for one.
            .wrap(ExemptIdempotencyKey::default().using(self))
            .wrap(no_store)
    }
}

async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(PAGE)
}

async fn status(idempotency: web::Data<Idempotency>) -> HttpResponse {
    HttpResponse::Ok().json(Status::of(&idempotency))
}

/// Which records are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    cache: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
    state: Option<String>,
    status: Option<String>,
    replayed: Option<bool>,
    /// How its id begins: the log has no more of it.
    id: Option<String>,
}

/// What a record must be like to be listed.
struct Filter {
    id: String,
    state: Option<RecordState>,
    status: Option<Statuses>,
    replayed: Option<bool>,
}

impl Filter {
    fn of(listing: &Listing) -> Result<Self, Refusal> {
        let state = listing.state.as_deref().map(|name| {
            let known = [RecordState::InFlight, RecordState::OwnerLost, RecordState::Completed];
            let state = known.into_iter().find(|state| state.name() == name);
            state.ok_or_else(|| Refusal::bad("state is one of in-flight, owner-lost, completed"))
        });
        let status =
            listing.status.as_deref().map(|list| Statuses::from_str(list).map_err(|error| Refusal::bad(&error)));
        let id = listing.id.as_deref().unwrap_or_default().to_ascii_lowercase();
        if id.len() > 64 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Refusal::bad("id is the beginning of a record id, which has 64 hexadecimal digits"));
        }
        Ok(Self { id, state: state.transpose()?, status: status.transpose()?, replayed: listing.replayed })
    }

    /// The last id before those that begin as asked for.
    fn before(&self) -> Option<RecordId> {
        let least: RecordId = format!("{:0<64}", self.id).parse().ok()?;
        let mut bytes = *least.as_bytes();
        let at = bytes.iter().rposition(|byte| *byte > 0)?;
        bytes[at] -= 1;
        bytes[at + 1..].fill(0xff);
        Some(RecordId::from_bytes(bytes))
    }

    fn begins(&self, id: &RecordId) -> bool {
        id.to_string().starts_with(&self.id)
    }

    fn passes(&self, record: &Inspection) -> bool {
        let status = || record.record.as_ref().and_then(|record| record.response().ok()).map(|r| r.status());
        self.state.is_none_or(|state| record.state == state)
            && self.replayed.is_none_or(|replayed| (record.replays.unwrap_or(0) > 0) == replayed)
            && self.status.as_ref().is_none_or(|statuses| status().is_some_and(|status| statuses.contains(status)))
    }
}

async fn list(idempotency: web::Data<Idempotency>, listing: web::Query<Listing>) -> Result<HttpResponse, Refusal> {
    let filter = Filter::of(&listing)?;
    let cache = cache_of(&idempotency, listing.cache.as_deref())?;
    let limit = listing.limit.unwrap_or(50);
    if !(1..=MOST).contains(&limit) {
        return Err(Refusal::bad(&format!("limit is 1 to {MOST}")));
    }
    let after = listing.after.as_deref().map(id_of).transpose()?;
    let mut after = after.max(filter.before());
    let mut records = Vec::new();
    for _ in 0..MOST_LOOKED_AT / AT_ONCE {
        let found = idempotency.list(cache, after, AT_ONCE).await?;
        if found.is_empty() {
            return Ok(HttpResponse::Ok().json(Page { records, next: None }));
        }
        for record in found {
            // They come in the order of their ids.
            if !filter.begins(&record.id) {
                return Ok(HttpResponse::Ok().json(Page { records, next: None }));
            }
            if records.len() == limit {
                return Ok(HttpResponse::Ok().json(Page { records, next: after.map(|id| id.to_string()) }));
            }
            after = Some(record.id);
            if filter.passes(&record) {
                records.push(Row::of(cache, &record));
            }
        }
    }
    Ok(HttpResponse::Ok().json(Page { records, next: after.map(|id| id.to_string()) }))
}

/// The cache that is asked for, or the one that requests use where nothing else is said.
fn cache_of<'a>(idempotency: &'a Idempotency, name: Option<&'a str>) -> Result<&'a str, Refusal> {
    let name = name.unwrap_or(&idempotency.settings().storage.cache_name);
    let known = idempotency.cache(name).map_err(|error| Refusal::new(StatusCode::NOT_FOUND, &error))?;
    Ok(&known.name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Showing {
    #[serde(default)]
    body: bool,
}

async fn show(
    idempotency: web::Data<Idempotency>,
    path: web::Path<(String, String)>,
    showing: web::Query<Showing>,
) -> Result<HttpResponse, Refusal> {
    let (cache, id) = path.into_inner();
    let cache = cache_of(&idempotency, Some(&cache))?;
    let record = idempotency.inspect(cache, &id_of(&id)?).await?.ok_or_else(Refusal::absent)?;
    let response = record.record.as_ref().map(crate::record::Record::response).transpose().map_err(StoreError::from)?;
    let body =
        response.as_ref().filter(|_| showing.body).and_then(|response| response.body()).map(|body| Body::of(body));
    Ok(HttpResponse::Ok().json(Detail::of(cache, &record, response.as_ref(), body)))
}

/// Whose key is looked for. Sent in a body: keys are not to be in URLs, which are logged.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    cache: Option<String>,
    key: String,
    principal: Option<String>,
    authorization: Option<String>,
    method: Option<String>,
    path: Option<String>,
}

async fn find(idempotency: web::Data<Idempotency>, finding: web::Json<Finding>) -> Result<HttpResponse, Refusal> {
    let settings = idempotency.settings();
    if !idempotency.shared().encoder.is_key_alone() {
        let why = format!(
            "the encoder `{}` makes more of a request than its key: find its record in the list",
            settings.encoder
        );
        return Err(Refusal::new(StatusCode::CONFLICT, &why));
    }
    let key = Key::parse(finding.key.as_bytes(), settings.syntax, settings.max_key_length);
    let key = key.map_err(|invalid| Refusal::bad(&invalid))?;
    let cache = cache_of(&idempotency, finding.cache.as_deref())?;
    let principal = match (&finding.principal, &finding.authorization) {
        (Some(_), Some(_)) => return Err(Refusal::bad("principal or authorization, not both")),
        (Some(subject), None) => Principal::new(subject.clone()),
        (None, Some(credentials)) => {
            let line =
                HeaderValue::from_str(credentials).map_err(|_| Refusal::bad("authorization is no header value"))?;
            let headers: HeaderMap = [(header::AUTHORIZATION, line)].into_iter().collect();
            Principal::of_credentials(&headers)
        }
        (None, None) => Principal::anonymous(),
    };
    let endpoint = match (settings.scope, &finding.method, &finding.path) {
        (Scope::Principal, ..) => None,
        (Scope::Endpoint, Some(method), Some(path)) => Some((method.as_str(), path.as_str())),
        (Scope::Endpoint, ..) => return Err(Refusal::bad("with scope = endpoint, method and path are needed too")),
    };
    let namespace = settings.cache(cache).map_or("", |settings| &settings.namespace);
    let id = RecordIds::new(namespace, cache).of(&principal, key.as_str(), endpoint);
    // A wrap may be in another mode than the process.
    let observed = id.in_mode(Enforcement::Observe);
    let found = match idempotency.inspect(cache, &id).await? {
        None => idempotency.inspect(cache, &observed).await?,
        found => found,
    };
    let id = found.as_ref().map_or(id.in_mode(settings.mode), |record| record.id);
    let record = found.map(|record| Row::of(cache, &record));
    Ok(HttpResponse::Ok().json(Found { cache, id: id.to_string(), observed: id == observed, record }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgetting {
    reason: String,
}

async fn forget(
    request: HttpRequest,
    idempotency: web::Data<Idempotency>,
    path: web::Path<(String, String)>,
    forgetting: web::Json<Forgetting>,
) -> Result<HttpResponse, Refusal> {
    let (cache, id) = path.into_inner();
    let cache = cache_of(&idempotency, Some(&cache))?;
    let id = id_of(&id)?;
    let reason = forgetting.reason.trim();
    if reason.is_empty() {
        return Err(Refusal::bad("a reason is needed"));
    }
    let by = request.extensions().get::<Principal>().and_then(|principal| principal.subject().map(str::to_owned));
    match idempotency.forget(cache, &id).await? {
        Forgotten::Removed => {
            tracing::warn!(cache, record = ?id, reason, by, "a record was forgotten: its key can run again");
            Ok(HttpResponse::Ok().json(serde_json::json!({ "forgotten": "removed" })))
        }
        Forgotten::Absent => Err(Refusal::absent()),
        Forgotten::InFlight => Err(Refusal::new(StatusCode::CONFLICT, "a live owner holds it; it stays")),
    }
}

fn id_of(text: &str) -> Result<RecordId, Refusal> {
    text.parse().map_err(|error| Refusal::bad(&format!("{error}; records?id= finds it by its first ones")))
}

/// Why an operator gets no answer, as problem+json.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: &(impl ToString + ?Sized)) -> Self {
        Self { status, detail: detail.to_string() }
    }

    fn bad(detail: &(impl ToString + ?Sized)) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    fn absent() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such record")
    }

    fn of_json(error: &JsonPayloadError) -> Self {
        let status = match error {
            JsonPayloadError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            error => error.status_code(),
        };
        Self::new(status, error)
    }

    fn of_query(error: &QueryPayloadError) -> Self {
        Self::bad(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // Its cause tells an operator more than it does.
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let status = match error {
            StoreError::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, &format!("{error}{cause}"))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        const PROBLEM: (HeaderName, HeaderValue) =
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        HttpResponse::build(self.status).insert_header(PROBLEM).body(
            serde_json::json!({
                "type": "about:blank",
                "title": self.status.canonical_reason(),
                "status": self.status.as_u16(),
                "detail": self.detail,
            })
            .to_string(),
        )
    }
}
