//! The parts of an OpenAPI description that keys add to an API: the header, the refusals and the marks of a replay, as
//! the settings make them.
//!
//! [`components`] goes into the document once, [`operation`] into every operation. Both return JSON text of OpenAPI
//! 3.1, so that they fit into a document of any origin. A replay has the headers of the first response and those in
//! `components.headers`: refer to the latter in the operation's own responses, as `"Idempotent-Replayed": {"$ref":
//! "#/components/headers/Idempotent-Replayed"}`. With utoipa:
//!
//! ```
//! use actix_idempotency::{Policy, Settings, openapi};
//! use utoipa::{Modify, OpenApi, openapi::{Components, Response, RefOr, path::Operation}};
//!
//! #[derive(OpenApi)]
//! #[openapi(modifiers(&Keys), paths(pay))]
//! struct Api;
//!
//! #[utoipa::path(post, path = "/payments", responses((status = 201, description = "Paid")))]
//! async fn pay() {}
//!
//! struct Keys;
//!
//! impl Modify for Keys {
//!     fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
//!         let settings = Settings::ietf();
//!         let ours: Components = serde_json::from_str(&openapi::components(&settings)).expect("components");
//!         let all = api.components.get_or_insert_default();
//!         all.schemas.extend(ours.schemas);
//!         all.responses.extend(ours.responses);
//!         all.parameters.extend(ours.parameters);
//!         all.headers.extend(ours.headers);
//!         let more: Operation =
//!             serde_json::from_str(&openapi::operation(&settings, Policy::Required)).expect("an operation");
//!         let pay = api.paths.paths.get_mut("/payments").and_then(|path| path.post.as_mut()).expect("there it is");
//!         pay.parameters.get_or_insert_default().extend(more.parameters.unwrap_or_default());
//!         for (status, response) in more.responses.responses {
//!             // The API's own description of a status stays.
//!             pay.responses.responses.entry(status).or_insert(response);
//!         }
//!     }
//! }
//!
//! let document = Api::openapi().to_json()?;
//! assert!(document.contains("#/components/parameters/IdempotencyKey"));
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::collections::BTreeMap;

use actix_web::http::header::HeaderName;
use serde_json::{Map, Value, json};

use super::problem::{self, Problem, ProblemStyle, header_name};
use crate::{
    key::Syntax,
    policy::Policy,
    settings::{OnUnknown, Settings},
};

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
    json!({
        "parameters": {
            "IdempotencyKey": parameter(settings, true),
            "OptionalIdempotencyKey": parameter(settings, false),
        },
        "headers": headers(settings),
        "schemas": { "IdempotencyProblem": schema() },
        "responses": responses,
    })
    .to_string()
}

/// The `parameters` and `responses` that this policy adds to an operation. An exempt operation gets none.
#[must_use]
pub fn operation(settings: &Settings, policy: Policy) -> String {
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
    json!({
        "parameters": [{ "$ref": format!("#/components/parameters/{parameter}") }],
        "responses": responses,
    })
    .to_string()
}

fn parameter(settings: &Settings, required: bool) -> Value {
    let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    let bare = "[A-Za-z0-9._~+/-][A-Za-z0-9._~:/+=@-]*";
    let string = r#""([ !#-\[\]-~]|\\["\\])+"(;.*)?"#;
    let schema = match settings.syntax {
        // The limit counts the characters between the quotes, which a schema can't.
        Syntax::Strict => {
            json!({ "type": "string", "pattern": format!("^{string}$"), "examples": [format!("\"{uuid}\"")] })
        }
        Syntax::Lenient => json!({ "type": "string", "pattern": format!("^({string}|{bare})$"), "examples": [uuid] }),
        Syntax::Raw => {
            json!({ "type": "string", "pattern": "^[!-~]+$", "maxLength": settings.max_key_length, "examples": [uuid] })
        }
    };
    let most = settings.max_key_length;
    json!({
        "name": header_name(&settings.header),
        "in": "header",
        "required": required,
        "description": format!(
            "Unique to the operation, at most {most} characters, and not to be guessed: a random UUID. A request that is \
             sent again with the same key gets the first answer, and the operation does not run again."
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

fn schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457 problem details. Programs go by `type`.",
        "required": ["type", "title", "status"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
        },
    })
}

/// The problems that an operation can be refused with, by status.
fn refusals(settings: &Settings, policy: Policy) -> BTreeMap<u16, Vec<Problem>> {
    let style = ProblemStyle::of(settings);
    let mut problems = vec![
        Problem::InvalidKey(crate::key::InvalidKey::Blank),
        Problem::KeyReused,
        Problem::InFlight { grace: None },
        Problem::BodyTooLarge { limit: settings.max_request_body },
        Problem::StoreUnavailable,
        Problem::ShuttingDown,
    ];
    if matches!(policy, Policy::Required | Policy::Manual) {
        problems.insert(0, Problem::MissingKey);
    }
    if settings.on_unknown == OnUnknown::Reject {
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
    let mut headers = Map::new();
    if problems.iter().any(|problem| problem.retry_after().is_some()) {
        let schema = json!({ "type": "integer" });
        headers.insert("Retry-After".into(), json!({ "description": "Seconds to wait.", "schema": schema }));
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
        for name in settings.replay_header.iter().chain(&settings.expires_header).chain([&body]) {
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
