//! What keys add to the OpenAPI description of an API: the header, the refusals and the marks of a replay, as the settings
//! make them.
//!
//! [`describe`] adds it to a whole document, whatever library made that. With utoipa:
//!
//! ```
//! use actix_idempotency::{Policy, Settings, openapi};
//! use utoipa::OpenApi;
//!
//! #[derive(OpenApi)]
//! #[openapi(paths(pay))]
//! struct Api;
//!
//! #[utoipa::path(post, path = "/payments", responses((status = 201, description = "Paid")))]
//! async fn pay() {}
//!
//! let settings = Settings::ietf();
//! let mut document = serde_json::to_value(Api::openapi())?;
//! openapi::describe(&settings, &mut document, |_method, path| match path {
//!     "/webhooks" => Policy::Exempt,
//!     _ => Policy::Required,
//! });
//!
//! let pay = &document["paths"]["/payments"]["post"];
//! assert_eq!(pay["parameters"][0]["$ref"], "#/components/parameters/IdempotencyKey");
//! assert_eq!(pay["responses"]["422"]["$ref"], "#/components/responses/Idempotency422");
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! [`components`] and [`operation`] are the parts, as JSON text, for documents that are put together in another way.

mod accepted;

use std::{collections::BTreeMap, time::Duration};

use actix_web::http::{Method, header::HeaderName};
use serde_json::{Map, Value, json};

use super::problem::{self, Problem, ProblemStyle};
use crate::{
    key::{Syntax, header_name},
    policy::Policy,
    settings::{BodyMode, KeySource, OnUnknown, Settings, is_safe},
};

pub use self::accepted::describe_async;

/// Adds to an OpenAPI 3.1 document what keys add to its operations.
///
/// `policy` returns the policy of an operation, by its method and the path in the document. Where an operation has its own
/// description of a status already, it keeps it, and gets the refusals as `application/problem+json` beside.
pub fn describe(settings: &Settings, document: &mut Value, policy: impl Fn(&Method, &str) -> Policy) {
    let parts: Value = serde_json::from_str(&components(settings)).unwrap_or_default();
    for (kind, parts) in parts.as_object().into_iter().flatten() {
        for (name, part) in parts.as_object().into_iter().flatten() {
            document["components"][kind][name] = part.clone();
        }
    }
    let described = document["components"]["responses"].clone();
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (name, operation) in item.as_object_mut().into_iter().flatten() {
            // An item has other members than operations, too.
            let Ok(method) = Method::from_bytes(name.to_ascii_uppercase().as_bytes()) else { continue };
            if !matches!(method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE") || !operation.is_object() {
                continue;
            }
            add_to_operation(operation, settings, &method, policy(&method, path), &described);
        }
    }
}

fn add_to_operation(operation: &mut Value, settings: &Settings, method: &Method, policy: Policy, described: &Value) {
    let more: Value = serde_json::from_str(&self::operation(settings, method, policy)).unwrap_or_default();
    if let Some(parameters) = more["parameters"].as_array().filter(|parameters| !parameters.is_empty()) {
        match operation["parameters"].as_array_mut() {
            Some(own) => own.extend(parameters.iter().cloned()),
            None => operation["parameters"] = Value::from(parameters.clone()),
        }
    }
    let named = |response: &Value| {
        let name = response["$ref"].as_str()?.strip_prefix("#/components/responses/")?;
        Some(described[name].clone())
    };
    for (status, response) in more["responses"].as_object().into_iter().flatten() {
        let own = &mut operation["responses"][status];
        if own.is_null() {
            *own = response.clone();
            continue;
        }
        // A reference can't have members beside, so what it names takes its place.
        if let Some(resolved) = named(own) {
            *own = resolved;
        }
        for (member, values) in named(response).unwrap_or_default().as_object().into_iter().flatten() {
            for (name, value) in values.as_object().into_iter().flatten() {
                if own[member][name].is_null() {
                    own[member][name] = value.clone();
                }
            }
        }
    }
}

/// The `components` of a document: parameters `IdempotencyKey` and `OptionalIdempotencyKey`, the schema
/// `IdempotencyProblem`, responses `Idempotency400` and so on (`OptionalIdempotency400` where a policy has less to
/// say), and the headers of a replay.
#[must_use]
pub fn components(settings: &Settings) -> String {
    let mut responses = Map::new();
    for policy in [Policy::Optional, Policy::OptionalManual, Policy::Manual, Policy::Required] {
        for (status, problems) in refusals(settings, policy) {
            responses.insert(name_of(settings, status, policy), response(settings, status, &problems, policy));
        }
    }
    let mut parameters = Map::new();
    if is_parameter(settings) {
        parameters.insert("IdempotencyKey".into(), parameter(settings, true));
        parameters.insert("OptionalIdempotencyKey".into(), parameter(settings, false));
    }
    json!({
        "parameters": parameters,
        "headers": headers(settings),
        "schemas": { "IdempotencyProblem": schema(settings) },
        "responses": responses,
    })
    .to_string()
}

/// The `parameters` and `responses` that this policy adds to an operation of this method. An exempt operation gets none, and
/// neither does one of a safe method. Where the setting `methods` does not name the method, its key is optional. With `body =
/// stream` the operation takes a `Content-Digest` too.
#[must_use]
pub fn operation(settings: &Settings, method: &Method, policy: Policy) -> String {
    let policy = match policy {
        _ if is_safe(method) => Policy::Exempt,
        Policy::Required if !settings.methods.need_key(method) => Policy::Optional,
        Policy::Manual if !settings.methods.need_key(method) => Policy::OptionalManual,
        policy => policy,
    };
    let parameter = match policy {
        Policy::Exempt => return json!({ "parameters": [], "responses": {} }).to_string(),
        Policy::Required | Policy::Manual => "IdempotencyKey",
        Policy::Optional | Policy::OptionalManual => "OptionalIdempotencyKey",
    };
    let responses: Map<String, Value> = refusals(settings, policy)
        .into_keys()
        .map(|status| {
            let name = name_of(settings, status, policy);
            (status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }))
        })
        .collect();
    let reference = || json!({ "$ref": format!("#/components/parameters/{parameter}") });
    let digest = (settings.body == BodyMode::Stream).then(content_digest);
    let parameters: Vec<Value> = is_parameter(settings).then(reference).into_iter().chain(digest).collect();
    json!({
        "parameters": parameters,
        "responses": responses,
    })
    .to_string()
}

fn content_digest() -> Value {
    json!({
        "name": "Content-Digest",
        "in": "header",
        "required": false,
        "description": "The SHA-256 of the body (RFC 9530). A body with another one is refused.",
        "schema": { "type": "string", "examples": ["sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"] },
    })
}

/// Whether the key can be a parameter: bodies have none. The descriptions of refusals say where else it may be.
fn is_parameter(settings: &Settings) -> bool {
    let in_query = settings.key_sources.iter().any(|source| matches!(source, KeySource::Query(_)));
    in_query || !settings.key_headers().is_empty()
}

fn parameter(settings: &Settings, required: bool) -> Value {
    let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    let most = settings.max_key_length;
    // A blank key is refused. Parameters after the String are accepted, and are not worth describing.
    let string = r#"^" *([!#-\[\]-~]|\\["\\])([ !#-\[\]-~]|\\["\\])*"$"#;
    let bare = "^[A-Za-z0-9._~+/-][A-Za-z0-9._~:/+=@-]*$";
    let quoted = json!({ "pattern": string, "maxLength": most.saturating_add(2), "examples": [format!("\"{uuid}\"")] });
    let plain = json!({ "pattern": "^[!-~]([ -~]*[!-~])?$", "maxLength": most, "examples": [uuid] });
    let schema = match settings.syntax {
        // A key that is not in a header is not quoted.
        _ if settings.key_headers().is_empty() => plain,
        Syntax::Strict => quoted,
        Syntax::Lenient => json!({ "anyOf": [{ "pattern": bare, "maxLength": most }, quoted], "examples": [uuid] }),
        Syntax::Raw | Syntax::Any => plain,
    };
    let mut schema = schema;
    schema["type"] = "string".into();
    let headers = settings.key_headers();
    let in_query = settings.key_sources.iter().find_map(|source| match source {
        KeySource::Query(field) => Some(field.clone()),
        _ => None,
    });
    let (name, place) = match (headers.first(), in_query) {
        (Some(header), _) => (header_name(header), "header"),
        (None, Some(field)) => (field, "query"),
        (None, None) => return Value::Null,
    };
    // Where one of several places may have the key, none of them is required.
    let is_only = settings.key_sources.len().max(headers.len()) == 1;
    let places = if is_only { String::new() } else { format!(" It is sent as {}.", settings.key_places()) };
    json!({
        "name": name,
        "in": place,
        "required": required && is_only,
        "description": format!(
            "Unique to the operation, at most {most} characters, and not to be guessed: a random UUID. A request that is \
             sent again with the same key gets the first answer, and the operation does not run again.{places}"
        ),
        "schema": schema,
    })
}

fn headers(settings: &Settings) -> Value {
    let mut headers = Map::new();
    let mut add = |name: &HeaderName, description: &str, schema: Value| {
        headers.insert(header_name(name), json!({ "description": description, "schema": schema }));
    };
    if let Some(name) = &settings.replay_header {
        add(name, "Marks the stored answer to an earlier request.", json!({ "type": "string", "const": "true" }));
    }
    if let (Some(name), Some(_)) = (&settings.original_status_header, settings.conflict_status_code) {
        add(name, "On a replay: the status of the first answer.", json!({ "type": "integer" }));
    }
    for name in &settings.should_retry_headers {
        add(name, "Whether to send the request again.", json!({ "type": "string", "enum": ["true", "false"] }));
    }
    if let Some(name) = &settings.expires_header {
        add(name, "Until when a stored answer is kept, as an HTTP date.", json!({ "type": "string" }));
    }
    add(
        &HeaderName::from_static("idempotency-body"),
        "On a replay: the body was not kept, since it was too large.",
        json!({ "type": "string", "const": "omitted" }),
    );
    Value::Object(headers)
}

fn schema(settings: &Settings) -> Value {
    let mut schema = json!({
        "type": "object",
        "description": "RFC 9457 problem details. Programs go by `type`.",
        "required": ["type", "title", "status"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "error": {
                "type": "object",
                "description": "The same for clients written for Stripe, in profile `stripe`.",
                "properties": {
                    "type": { "type": "string", "enum": ["idempotency_error", "api_error", "invalid_request_error"] },
                    "code": { "type": "string" },
                    "message": { "type": "string" },
                },
            },
        },
    });
    if settings.fingerprint.differences {
        schema["properties"]["differences"] = json!({
            "type": "array",
            "description": "With `key-reused`: JSON pointers to the members of the body that the first request had otherwise, \
                            or did not have.",
            "items": { "type": "string" },
        });
    }
    schema
}

/// The problems that an operation can be refused with, by status.
fn refusals(settings: &Settings, policy: Policy) -> BTreeMap<u16, Vec<Problem>> {
    let style = ProblemStyle::of(settings);
    let mut problems = vec![
        Problem::InvalidKey(crate::key::InvalidKey::Blank),
        Problem::KeyReused,
        Problem::InFlight { grace: None },
        Problem::BodyTimeout { has_begun: settings.body == BodyMode::Stream },
        Problem::StoreUnavailable,
        Problem::ShuttingDown,
    ];
    match settings.body {
        BodyMode::Buffer => problems.push(Problem::BodyTooLarge { limit: settings.max_request_body }),
        BodyMode::Stream => problems.extend([Problem::InvalidDigest, Problem::WrongDigest]),
    }
    if matches!(policy, Policy::Required | Policy::Manual) {
        problems.insert(0, Problem::MissingKey);
    }
    if settings.limits.fresh_per_principal.is_some() {
        problems.push(Problem::TooManyKeys { wait: Duration::ZERO });
    }
    if settings.on_unknown != OnUnknown::Rerun {
        problems.push(Problem::OutcomeUnknown);
    }
    let mut by_status = BTreeMap::<u16, Vec<Problem>>::new();
    for problem in problems {
        by_status.entry(problem.status(&style).as_u16()).or_default().push(problem);
    }
    // A replay may have another status than the first response, with the same body.
    if let Some(status) = settings.conflict_status_code
        && replays(settings, status.as_u16(), policy)
    {
        by_status.entry(status.as_u16()).or_default();
    }
    by_status
}

/// The name of a response: `Idempotency400`. Where a policy has other problems under a status than `Required`, the name
/// starts with the policy.
fn name_of(settings: &Settings, status: u16, policy: Policy) -> String {
    let says = |policy| {
        refusals(settings, policy).remove(&status).map(|problems| (problems, replays(settings, status, policy)))
    };
    let before = match policy {
        policy if says(policy) == says(Policy::Required) => "",
        Policy::Manual => "Manual",
        Policy::OptionalManual => "OptionalManual",
        _ => "Optional",
    };
    format!("{before}Idempotency{status}")
}

/// Whether a replay has this status instead of the original one. A manual handler answers itself.
fn replays(settings: &Settings, status: u16, policy: Policy) -> bool {
    settings.conflict_status_code.is_some_and(|replay| replay.as_u16() == status)
        && !matches!(policy, Policy::Manual | Policy::OptionalManual)
}

fn response(settings: &Settings, status: u16, problems: &[Problem], policy: Policy) -> Value {
    let named = problems.iter().filter_map(|problem| Some((problem.name()?, problem.title())));
    let mut says: Vec<String> = named.map(|(name, title)| format!("`{name}`: {title}.")).collect();
    if !settings.key_sources.is_empty()
        && problems.iter().any(|p| matches!(p, Problem::MissingKey | Problem::InvalidKey(_)))
    {
        says.push(format!("The key is sent as {}.", settings.key_places()));
    }
    let mut headers = Map::new();
    if problems.iter().any(|problem| problem.retry_after().is_some()) {
        let schema = json!({ "type": "integer" });
        headers.insert("Retry-After".into(), json!({ "description": "Seconds to wait.", "schema": schema }));
    }
    for name in &settings.should_retry_headers {
        let name = header_name(name);
        headers.insert(name.clone(), json!({ "$ref": format!("#/components/headers/{name}") }));
    }
    let mut content = Map::new();
    if !problems.is_empty() {
        content.insert(
            "application/problem+json".into(),
            json!({
                "schema": { "$ref": "#/components/schemas/IdempotencyProblem" },
                "examples": problems.iter().filter_map(|problem| Some((problem.name()?.to_owned(), json!({
                    "value": {
                        "type": format!("{}{}", problem::TYPE_BASE, problem.name()?),
                        "title": problem.title(),
                        "status": status,
                    },
                })))).collect::<Map<_, _>>(),
            }),
        );
    }
    if replays(settings, status, policy) {
        says.push("A replay: the headers and the body of the first answer.".into());
        let body = HeaderName::from_static("idempotency-body");
        let marks = settings.replay_header.iter().chain(&settings.original_status_header);
        for name in marks.chain(&settings.expires_header).chain([&body]) {
            let name = header_name(name);
            headers.insert(name.clone(), json!({ "$ref": format!("#/components/headers/{name}") }));
        }
    }
    let mut response = json!({ "description": says.join(" ") });
    for (field, value) in [("headers", headers), ("content", content)] {
        if !value.is_empty() {
            response[field] = Value::Object(value);
        }
    }
    response
}
