//! The documented contract of an API with its clients: OpenAPI descriptions, CORS headers and the expiry header.

use actix_idempotency::{
    Policy, Settings, cors,
    key::Syntax,
    openapi,
    settings::{BodyMode, OnUnknown},
};
use actix_web::{
    dev::ResourceDef,
    http::{Method, StatusCode},
};
use roas::{
    v3_1::spec::Spec,
    validation::{Options, Validate as _},
};
use serde_json::{Value, json};

use crate::common::{Request, Server, fresh_key};

fn document(settings: &Settings, policy: Policy) -> Value {
    let mut operation: Value = serde_json::from_str(&openapi::operation(settings, &Method::POST, policy)).unwrap();
    operation["responses"]["201"] = json!({ "description": "Paid" });
    operation["operationId"] = "pay".into();
    let components: Value = serde_json::from_str(&openapi::components(settings)).unwrap();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Payments", "version": "1" },
        "paths": { "/payments": { "post": operation } },
        "components": components,
    })
}

#[test]
fn an_operation_whose_client_may_look_its_answer_up_is_described() {
    let mut settings = Settings::default();
    let paths = json!({ "/reports": { "post": { "responses": {} } }, "/items": { "post": { "responses": {} } } });
    let info = json!({ "title": "t", "version": "1" });
    let empty = json!({ "openapi": "3.1.0", "info": info, "paths": paths });
    let mut document = empty.clone();
    openapi::describe_async(&settings, &mut document, |_, _| true);
    assert_eq!(document, empty, "nobody can look anything up");
    settings.operations.path = Some("/operations/".into());
    openapi::describe(&settings, &mut document, |_, _| Policy::Required);
    openapi::describe_async(&settings, &mut document, |_, path| path == "/reports");
    let spec: Spec = serde_json::from_value(document.clone()).unwrap();
    let lenient = Options::IgnoreUnusedParameters
        | Options::IgnoreUnusedResponses
        | Options::IgnoreUnusedHeaders
        | Options::IgnoreUnusedSchemas;
    spec.validate(lenient, None).unwrap_or_else(|error| panic!("{error}\n{document:#}"));
    assert!(document["paths"]["/reports"]["post"]["responses"]["202"].is_object());
    assert!(document["paths"]["/items"]["post"]["responses"]["202"].is_null());
    assert!(document["paths"]["/operations/{record}"]["get"]["responses"]["409"].is_object());
}

#[test]
fn the_description_is_valid_for_every_profile_and_policy() {
    let mut streaming = Settings::default();
    streaming.body = BodyMode::Stream;
    assert!(openapi::components(&streaming).contains("wrong-digest"));
    for mut settings in [Settings::default(), Settings::ietf(), Settings::stripe(), streaming] {
        settings.expires_header = Some("idempotency-expires".parse().unwrap());
        settings.on_unknown = OnUnknown::Reject;
        settings.limits.fresh_per_principal = "600/m".parse().ok();
        settings.fingerprint.differences = true;
        for policy in [Policy::Required, Policy::Optional, Policy::Manual, Policy::OptionalManual, Policy::Exempt] {
            let document = document(&settings, policy);
            let spec: Spec = serde_json::from_value(document.clone()).unwrap();
            // The components serve every policy. This operation uses only some of them.
            let lenient = Options::IgnoreUnusedParameters
                | Options::IgnoreUnusedResponses
                | Options::IgnoreUnusedHeaders
                | Options::IgnoreUnusedSchemas;
            spec.validate(lenient, None).unwrap_or_else(|error| panic!("{policy:?}: {error}\n{document:#}"));
        }
    }
    let exempt = document(&Settings::default(), Policy::Exempt);
    assert_eq!(exempt["paths"]["/payments"]["post"]["responses"].as_object().unwrap().len(), 1);
}

/// The OpenAPI components describe each problem under the status and the type with which the server sends it.
#[test]
fn every_refusal_is_described() {
    for (profile, settings) in
        [("default", Settings::default()), ("ietf", Settings::ietf()), ("stripe", Settings::stripe())]
    {
        let server = Server::start(&[
            ("IDEMPOTENCY_KEY__PROFILE", profile),
            ("IDEMPOTENCY_KEY__MAX_REQUEST_BODY", "100"),
            ("IDEMPOTENCY_KEY__LOCK__TIMEOUT", "0"),
        ]);
        let key = fresh_key();
        let mut running = server.connect();
        running.write(&Request::post("/slow?ms=60000").key(&key).bytes());
        server.wait_for_runs("/slow", 1);
        let components: Value = serde_json::from_str(&openapi::components(&settings)).unwrap();
        for request in [
            Request::post("/items"),
            Request::post("/items").key("a b\u{e4}"),
            Request::post("/items").key(&key),
            Request::post("/slow?ms=60000").key(&key),
            Request::post("/items").key(&fresh_key()).body(vec![0; 101]),
        ] {
            let reply = server.send(request);
            let problem: Value = reply.json();
            let name = problem["type"].as_str().unwrap().rsplit('/').next().unwrap();
            let response = &components["responses"][format!("Idempotency{}", reply.status)];
            let example = &response["content"]["application/problem+json"]["examples"][name]["value"];
            assert_eq!(
                (&example["type"], &example["title"]),
                (&problem["type"], &problem["title"]),
                "{profile}: {name}"
            );
            assert_eq!(
                response["headers"].get("Retry-After").is_some(),
                reply.value("retry-after").is_some() || reply.status == 409
            );
        }
    }
}

#[test]
fn a_missing_key_is_described_under_its_own_status() {
    let mut settings = Settings::default();
    settings.missing_key_status_code = StatusCode::PRECONDITION_REQUIRED;
    let problems = |status: &str, policy| {
        let document = document(&settings, policy);
        let name = document["paths"]["/payments"]["post"]["responses"][status]["$ref"].as_str()?.rsplit('/').next()?;
        let content = &document["components"]["responses"][name]["content"]["application/problem+json"];
        Some(content["examples"].as_object()?.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(problems("428", Policy::Required).unwrap(), ["missing-key"]);
    assert_eq!(problems("400", Policy::Required).unwrap(), ["invalid-key"]);
    assert_eq!(problems("428", Policy::Optional), None);
}

/// A document with one path, described by `describe`.
fn described(settings: &Settings, item: Value) -> Value {
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": "Payments", "version": "1" },
        "paths": { "/payments": item },
        "components": { "responses": { "Bad": { "description": "The amount is negative" } } },
    });
    openapi::describe(settings, &mut document, |_, _| Policy::Required);
    let spec: Spec = serde_json::from_value(document.clone()).unwrap();
    let lenient = Options::IgnoreUnusedParameters
        | Options::IgnoreUnusedResponses
        | Options::IgnoreUnusedHeaders
        | Options::IgnoreUnusedSchemas;
    spec.validate(lenient, None).unwrap_or_else(|error| panic!("{error}\n{document:#}"));
    document["paths"]["/payments"].take()
}

#[test]
fn an_operation_keeps_its_own_description_of_a_status_beside_the_refusals() {
    let content = json!({ "application/json": { "schema": { "type": "object" } } });
    let own = json!({ "description": "The amount is negative", "content": content });
    for own in [own, json!({ "$ref": "#/components/responses/Bad" })] {
        let operation = json!({ "responses": { "201": { "description": "Paid" }, "400": own } });
        let item = described(&Settings::ietf(), json!({ "post": operation }));
        let responses = &item["post"]["responses"];
        assert_eq!(responses["201"], json!({ "description": "Paid" }));
        assert_eq!(responses["400"]["description"], "The amount is negative");
        assert_eq!(responses["400"]["content"]["application/json"], own["content"]["application/json"]);
        let problem = &responses["400"]["content"]["application/problem+json"];
        assert_eq!(problem["schema"]["$ref"], "#/components/schemas/IdempotencyProblem", "{item:#}");
        assert_eq!(responses["422"]["$ref"], "#/components/responses/Idempotency422");
    }
}

#[test]
fn where_a_method_needs_no_key_its_key_is_described_as_optional() {
    let operation = json!({ "responses": { "200": { "description": "Done" } } });
    let item = described(
        &Settings::stripe(),
        json!({ "post": operation, "patch": operation, "get": operation, "summary": "Payments" }),
    );
    assert_eq!(item["post"]["parameters"][0]["$ref"], "#/components/parameters/IdempotencyKey");
    assert_eq!(item["patch"]["parameters"][0]["$ref"], "#/components/parameters/OptionalIdempotencyKey");
    assert_eq!(item["patch"]["responses"]["400"]["$ref"], "#/components/responses/OptionalIdempotency400");
    assert_eq!(item["get"], operation, "a safe method has no key");
}

/// Whether a key matches the description. The router's patterns are regular expressions, too.
fn is_described(schema: &Value, key: &str) -> bool {
    let one_of = schema["anyOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    one_of.iter().any(|schema| {
        let pattern = schema["pattern"].as_str().unwrap();
        let inner = pattern.strip_prefix('^').and_then(|pattern| pattern.strip_suffix('$')).unwrap();
        ResourceDef::new(format!("/{{key:{inner}}}")).is_match(&format!("/{key}"))
    })
}

#[test]
fn a_key_that_is_described_is_accepted() {
    let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    let quoted = format!("\"{uuid}\"");
    let texts = [
        uuid,
        quoted.as_str(),
        "",
        " ",
        "   ",
        "\"\"",
        "\"  \"",
        "\" a \"",
        "\"open",
        "a b",
        "a;b",
        "\"k\";###",
        "\"k\";",
        "\"k\" x",
        "\"a\\\"b\"",
        "\"a\\b\"",
        "=x",
        ":x",
        "a=",
        "a,b",
    ];
    for (name, syntax) in
        [("strict", Syntax::Strict), ("lenient", Syntax::Lenient), ("raw", Syntax::Raw), ("any", Syntax::Any)]
    {
        let server = Server::start(&[("IDEMPOTENCY_KEY__SYNTAX", name)]);
        let mut settings = Settings::default();
        settings.syntax = syntax;
        let components: Value = serde_json::from_str(&openapi::components(&settings)).unwrap();
        let schema = &components["parameters"]["IdempotencyKey"]["schema"];
        for text in texts {
            // Optional whitespace around a value belongs to HTTP.
            let is_accepted = server.post("/items", text).status != 400;
            assert!(is_accepted || !is_described(schema, text), "{name}: {text:?} is described, and refused");
        }
        assert!(is_described(schema, if syntax == Syntax::Strict { &quoted } else { uuid }), "{name}");
        if matches!(syntax, Syntax::Strict | Syntax::Lenient) {
            for rubbish in ["\"k\";###", "\"  \"", "   ", ""] {
                assert!(!is_described(schema, rubbish), "{name}: {rubbish:?}");
            }
        }
    }
}

#[test]
fn a_rate_of_new_operations_is_described_where_there_is_one() {
    let mut settings = Settings::ietf();
    assert!(document(&settings, Policy::Required)["components"]["responses"]["Idempotency429"].is_null());
    settings.limits.fresh_per_principal = "600/m".parse().ok();
    let document = document(&settings, Policy::Required);
    let described = &document["components"]["responses"]["Idempotency429"];
    assert!(described["description"].as_str().unwrap().contains("`too-many-keys`"), "{described}");
    assert!(described["headers"]["Retry-After"].is_object(), "{described}");
}

#[test]
fn the_cors_lists_name_the_headers_of_the_settings() {
    let settings = Settings::default();
    assert_eq!(cors::ALLOW_HEADERS, [settings.header[0].as_str(), "prefer"]);
    assert!(cors::EXPOSE_HEADERS.contains(&settings.replay_header.unwrap().as_str()));
}

/// A client that can't read it takes a replayed failure for a success.
#[test]
fn the_header_with_the_first_status_is_described_and_exposed_to_scripts() {
    for (settings, is_described) in [(Settings::default(), true), (Settings::ietf(), false)] {
        let name = settings.original_status_header.clone().unwrap();
        assert!(cors::EXPOSE_HEADERS.contains(&name.as_str()));
        let document = document(&settings, Policy::Required);
        let described = &document["components"]["headers"]["Idempotent-Status"];
        assert_eq!(described.is_object(), is_described, "{document:#}");
        let replay = &document["components"]["responses"]["Idempotency409"]["headers"]["Idempotent-Status"];
        assert_eq!(replay.is_object(), is_described, "{document:#}");
    }
}

#[test]
fn a_response_says_until_when_it_is_kept() {
    let server = Server::start(&[
        ("IDEMPOTENCY_KEY__EXPIRES_HEADER", "Idempotency-Expires"),
        ("IDEMPOTENCY_KEY__STORAGE__TTL", "1h"),
    ]);
    let key = fresh_key();
    let expires = |reply: &crate::common::Reply| {
        let date = reply.value("idempotency-expires").expect("an expiry").to_owned();
        let date: actix_web::http::header::HttpDate = date.parse().expect("a date");
        std::time::SystemTime::from(date)
    };
    let now = std::time::SystemTime::now();
    let first = expires(&server.post("/items", &key));
    let left = first.duration_since(now).unwrap().as_secs();
    assert!((3590..=3660).contains(&left), "{left}");
    let again = expires(&server.post("/items", &key));
    let apart = again.duration_since(first).unwrap_or_else(|error| error.duration()).as_secs();
    assert!(apart <= 1, "a replay does not prolong the record: {apart}");
    // The head of a streamed response has the expiry although the stream has not ended.
    let stream = server.post("/stream?chunks=2&size=3&delay_ms=1", &fresh_key());
    assert!(expires(&stream) > now);
    // A response that is not stored has no expiry.
    assert_eq!(server.post("/status/500", &fresh_key()).value("idempotency-expires"), None);
}
