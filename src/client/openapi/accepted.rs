//! Describes operations whose clients may prefer an answer at once.

use actix_web::http::Method;
use serde_json::{Value, json};

use super::{Settings, components};

/// Adds to an OpenAPI 3.1 document what [`respond_async`](crate::IdempotencyKey::respond_async) adds to its operations: the
/// parameter `Prefer`, the answer 202, and the path of look-ups, `operations.path` with the id of a record. Call it after
/// [`describe`](super::describe), whose components it refers to.
///
/// `is_async` says which operations are under such a wrap, by method and path.
///
/// ```
/// use actix_idempotency::{Policy, Settings, openapi};
///
/// let mut settings = Settings::ietf();
/// settings.operations.path = Some("/operations".into());
/// let mut document = serde_json::json!({ "paths": { "/reports": { "post": { "responses": {} } } } });
/// openapi::describe(&settings, &mut document, |_, _| Policy::Required);
/// openapi::describe_async(&settings, &mut document, |_, path| path == "/reports");
/// assert!(document["paths"]["/operations/{record}"]["get"].is_object());
/// ```
pub fn describe_async(settings: &Settings, document: &mut Value, is_async: impl Fn(&Method, &str) -> bool) {
    let Some(path) = &settings.operations.path else { return };
    if document["components"]["schemas"]["IdempotencyProblem"].is_null() {
        let parts: Value = serde_json::from_str(&components(settings)).unwrap_or_default();
        document["components"]["schemas"]["IdempotencyProblem"] = parts["schemas"]["IdempotencyProblem"].clone();
    }
    document["components"]["parameters"]["PreferAsync"] = json!({
        "name": "Prefer",
        "in": "header",
        "required": false,
        "description": "`respond-async`: 202 instead of waiting for the operation. `wait=10`: at most so many seconds.",
        "schema": { "type": "string", "examples": ["respond-async, wait=10"] },
    });
    document["components"]["responses"]["IdempotencyAccepted"] = json!({
        "description": "The operation goes on. `Location` leads to its answer.",
        "headers": {
            "Location": { "description": "Where the answer will be.", "schema": { "type": "string" } },
            "Retry-After": { "description": "Seconds to wait.", "schema": { "type": "integer" } },
            "Preference-Applied": { "description": "`respond-async`.", "schema": { "type": "string" } },
        },
    });
    let prefer = json!({ "$ref": "#/components/parameters/PreferAsync" });
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (name, operation) in item.as_object_mut().into_iter().flatten() {
            let Ok(method) = Method::from_bytes(name.to_ascii_uppercase().as_bytes()) else { continue };
            if !operation.is_object() || !is_async(&method, path) {
                continue;
            }
            match operation["parameters"].as_array_mut() {
                Some(own) => own.push(prefer.clone()),
                None => operation["parameters"] = json!([prefer]),
            }
            let accepted = &mut operation["responses"]["202"];
            if accepted.is_null() {
                *accepted = json!({ "$ref": "#/components/responses/IdempotencyAccepted" });
            }
        }
    }
    let problem = |description: &str| {
        let schema = json!({ "$ref": "#/components/schemas/IdempotencyProblem" });
        json!({ "description": description, "content": { "application/problem+json": { "schema": schema } } })
    };
    document["paths"][format!("{}/{{record}}", path.trim_end_matches('/'))]["get"] = json!({
        "summary": "The answer of an operation that was told to go on.",
        "parameters": [
            { "name": "record", "in": "path", "required": true, "schema": { "type": "string" } },
            prefer,
        ],
        "responses": {
            "default": { "description": "The answer of the operation, with its status, its headers and its body." },
            "202": { "description": "The operation runs.", "headers": {
                "Retry-After": { "description": "Seconds to wait.", "schema": { "type": "integer" } },
            } },
            "404": problem("Nothing is known of the operation, or it is another caller's."),
            "409": problem("`not-completed`: send the request again. `outcome-unknown`: its run was lost."),
        },
    });
}
