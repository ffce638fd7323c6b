//! The records of one principal: exported, or erased.

use std::collections::BTreeMap;

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::{Whose, cache_of, detail, id_of, refusal::Refusal, view::Export};
use crate::{app::Idempotency, key::Principal};

/// The records of a page: they come with their responses.
const AT_ONCE: usize = 50;

/// Whose records are meant. Sent in a body, because URLs are logged and credentials must not be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exporting {
    cache: Option<String>,
    principal: Option<String>,
    authorization: Option<String>,
    #[serde(default)]
    credentials: BTreeMap<String, String>,
    after: Option<String>,
}

pub(super) async fn export(
    idempotency: web::Data<Idempotency>,
    exporting: web::Json<Exporting>,
) -> Result<HttpResponse, Refusal> {
    let Exporting { cache, principal, authorization, credentials, after } = &*exporting;
    let cache = cache_of(&idempotency, cache.as_deref())?;
    let principal = named(&idempotency, principal.as_ref(), authorization.as_ref(), credentials)?;
    let after = after.as_deref().map(id_of).transpose()?;
    let found = idempotency.records_of_principal(cache, &principal, after, AT_ONCE).await?;
    let next = found.last().map(|record| record.id.to_string());
    let records = found.iter().map(|record| detail(cache, record, true)).collect::<Result<_, _>>()?;
    Ok(HttpResponse::Ok().json(Export { records, next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forgetting {
    cache: Option<String>,
    principal: Option<String>,
    authorization: Option<String>,
    #[serde(default)]
    credentials: BTreeMap<String, String>,
    reason: String,
}

pub(super) async fn forget(
    request: HttpRequest,
    idempotency: web::Data<Idempotency>,
    forgetting: web::Json<Forgetting>,
) -> Result<HttpResponse, Refusal> {
    let Forgetting { cache, principal, authorization, credentials, reason } = &*forgetting;
    let cache = cache_of(&idempotency, cache.as_deref())?;
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(Refusal::bad("a reason is needed"));
    }
    let principal = named(&idempotency, principal.as_ref(), authorization.as_ref(), credentials)?;
    let by = request.extensions().get::<Principal>().and_then(|principal| principal.subject().map(str::to_owned));
    let erased = idempotency.forget_principal(cache, &principal).await?;
    // The log names no principal: it is to be erased there too.
    tracing::warn!(
        cache,
        removed = erased.removed,
        in_flight = erased.in_flight.len(),
        reason,
        by,
        "the records of a principal were forgotten: their keys can run again"
    );
    let in_flight: Vec<String> = erased.in_flight.iter().map(ToString::to_string).collect();
    Ok(HttpResponse::Ok().json(serde_json::json!({ "removed": erased.removed, "in_flight": in_flight })))
}

/// The principal that is meant. An anonymous one is refused.
fn named(
    idempotency: &Idempotency,
    principal: Option<&String>,
    authorization: Option<&String>,
    credentials: &BTreeMap<String, String>,
) -> Result<Principal, Refusal> {
    let principal = Whose { principal, authorization, credentials }.principal(idempotency.settings())?;
    if principal.is_anonymous() {
        return Err(Refusal::bad("a principal, or credentials, are needed: nothing tells anonymous requests apart"));
    }
    Ok(principal)
}
