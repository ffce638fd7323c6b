//! The operators' endpoint: records as JSON, and one static page over it.

mod list;
mod principals;
mod refusal;
mod view;

use std::collections::BTreeMap;

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    dev::HttpServiceFactory,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::DefaultHeaders,
    web,
};
use serde::Deserialize;

use self::{
    refusal::Refusal,
    view::{Body, Detail, Found, Status, Steps},
};
use crate::{
    app::Idempotency,
    key::{Key, Principal, RecordId, record_id::RecordIds},
    middleware::ExemptIdempotencyKey,
    settings::{Mode, Scope, Settings},
    store::{Forgotten, Inspection, StoreError},
};

/// The page: one file that loads nothing else.
const PAGE: &str = include_str!("page.html");

impl Idempotency {
    /// A page for operators and the JSON that it shows. Mount it **behind an authorization of your own**: whoever
    /// reaches it sees stored responses and can free keys.
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
    /// | `GET records?cache=&limit=&after=&id=&state=&status=&replayed=` | a page of records; `id`: how it begins, as the log shows it; `state`: `in-flight`, `lapsed`, `lost`, `free`, `completed`, or `unfinished` for all but the last; `status`: a list such as `2xx,!204`; `next` goes on |
    /// | `GET records/{cache}/{id}?body=true` | one record; its body only when asked for |
    /// | `GET records/{cache}/{id}/steps` | the steps of an unfinished operation with their results |
    /// | `POST find` with `cache`, `key`, and `principal` or `authorization`, `method` and `path` with `scope = endpoint` | the record of a key; with `body: true` its whole response, which only the key opens with `encryption.mode = client` |
    /// | `POST principals/export` with `cache`, `principal` or `authorization`, and `after` | a page of the records of a principal, with their responses; `next` goes on |
    /// | `POST principals/forget` with `cache`, `principal` or `authorization`, and a `reason` | erases the records of a principal; the log says why |
    /// | `POST records/{cache}/{id}/forget` with a `reason` | frees the key; the log says why |
    ///
    /// Errors are problem+json. Requests need no key themselves; where an [`IdempotencyKey`](crate::IdempotencyKey)
    /// stands outside of an authorization that awaits, it can't see that, and needs an
    /// [`exempt`](crate::IdempotencyKey::exempt) pattern for this scope. A record on Redis is found by a look at all
    /// names there: these pages are for people, not for loops. They show the caches of this `Idempotency`: not a store
    /// that a wrap brought with it. A key is found as the settings of the process read and scope it, not as a wrap was
    /// configured.
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
            .route("/records", web::get().to(list::list))
            .route("/records/{cache}/{id}", web::get().to(show))
            .route("/records/{cache}/{id}/steps", web::get().to(steps))
            .route("/records/{cache}/{id}/forget", web::post().to(forget))
            .route("/find", web::post().to(find))
            .route("/principals/export", web::post().to(principals::export))
            .route("/principals/forget", web::post().to(principals::forget))
            // Operators' requests need no key where the App requires one.
            .wrap(ExemptIdempotencyKey::of_operators().using(self))
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

/// The cache that is asked for, or the one of wraps that name none.
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
    Ok(HttpResponse::Ok().json(detail(cache, &record, showing.body)?))
}

/// The steps with their results, which the record itself does not show.
async fn steps(
    idempotency: web::Data<Idempotency>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Refusal> {
    let (cache, id) = path.into_inner();
    let cache = cache_of(&idempotency, Some(&cache))?;
    let id = id_of(&id)?;
    idempotency.inspect(cache, &id).await?.ok_or_else(Refusal::absent)?;
    let steps = idempotency.steps(cache, &id).await?;
    Ok(HttpResponse::Ok().json(Steps::of(&steps)))
}

/// A record with its whole response, unless it is sealed.
fn detail<'a>(cache: &'a str, record: &Inspection, with_body: bool) -> Result<Detail<'a>, StoreError> {
    let opened = record.record.as_ref().filter(|record| !record.is_sealed());
    let response = opened.map(crate::record::Record::response).transpose()?;
    let body = response.as_ref().filter(|_| with_body).and_then(|response| response.body()).map(|body| Body::of(body));
    Ok(Detail::of(cache, record, response.as_ref(), body))
}

/// Whose key is looked for. It is sent in a body, because URLs are logged and a key must not be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    cache: Option<String>,
    key: String,
    principal: Option<String>,
    authorization: Option<String>,
    /// The headers with the credentials of a request for which no principal was named.
    #[serde(default)]
    credentials: BTreeMap<String, String>,
    method: Option<String>,
    path: Option<String>,
    /// Whether the whole response is shown, which only the key may open.
    #[serde(default)]
    body: bool,
}

/// On whose behalf requests ran.
struct Whose<'a> {
    principal: Option<&'a String>,
    authorization: Option<&'a String>,
    credentials: &'a BTreeMap<String, String>,
}

impl Whose<'_> {
    fn principal(&self, settings: &Settings) -> Result<Principal, Refusal> {
        let authorization = self.authorization.map(|value| (header::AUTHORIZATION.as_str(), value));
        let mut headers = HeaderMap::new();
        for (name, value) in self.credentials.iter().map(|(name, value)| (name.as_str(), value)).chain(authorization) {
            let line = HeaderName::try_from(name).ok().zip(HeaderValue::from_str(value).ok());
            let (name, line) = line.ok_or_else(|| Refusal::bad(&format!("`{name}` is no header with a value")))?;
            headers.append(name, line);
        }
        match self.principal {
            Some(_) if !headers.is_empty() => Err(Refusal::bad("principal or credentials, not both")),
            Some(subject) => Ok(Principal::new(subject.as_str())),
            None => Ok(Principal::of_credentials(&headers, &settings.credential_headers)),
        }
    }
}

async fn find(idempotency: web::Data<Idempotency>, finding: web::Json<Finding>) -> Result<HttpResponse, Refusal> {
    let settings = idempotency.settings();
    if !idempotency.shared().encoder.uses_key_only() {
        let why = format!(
            "the encoder `{}` makes more of a request than its key: find its record in the list",
            settings.encoder
        );
        return Err(Refusal::new(StatusCode::CONFLICT, &why));
    }
    let key = Key::parse(finding.key.as_bytes(), settings.syntax, settings.max_key_length);
    let key = key.map_err(|invalid| Refusal::bad(&invalid))?;
    let cache = cache_of(&idempotency, finding.cache.as_deref())?;
    let whose = Whose {
        principal: finding.principal.as_ref(),
        authorization: finding.authorization.as_ref(),
        credentials: &finding.credentials,
    };
    let principal = whose.principal(settings)?;
    let endpoint = match (settings.scope, &finding.method, &finding.path) {
        (Scope::Principal, ..) => None,
        (Scope::Endpoint, Some(method), Some(path)) => Some((method.as_str(), path.as_str())),
        (Scope::Endpoint, ..) => return Err(Refusal::bad("with scope = endpoint, method and path are needed too")),
    };
    let namespace = settings.cache(cache).map_or_else(String::new, |settings| settings.namespace);
    let id = RecordIds::new(&namespace, cache).of(&principal, key.as_str(), endpoint);
    // A wrap may be in another mode than the process.
    let stored = |mode| idempotency.stored_ids(mode).of(id);
    let (id, observed) = (stored(Mode::Enforce), stored(Mode::Observe));
    let mut found = match idempotency.inspect(cache, &id).await? {
        None => idempotency.inspect(cache, &observed).await?,
        found => found,
    };
    if let Some(record) = &mut found {
        let handle = idempotency.cache(cache).map_err(|error| Refusal::new(StatusCode::NOT_FOUND, &error))?;
        handle.open(key.as_str(), &principal, record);
    }
    let id = found.as_ref().map_or_else(|| stored(settings.mode), |record| record.id);
    let record = match &found {
        Some(record) if finding.body => Some(detail(cache, record, true)?),
        found => found.as_ref().map(|record| Detail::short(cache, record)),
    };
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
