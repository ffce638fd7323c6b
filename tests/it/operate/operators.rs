//! The admin scope for operators (JSON, and a page that uses it), and metrics.

use serde_json::{Value, json};

use crate::common::{Reply, Request, Server, fresh_key};

pub(crate) fn get(server: &Server, path: &str) -> Reply {
    server.send(Request::get(&format!("/admin/{path}")))
}

fn post_json(server: &Server, path: &str, body: &Value) -> Reply {
    let request = Request::post(&format!("/admin/{path}")).header("Content-Type", "application/json");
    server.send(request.body(body.to_string()))
}

fn ids(page: &Value) -> Vec<&str> {
    page["records"].as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap()).collect()
}

/// Finds the record of a key, shows it and forgets it. Works with every store that the server may have.
pub(crate) fn a_record_is_found_shown_and_forgotten(server: &Server) {
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    for _ in 0..2 {
        assert!(server.post("/items", &key).is_replay());
    }

    let found: Value = post_json(server, "find", &json!({ "cache": "default", "key": key })).json();
    let id = found["id"].as_str().unwrap().to_owned();
    let record = &found["record"];
    assert_eq!((&record["state"], &record["attempt"], &record["replays"]), (&json!("completed"), &json!(1), &json!(2)));
    assert_eq!(record["owner"].as_str().unwrap().len(), 8);
    assert!(record["first_seen"].as_str().unwrap().ends_with("GMT") && record["last_seen"].is_string(), "{record}");
    let left = record["remaining_seconds"].as_u64().unwrap();
    assert!((24 * 3600 - 60..=24 * 3600).contains(&left), "{left}");
    assert_eq!(record["response"]["status"], 201);
    // The same key of another principal is a different key.
    let other: Value = post_json(server, "find", &json!({ "key": key, "principal": "alice" })).json();
    assert_eq!(other["record"], Value::Null);

    let one = format!("records/default/{id}");
    let shown: Value = get(server, &one).json();
    assert!(shown["response"].get("body").is_none(), "the body is only shown on request: {shown}");
    assert!(shown["response"]["headers"].as_array().unwrap().iter().any(|pair| pair[0] == "location"));
    let shown: Value = get(server, &format!("{one}?body=true")).json();
    assert_eq!(shown["response"]["body"]["encoding"], "utf-8");
    assert!(shown["response"]["body"]["data"].as_str().unwrap().contains(r#""n":1"#), "{shown}");
    // Inspecting a record does not count as a replay.
    assert_eq!(shown["replays"], 2);

    assert_eq!(post_json(server, &format!("{one}/forget"), &json!({ "reason": " " })).status, 400);
    let forgotten: Value = post_json(server, &format!("{one}/forget"), &json!({ "reason": "charged by phone" })).json();
    assert_eq!(forgotten, json!({ "forgotten": "removed" }));
    assert_eq!(get(server, &one).status, 404);
    assert_eq!(post_json(server, &format!("{one}/forget"), &json!({ "reason": "again" })).status, 404);
    assert_eq!(server.post("/items", &key).status, 201, "the key can run again");
}

#[test]
fn a_record_is_found_shown_and_forgotten_in_memory() {
    a_record_is_found_shown_and_forgotten(&Server::start(&[]));
}

#[test]
fn records_are_listed_in_pages_and_by_state() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__STORAGE__STORE_ON_STATUSES", "2xx,409")]);
    for n in 0..5 {
        assert_eq!(server.post("/items", &format!("k{n}")).status, 201);
    }
    assert!(server.post("/items", "k0").is_replay());
    assert_eq!(server.post("/status/409", "conflict").status, 409);
    let mut slow = server.connect();
    slow.write(&Request::post("/slow?ms=60000").key("slow").bytes());
    server.wait_for_runs("/slow", 1);

    let mut pages = Vec::new();
    let mut next = String::new();
    loop {
        let page: Value = get(&server, &format!("records?limit=3{next}")).json();
        pages.extend(ids(&page).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(id) => next = format!("&after={id}"),
            None => break,
        }
    }
    let mut sorted = pages.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((pages.len(), &pages), (7, &sorted), "each record once, in order of ids");

    // A record is found by the beginning of its id, which is what the log shows.
    for id in [&pages[0], &pages[3], &pages[6]] {
        let page: Value = get(&server, &format!("records?id={}", &id[..12])).json();
        assert_eq!(ids(&page), [id]);
    }

    let count = |filter: &str| ids(&get(&server, &format!("records?{filter}")).json()).len();
    assert_eq!(count("state=in-flight"), 1);
    assert_eq!(count("state=lost"), 0);
    assert_eq!(count("state=completed&status=2xx"), 5);
    assert_eq!(count("status=4xx"), 1);
    assert_eq!(count("replayed=true"), 1);

    let slow: Value = get(&server, "records?state=in-flight").json();
    let forgetting = format!("records/default/{}/forget", ids(&slow)[0]);
    assert_eq!(
        post_json(&server, &forgetting, &json!({ "reason": "impatience" })).status,
        409,
        "a live owner holds the claim"
    );
    let status: Value = get(&server, "status").json();
    assert_eq!((&status["running"], &status["mode"]), (&json!(1), &json!("enforce")));
    assert_eq!(status["caches"][0], json!({ "name": "a", "class": "memory" }));
}

#[test]
fn a_binary_body_is_shown_in_hex_and_an_omitted_one_not_at_all() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__STORAGE__MAX_RESPONSE_BODY", "300")]);
    for (size, shown) in [(256, json!("hex")), (400, Value::Null)] {
        let key = fresh_key();
        assert_eq!(server.post(&format!("/bytes?size={size}"), &key).status, 200);
        let found: Value = post_json(&server, "find", &json!({ "key": key })).json();
        let one: Value = get(&server, &format!("records/default/{}?body=true", found["id"].as_str().unwrap())).json();
        assert_eq!(one["response"]["body"]["encoding"], shown, "{one}");
        assert_eq!(one["response"]["body_bytes"].is_null(), shown.is_null());
    }
}

#[test]
fn invalid_requests_are_refused_with_a_problem() {
    let server = Server::start(&[]);
    let refused = |reply: Reply, status: u16, say: &str| {
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.value("content-type"), Some("application/problem+json"));
        assert_eq!(reply.value("cache-control"), Some("no-store"));
        let json: Value = reply.json();
        assert!(json["detail"].as_str().unwrap().contains(say), "{json}");
    };
    refused(get(&server, "records?state=owner-lost"), 400, "in-flight, lapsed, lost, free, completed, unfinished");
    refused(get(&server, "records?status=old"), 400, "status");
    refused(get(&server, "records?after=17"), 400, "64 hexadecimal digits");
    refused(get(&server, "records?limits=17"), 400, "limits");
    refused(get(&server, "records?cache=nowhere"), 404, "nowhere");
    refused(get(&server, "records?id=zz"), 400, "64 hexadecimal digits");
    refused(get(&server, &format!("records/default/{}", "0".repeat(64))), 404, "no such record");
    refused(post_json(&server, "find", &json!({})), 400, "key");
    refused(post_json(&server, "find", &json!({ "key": "a b" })), 400, "quoted");
    refused(
        post_json(&server, "find", &json!({ "key": "a", "principal": "p", "authorization": "a" })),
        400,
        "not both",
    );
    // Only JSON is taken, which an HTML form of another site can't send.
    let form = Request::post("/admin/find").header("Content-Type", "text/plain").body(r#"{"key":"a"}"#);
    refused(server.send(form), 415, "Content type");
    let django = Server::start(&[("IDEMPOTENCY_KEY__ENCODER", "django")]);
    refused(post_json(&django, "find", &json!({ "key": "a" })), 409, "django");
}

#[test]
fn with_scope_endpoint_a_key_is_found_by_method_and_path() {
    let server = Server::start(&[("IDEMPOTENCY_KEY__SCOPE", "endpoint")]);
    let key = fresh_key();
    assert_eq!(server.post("/items", &key).status, 201);
    assert_eq!(post_json(&server, "find", &json!({ "key": key })).status, 400);
    let at = |path: &str| -> Value {
        post_json(&server, "find", &json!({ "key": key, "method": "POST", "path": path })).json()
    };
    assert!(at("/items")["record"].is_object());
    assert!(at("/echo")["record"].is_null());
}

#[test]
fn the_page_is_where_the_scope_is_mounted() {
    let server = Server::start(&[]);
    for mount in ["/admin", "/admin/"] {
        let page = server.send(Request::get(mount));
        assert_eq!((page.status, page.value("content-type")), (200, Some("text/html; charset=utf-8")));
        assert!(page.value("content-security-policy").unwrap().contains("default-src 'none'"));
    }
}

#[cfg(feature = "metrics")]
mod metrics {
    use super::*;

    fn metric(server: &Server, line: &str) -> Option<f64> {
        let text = String::from_utf8(server.send(Request::get("/metrics")).body).unwrap();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).map(str::to_owned);
        value.map(|value| value.parse().unwrap())
    }

    #[test]
    fn prometheus_reads_the_outcomes_of_requests() {
        let server = Server::example("operators", &[]);
        let key = fresh_key();
        let pay = || server.post("/api/payments", &key);
        assert_eq!((pay().status, pay().status), (201, 409));
        assert_eq!(server.send(Request::post("/api/payments")).status, 400);
        let requests = |outcome: &str| {
            let labels = format!("outcome=\"{outcome}\",route=\"/api/payments\",mode=\"enforce\"");
            metric(&server, &format!("idempotency_requests_total{{{labels}}}"))
        };
        assert_eq!(requests("stored"), Some(1.0));
        assert_eq!(requests("replayed"), Some(1.0));
        assert_eq!(requests("missing-key"), Some(1.0));
        assert_eq!(metric(&server, "idempotency_in_flight"), Some(0.0));
        assert_eq!(metric(&server, r#"idempotency_store_seconds_count{cache="default",call="begin"}"#), Some(2.0));
        assert_eq!(metric(&server, r#"idempotency_store_seconds_count{cache="default",call="complete"}"#), Some(1.0));
        assert_eq!(metric(&server, "idempotency_stored_bytes_count"), Some(1.0));
        let text = String::from_utf8(server.send(Request::get("/metrics")).body).unwrap();
        assert!(text.contains("# HELP idempotency_requests_total"), "{text}");
        assert!(!text.contains(&key));
    }

    #[test]
    fn the_operators_pages_demand_credentials() {
        let server = Server::example("operators", &[("OPERATOR", "sesame")]);
        let records = |credentials: Option<&str>| {
            let request = Request::get("/ops/idempotency/records");
            server.send(match credentials {
                Some(credentials) => request.header("Authorization", credentials),
                None => request,
            })
        };
        assert_eq!(
            (records(None).status, records(None).value("www-authenticate")),
            (401, Some("Basic realm=\"operators\""))
        );
        assert_eq!(records(Some("Basic b3BlcmF0b3I6c2VjcmV0")).status, 401, "operator:secret");
        assert_eq!(records(Some("Basic b3BlcmF0b3I6c2VzYW1l")).status, 200, "operator:sesame");
    }

    /// Every metric of the dashboard exists, and every metric is on the dashboard.
    #[test]
    fn the_dashboard_shows_the_metrics_that_exist() {
        let board = include_str!("../../../docs/grafana.json");
        let _: Value = serde_json::from_str(board).unwrap();
        let source = include_str!("../../../src/observe/metrics.rs");
        let names: Vec<&str> = source.split('"').filter(|text| text.starts_with("idempotency_")).collect();
        let words = board.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("idempotency_")) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(names.contains(&base), "the dashboard shows {name}, which does not exist");
        }
        for name in names {
            assert!(board.contains(name), "the dashboard does not show {name}");
        }
    }
}
